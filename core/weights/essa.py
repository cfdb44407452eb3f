"""Names in the authors' checkpoints of ESSAformer, and ours: rules for ``rename``."""

ESSA_NAMES: list[tuple[str, str | None]] = [(r"\blnqkv\.", "qkv."), (r"\bln\.", "proj.")]
