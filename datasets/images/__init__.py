"""Pictures: reading and writing of image files, and the kinds in which Python users hold images.

Nothing here imports Pillow before it is needed.
"""

from .image import GeoDetails, Image
from .kinds import as_image, as_images, to_kind_of, to_pillow
from .reading import MAX_PIXELS, open_image
from .writing import write_image

__all__ = ["MAX_PIXELS", "GeoDetails", "Image", "as_image", "as_images", "open_image", "to_kind_of", "to_pillow", "write_image"]
