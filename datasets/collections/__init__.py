"""Collections of images from many sensors: folders of co-registered rasters, and scenes."""

from .collection import Collection, OnError, Place
from .layer import Layer
from .opening import open_collection
from .splitting import split

__all__ = ["Collection", "Layer", "OnError", "Place", "open_collection", "split"]
