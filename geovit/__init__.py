"""Efficient transformers for images that are not photographs: hyperspectral, multi-sensor, medical, restoration.

What is listed here is loaded on first use, so that ``import geovit`` costs next to nothing and imports no torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public name -> "module:attribute", relative to this package.
_PUBLIC = {
    "classify": ".apps.hyperspectral:classify",
    "embed": ".apps.foundation.embedding:embed",
    "evaluate": ".apps.hyperspectral:evaluate",
    "pretrain": ".apps.foundation.pretraining.training:pretrain",
    "restore": ".apps.restoration.restoration:restore",
    "segment": ".apps.medical.segmentation:segment",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'geovit' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    value = getattr(import_module(module, __name__), attribute)
    globals()[name] = value  # found directly from now on
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
