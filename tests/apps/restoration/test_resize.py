"""MATLAB's imresize: against numbers of BasicSR, and images that MATLAB made."""

import numpy as np
import pytest
import torch
from PIL import Image

from geovit.apps.restoration.resize import matlab_resize, matlab_resize_tensor

# Made once by imresize(image / 255, scale) of basicsr 1.4.2, with its tensors of float32 changed to float64: the pixels
# [height // 3, -1] and [0, width // 2] of the output. (Left in float32 it deviates from them by up to 5e-6.)
BASICSR = {
    1 / 2: ([0.670571361, 0.463443532, 0.0703125], [0.296307014, 0.84952596, 0.45234375]),
    1 / 3: ([0.584085401, 0.39108278, 0.00729444], [0.280717012, 0.846174812, 0.449818446]),
    1 / 4: ([0.660521571, 0.539989166, 0.015832759], [0.406960111, 0.840019243, 0.47874349]),
    2: ([0.64827091, 0.39392042, 0.06127451], [0.259305109, 0.851339422, 0.442034314]),
    3: ([0.646348745, 0.386218026, 0.060566449], [0.243137255, 0.851416122, 0.437908497]),
    0.7: ([0.640829849, 0.40501213, 0.060253765], [0.304629264, 0.850538002, 0.453525349]),
    1.5: ([0.653826253, 0.402882171, 0.062745098], [0.2765625, 0.851235703, 0.44624183]),
}


@pytest.fixture
def photo():
    y, x = np.mgrid[:48, :57]
    return np.stack([127 + 100 * np.sin(x / 5 + y / 9), 127 + 90 * np.cos(x * y / 200), (x * 4 + y * 3) % 256], -1).astype(
        np.uint8
    )


@pytest.mark.parametrize("scale", BASICSR)
def test_pixels_are_those_of_basicsr(photo, scale):
    resized = matlab_resize(photo / 255, scale)
    assert resized.shape == (int(np.ceil(48 * scale)), int(np.ceil(57 * scale)), 3)
    side, top = BASICSR[scale]
    np.testing.assert_allclose(resized[resized.shape[0] // 3, -1], side, atol=1e-9)
    np.testing.assert_allclose(resized[0, resized.shape[1] // 2], top, atol=1e-9)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_low_resolution_images_are_those_of_matlab(data_dir, scale):
    folder = data_dir / "restoration" / "Set5"
    for path in sorted((folder / "HR").glob("*.png")):
        high = np.asarray(Image.open(path).convert("RGB"))
        height, width = (size // scale * scale for size in high.shape[:2])
        (low,) = (folder / "LR_bicubic" / f"X{scale}").glob(f"{path.stem}*")
        np.testing.assert_array_equal(matlab_resize(high[:height, :width], 1 / scale), np.asarray(Image.open(low).convert("RGB")))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_keeps_dtype_and_number_of_axes(photo, dtype):
    for image in (photo.astype(dtype), photo[..., 0].astype(dtype), photo[..., :1].astype(dtype)):
        resized = matlab_resize(image, 0.5)
        assert resized.dtype == dtype
        assert resized.shape == (24, 29, *image.shape[2:])


def test_integers_are_clipped_where_the_kernel_overshoots():
    edge = np.zeros((16, 16, 1), np.uint8)
    edge[:, 8:] = 255
    resized = matlab_resize(edge / 255, 2)
    assert resized.min() < -0.01
    assert resized.max() > 1.01
    assert set(np.unique(matlab_resize(edge, 2)[0, :8])) == {0}


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2)])
@pytest.mark.parametrize("scale", [0.25, 4])
def test_images_smaller_than_the_kernel(size, scale):
    assert (matlab_resize(np.full((*size, 3), 77, np.uint8), scale) == 77).all()


def test_tensors_are_resized_alike_and_pass_gradients(photo):
    x = torch.from_numpy(photo.astype(np.float64)).permute(2, 0, 1)[None].requires_grad_()
    y = matlab_resize_tensor(x, 1 / 3)
    np.testing.assert_allclose(y.detach()[0].permute(1, 2, 0), matlab_resize(photo.astype(np.float64), 1 / 3), atol=1e-12)
    y.sum().backward()
    assert torch.isclose(x.grad.sum(), torch.tensor(y.numel(), dtype=torch.float64))
    small = x.detach()[:, :, :7, :6].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: matlab_resize_tensor(x, 0.6), small)
    assert matlab_resize_tensor(x.bfloat16(), 2).dtype == torch.bfloat16


def test_what_cannot_be_resized_is_told(photo):
    with pytest.raises(ValueError, match="dtype int64: allowed are uint8"):
        matlab_resize(photo.astype(np.int64), 2)
    with pytest.raises(ValueError, match=r"shape \[0, 57, 3\]: expected"):
        matlab_resize(photo[:0], 2)
    for scale in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="expected a positive number"):
            matlab_resize(photo, scale)
    with pytest.raises(ValueError, match=r"x is uint8 of shape \[1, 3, 4, 4\]"):
        matlab_resize_tensor(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), 2)
