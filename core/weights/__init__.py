"""Weights on disk and in modules.

The loaders of published models import the backbones, and are therefore loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .load import Coverage, Loaded, load_into, rename
from .store import load_state, save_module

if TYPE_CHECKING:
    from .mamba import load_mamba
    from .swin import load_swin
    from .vim import load_vim
    from .vmamba import load_vssm

__all__ = [
    "Coverage",
    "Loaded",
    "load_into",
    "load_mamba",
    "load_state",
    "load_swin",
    "load_vim",
    "load_vssm",
    "rename",
    "save_module",
]

_LOADERS = {"load_mamba": ".mamba", "load_swin": ".swin", "load_vim": ".vim", "load_vssm": ".vmamba"}


def __getattr__(name: str) -> Any:
    if name not in _LOADERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LOADERS[name], __name__), name)
    globals()[name] = value  # found directly from now on
    return value
