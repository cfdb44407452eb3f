"""Rasters that grow part by part in a hidden folder, survive a kill, and appear under their names when they are whole."""

from .cog import CACHE_BYTES, growing_cog, small_cache
from .journal import UnfinishedRunError
from .layer import Layer, mask_of
from .plain import GrowingRaster
from .rasters import GrowingRasters

__all__ = [
    "CACHE_BYTES",
    "GrowingRaster",
    "GrowingRasters",
    "Layer",
    "UnfinishedRunError",
    "growing_cog",
    "mask_of",
    "small_cache",
]
