"""The only place that opens data files: scenes, images, volumes, labels, and the writing of results."""

from .areas import AreaMask, window_of
from .classes import ClassInfo, default_color
from .collections import Collection, from_torchgeo, open_collection
from .grid import Grid
from .images import Image, find_images, open_image, write_image
from .labels import Labels, read_labels
from .opening import open_scene
from .scene import Scene
from .synthetic import SyntheticScene, synthesize_scene
from .synthetic_places import synthesize_places
from .volumes import Volume, find_volumes, open_volume, write_labels, write_volume
from .writing import atomic, check_writable, write_class_map, write_text_atomic

__all__ = [
    "AreaMask",
    "ClassInfo",
    "Collection",
    "Grid",
    "Image",
    "Labels",
    "Scene",
    "SyntheticScene",
    "Volume",
    "atomic",
    "check_writable",
    "default_color",
    "find_images",
    "find_volumes",
    "from_torchgeo",
    "open_collection",
    "open_image",
    "open_scene",
    "open_volume",
    "read_labels",
    "synthesize_places",
    "synthesize_scene",
    "window_of",
    "write_class_map",
    "write_image",
    "write_labels",
    "write_text_atomic",
    "write_volume",
]
