"""Rasters that grow part by part in a hidden folder, survive a kill, and appear under their names when they are whole."""

from .journal import UnfinishedRunError
from .layer import Layer
from .rasters import GrowingRasters

__all__ = ["GrowingRasters", "Layer", "UnfinishedRunError"]
