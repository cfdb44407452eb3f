from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from geovit.datasets.images import Image, as_image, as_images, to_kind_of, to_pillow, write_image


def restored(image):
    """What stands for a model: twice as large."""
    pixels, alpha = (None if array is None else array.repeat(2, 0).repeat(2, 1) for array in (image.pixels, image.alpha))
    return replace(image, pixels=pixels, alpha=alpha)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "float64", ">u2"])
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 2), (4, 6, 3), (4, 6, 4)])
def test_arrays_come_back_as_they_were_given(dtype, shape):
    values = np.random.default_rng(0).random(shape)
    array = values.astype(dtype) if "f" in dtype else (values * 255).astype(dtype)
    result = to_kind_of(restored(as_image(array)), array)
    assert (result.dtype, result.ndim) == (array.dtype, array.ndim)
    np.testing.assert_allclose(result, array.repeat(2, 0).repeat(2, 1), atol=1e-7)


def test_channels_are_told_by_their_number():
    image = as_image(np.zeros((4, 6, 4), np.uint8))
    assert (image.channels, image.alpha.shape) == (3, (4, 6))
    image = as_image(np.zeros((4, 6), np.uint8))
    assert (image.channels, image.alpha) == (1, None)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16", "F", "1", "P"])
def test_pil_images_come_back_in_their_mode(colors, mode, icc):
    made = PillowImage.fromarray(colors)
    if mode == "I;16":
        made = PillowImage.fromarray(colors[..., 0].astype(np.uint16) * 200)
    elif mode == "F":
        made = PillowImage.fromarray(colors[..., 0].astype(np.float32) / 255)
    else:
        made = made.convert(mode)
    made.info["icc_profile"] = icc
    result = to_kind_of(restored(as_image(made)), made)
    assert result.mode == {"1": "L", "P": "RGB"}.get(mode, mode)
    assert result.info["icc_profile"] == icc
    expected = np.asarray(made.convert("RGB")) if mode == "P" else np.asarray(made) * (255 if mode == "1" else 1)
    np.testing.assert_allclose(np.asarray(result), expected.repeat(2, 0).repeat(2, 1), rtol=1e-6)


def test_a_transparent_palette_becomes_rgba(colors):
    made = PillowImage.fromarray(colors).quantize(8)
    made.info["transparency"] = 2
    result = to_kind_of(as_image(made), made)
    assert result.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(result)[..., 3] == 0, np.asarray(made) == 2)


def test_orientation_of_a_pil_image_is_applied_once(tmp_path, colors):
    turned = PillowImage.Exif()
    turned[0x0112] = 6
    PillowImage.fromarray(colors).save(tmp_path / "a.png", exif=turned)
    with PillowImage.open(tmp_path / "a.png") as made:
        result = to_kind_of(as_image(made), made)
    np.testing.assert_array_equal(np.asarray(result), np.rot90(colors, -1))
    assert result.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.uint8, torch.uint16])
@pytest.mark.parametrize("shape", [(1, 4, 6), (3, 4, 6), (4, 4, 6), (1, 3, 4, 6)])
def test_tensors_come_back_as_they_were_given(dtype, shape):
    values = torch.rand(shape)
    tensor = values.to(dtype) if dtype.is_floating_point else (values * 255).to(dtype)
    result = to_kind_of(restored(as_image(tensor)), tensor)
    assert (result.dtype, result.ndim) == (dtype, len(shape))
    expected = tensor.float().repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(result.float(), expected, atol=1e-6, rtol=0)


def test_a_batch_is_several_images():
    batch = torch.rand(3, 3, 4, 6, requires_grad=True)
    images = as_images(batch)
    assert len(images) == 3
    torch.testing.assert_close(to_kind_of(images, batch), batch.detach(), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="a batch of 3 images where one is expected"):
        as_image(batch)
    with pytest.raises(ValueError, match="3 images for one ndarray"):
        to_kind_of(images, np.zeros((4, 6)))


def test_paths_and_images_give_images(tmp_path, colors):
    write_image(tmp_path / "a.png", Image(pixels=colors))
    image = as_image(str(tmp_path / "a.png"))
    np.testing.assert_array_equal(image.pixels, colors)
    assert as_image(image) is image
    assert to_kind_of(image, tmp_path / "a.png") is image


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((4, 6), np.int32), "array of int32: its range is unknown; expected uint8, uint16, or floats in 0..1"),
        (np.zeros((4, 6), bool), "array of bool"),
        (np.full((4, 6), 1.1), "array of float64 with values in 1.1..1.1: floats must lie in 0..1"),
        (np.full((4, 6), -0.01, np.float32), "values in -0.01..-0.01"),
        (np.full((4, 6), np.nan), "24 values are NaN or infinite"),
        (np.zeros((3, 64, 64)), r"array of shape \(3, 64, 64\): expected \(height, width\) or"),
        (np.zeros((1, 4, 6, 3)), r"shape \(1, 4, 6, 3\)"),
        (np.zeros((0, 6)), r"shape \(0, 6\)"),
        (torch.zeros(64, 64), r"tensor of shape \(64, 64\): expected \(1 to 4 channels, height, width\)"),
        (torch.zeros(64, 64, 3), r"tensor of shape \(64, 64, 3\)"),
        (torch.zeros(3, 4, 6, dtype=torch.int64), "tensor of int64: its range is unknown"),
        (PillowImage.new("I", (4, 6)), "mode I, whose range is unknown"),
        (PillowImage.fromarray(np.full((4, 6), 2, np.float32)), "floats must lie in 0..1"),
    ],
)
def test_what_is_ambiguous_is_refused(given, words):
    with pytest.raises(ValueError, match=words) as caught:
        as_image(given)
    assert "\n" not in str(caught.value)


def test_what_is_no_picture():
    with pytest.raises(TypeError, match="list is no picture: expected a path, a NumPy array, a PIL image or a torch tensor"):
        as_image([1, 2])


def test_rounding_beyond_the_range_is_clipped():
    image = as_image(np.array([[1.0005, -0.0005]]))
    assert image.pixels.ravel().tolist() == [1, 0]


def test_sixteen_bit_colour_has_no_pil_mode():
    with pytest.raises(ValueError, match="Pillow has no mode for 3 bands of uint16"):
        to_pillow(Image(pixels=np.zeros((2, 2, 3), np.uint16)))
