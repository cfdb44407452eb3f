"""Collections of images from many sensors: folders of co-registered rasters, scenes, STAC items, Zarr stores, torchgeo's data."""

from .collection import Collection, OnError
from .layer import Layer
from .opening import open_collection
from .place import Place
from .splitting import split
from .torchgeo_data import from_torchgeo

__all__ = ["Collection", "Layer", "OnError", "Place", "from_torchgeo", "open_collection", "split"]
