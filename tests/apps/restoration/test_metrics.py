"""PSNR and SSIM: against numbers of BasicSR."""

import math

import numpy as np
import pytest
from PIL import Image

from geovit.apps.restoration.metrics import psnr, ssim, to_uint8, y_channel
from geovit.apps.restoration.resize import matlab_resize

# Made once by calculate_psnr and calculate_ssim of basicsr 1.4.2 (opencv 5.0), which were given the images in its order B, G, R:
# by (crop, luma).
BASICSR = {
    (0, False): (26.256946874587143, 0.7270917122814683),
    (0, True): (52.45277183266964, 0.9978980484614717),
    (3, False): (26.25035960824677, 0.7292506235351163),
    (3, True): (52.52744644975159, 0.9977405263453315),
}


@pytest.fixture
def pair():
    y, x = np.mgrid[:48, :57]
    a = np.stack([127 + 100 * np.sin(x / 5 + y / 9), 127 + 90 * np.cos(x * y / 200), (x * 4 + y * 3) % 256], -1).astype(np.uint8)
    b = a.astype(int) + ((7 * x + 13 * y) % 31 - 15)[..., None] * np.array([1, -1, 2])
    return a, b.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("crop", "luma"), BASICSR)
def test_figures_are_those_of_basicsr(pair, crop, luma):
    decibels, similarity = BASICSR[crop, luma]
    assert psnr(*pair, crop=crop, luma=luma) == pytest.approx(decibels, abs=1e-9)
    assert ssim(*pair, crop=crop, luma=luma) == pytest.approx(similarity, abs=1e-9)


@pytest.mark.parametrize(("scale", "decibels"), [(2, 33.67), (4, 28.43)])
def test_bicubic_enlargement_of_set5_has_its_known_score(data_dir, scale, decibels):
    scores = []
    for path in sorted((data_dir / "restoration" / "Set5" / "HR").glob("*.png")):
        high = np.asarray(Image.open(path).convert("RGB"))
        height, width = (size // scale * scale for size in high.shape[:2])
        high = high[:height, :width]
        enlarged = Image.fromarray(matlab_resize(high, 1 / scale)).resize((width, height), Image.Resampling.BICUBIC)
        scores.append(psnr(high, np.asarray(enlarged), crop=scale, luma=True))
    assert np.mean(scores) == pytest.approx(decibels, abs=0.005)


def test_luma_is_that_of_studio_video_and_not_rounded():
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    luma = y_channel(colours)
    assert luma.dtype == np.float32
    np.testing.assert_allclose(luma[0, :, 0], [16, 235, 81.481, 144.553, 40.966], atol=1e-4)
    assert (y_channel(colours[..., :1]) == colours[..., :1]).all()  # a single channel, as BasicSR has it


def test_equal_images(pair):
    assert psnr(pair[0], pair[0], crop=0, luma=True) == math.inf
    assert ssim(pair[0], pair[0], crop=0, luma=True) == 1.0


def test_values_are_rounded_as_they_are_saved():
    assert to_uint8(np.array([-1, 0, 0.5 / 255, 1.5 / 255, 0.9999, 2])).tolist() == [0, 0, 0, 2, 255, 255]


def test_what_cannot_be_compared_is_told(pair):
    a, b = pair
    with pytest.raises(ValueError, match=r"shapes \[48, 57, 3\] and \[47, 57, 3\]"):
        psnr(a, b[1:], crop=0, luma=True)
    with pytest.raises(ValueError, match="dtypes float64 and uint8"):
        ssim(a / 255, b, crop=0, luma=True)
    with pytest.raises(ValueError, match="48 x 57 pixels with 24 cut off at each edge: 1 x 1 must be left"):
        psnr(a, b, crop=24, luma=True)
    with pytest.raises(ValueError, match="11 x 11 must be left"):
        ssim(a, b, crop=19, luma=True)
    with pytest.raises(ValueError, match="with -1 cut off"):
        psnr(a, b, crop=-1, luma=True)
