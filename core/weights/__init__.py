"""Weights on disk and in modules."""

from .load import Coverage, load_into, rename
from .store import load_state, save_module

__all__ = ["Coverage", "load_into", "load_state", "rename", "save_module"]
