"""Pictures: reading and writing of image files, their values as floats, and the kinds in which Python users hold images.

Nothing here imports Pillow before it is needed.
"""

from .geotiff import GeoTiff
from .image import GeoDetails, Image
from .kinds import as_image, as_images, to_kind_of, to_pillow
from .paths import find_images, output_path, output_paths
from .reading import MAX_PIXELS, open_geotiff, open_image
from .validity import Survey, Windows, check_finite, invalid_pixels, survey, value_range
from .values import REACH, fill_transparent, to_pixels, to_unit, unit_alpha
from .writing import check_format, write_image

__all__ = [
    "MAX_PIXELS",
    "REACH",
    "GeoDetails",
    "GeoTiff",
    "Image",
    "Survey",
    "Windows",
    "as_image",
    "as_images",
    "check_finite",
    "check_format",
    "fill_transparent",
    "find_images",
    "invalid_pixels",
    "open_geotiff",
    "open_image",
    "output_path",
    "output_paths",
    "survey",
    "to_kind_of",
    "to_pillow",
    "to_pixels",
    "to_unit",
    "unit_alpha",
    "value_range",
    "write_image",
]
