"""Names in the authors' checkpoints of VSSD, and ours: rules for ``rename``."""

# They serve the whole model, a block and the mixer alone. The head is left out: a backbone has none.
VSSD_NAMES: list[tuple[str, str | None]] = [
    (r"^head\.", None),
    (r"\binit_states$", None),  # created by an option of the authors' mixer, but never read
    (r"^patch_embed\.", "stem."),
    (r"^layers\.(\d+)\.blocks\.", r"stages.\1."),
    (r"^layers\.(\d+)\.downsample\.", r"downs.\1."),
    (r"\bcpe([12])\.", r"position\1.conv."),
    (r"\bmlp\.", "channel_mixer."),
    (r"\battn\.", "mixer."),
    (r"\bconv2d\.", "conv."),
    (r"\bto_qkv\.", "qkv."),
    (r"\bto_out\.", "proj."),
]
