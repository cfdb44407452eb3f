"""From class maps of any size to polygons in a GeoPackage or a GeoParquet file."""

from .vectorize import check_vectors, vectorize

__all__ = ["check_vectors", "vectorize"]
