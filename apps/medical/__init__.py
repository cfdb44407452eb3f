"""Medical segmentation: Swin UNETR and others, from a folder of cases to label maps."""

from importlib import import_module
from typing import Any

# Public name -> module beside this one. Loaded on first use, so that a command that needs no network imports no torch.
_PUBLIC = {"SwinUNETR": ".swin_unetr"}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name], __name__), name)
    globals()[name] = value  # found directly from now on
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
