"""Swin UNETR's published checkpoints and MONAI's into our network, and back."""

from .loading import LoadedSwinUNETR, load_encoder, load_swin_unetr
from .provenance import MergingOrder, SwinCheckpoint, read_swin_checkpoint
from .saving import legacy_merging, save_for_monai

__all__ = [
    "LoadedSwinUNETR",
    "MergingOrder",
    "SwinCheckpoint",
    "legacy_merging",
    "load_encoder",
    "load_swin_unetr",
    "read_swin_checkpoint",
    "save_for_monai",
]
