"""From class maps of any size to polygons in a GeoPackage or a GeoParquet file."""

from .vectorize import VECTOR_SUFFIXES, vectorize

__all__ = ["VECTOR_SUFFIXES", "vectorize"]
