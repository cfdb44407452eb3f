"""Pictures for the tests of ``datasets.images``."""

import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageCms


@pytest.fixture
def icc():
    """A real colour profile, of 588 bytes or so."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def exif():
    """An EXIF block with a camera, a size, a place and an orientation, as Pillow takes it."""
    block = PillowImage.Exif()
    block[0x010F] = "A camera"
    block[0x0112] = 6
    block.get_ifd(0x8769).update({0x9003: "2026:01:02 03:04:05", 0xA002: 53, 0xA003: 37})
    block.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 2.5)})
    return block


@pytest.fixture
def colors():
    """(37, 53, 3) uint8, smooth, so that lossy formats keep it, and unlike its own turns."""
    rows, columns = np.mgrid[:37, :53]
    return np.stack([rows * 6, columns * 4, (rows + columns) * 2], axis=-1).astype(np.uint8)


@pytest.fixture
def deep():
    """(37, 53, 4) uint16, with values on both sides of 256."""
    return np.random.default_rng(0).integers(0, 65536, (37, 53, 4)).astype(np.uint16) >> np.array([0, 4, 9, 0], dtype=np.uint16)
