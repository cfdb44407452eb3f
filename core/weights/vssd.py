"""Names in the authors' checkpoints of VSSD and ESSAformer, and ours: rules for ``rename``."""

VSSD_MIXER_NAMES: list[tuple[str, str | None]] = [(r"\bconv2d\.", "conv."), (r"\binit_states$", None)]
