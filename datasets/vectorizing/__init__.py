"""From class maps of any size to polygons in a GeoPackage or a GeoParquet file."""

from .features import VECTOR_SUFFIXES
from .vectorize import vectorize

__all__ = ["VECTOR_SUFFIXES", "vectorize"]
