"""Runtimes other than PyTorch, and the files of `geovit export` that they run."""

from .engine import ENDINGS, Engine, EngineName, Exported, is_exported, open_exported
from .module import EngineModule

__all__ = ["ENDINGS", "Engine", "EngineModule", "EngineName", "Exported", "is_exported", "open_exported"]
