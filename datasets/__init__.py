"""The only place that opens data files: scenes, labels, and the writing of results."""

from .classes import ClassInfo, default_color
from .grid import Grid
from .images import Image, find_images, open_image, write_image
from .labels import Labels, read_labels
from .scene import Scene, open_scene
from .synthetic import SyntheticScene, synthesize_scene
from .writing import atomic, check_writable, write_bands, write_class_map, write_text_atomic

__all__ = [
    "ClassInfo",
    "Grid",
    "Image",
    "Labels",
    "Scene",
    "SyntheticScene",
    "atomic",
    "check_writable",
    "default_color",
    "find_images",
    "open_image",
    "open_scene",
    "read_labels",
    "synthesize_scene",
    "write_bands",
    "write_class_map",
    "write_image",
    "write_text_atomic",
]
