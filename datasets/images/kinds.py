"""NumPy arrays, PIL images, torch tensors and paths as ``Image``, and results back in the kind that was given."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .image import Image
from .pillow import encode, from_pillow
from .reading import open_image

if TYPE_CHECKING:
    import torch
    from PIL import Image as PillowImage

_ROUNDING = 1e-3  # how far floats may lie outside 0..1: more than float16 loses, less than an overshoot of resampling
_LAYOUTS = "(height, width) or (height, width, 1 to 4 channels)"


def as_image(obj: Any) -> Image:
    """Take a picture in any of the usual kinds.

    Args:
        obj: A path (read by ``open_image``); an ``Image``; a NumPy array (H, W) or (H, W, C) of uint8, uint16, or floats in
            0..1; a PIL image; a torch tensor (C, H, W) or (1, C, H, W) of uint8, uint16, or floats in 0..1. Two channels are
            grey and alpha, four are RGB and alpha. Floats become float32.

    Raises:
        ValueError: another type of values, floats outside 0..1 by more than rounding, NaN, a layout that is none of these, a
            batch of several images (``as_images`` takes those).
        TypeError: something that is no picture.
        FileNotFoundError: a path where nothing is.
    """
    images = as_images(obj)
    if len(images) != 1:
        raise ValueError(f"a batch of {len(images)} images where one is expected")
    return images[0]


def as_images(obj: Any) -> list[Image]:
    """Like ``as_image``, but a torch tensor (B, C, H, W) gives B images, and everything else one."""
    if isinstance(obj, Image):
        return [obj]
    if isinstance(obj, str | Path):
        return [open_image(obj)]
    if isinstance(obj, np.ndarray):
        return [_of_array(obj, "array")]
    if _is_tensor(obj):
        return _of_tensor(obj)
    if _is_pillow(obj):
        return [from_pillow(obj, "PIL image")]
    raise TypeError(f"{type(obj).__name__} is no picture: expected a path, a NumPy array, a PIL image or a torch tensor")


def to_kind_of(result: Image | Sequence[Image], original: Any) -> Any:
    """Give a result in the kind of what ``as_image`` or ``as_images`` took.

    Args:
        result: The image, or the list of them if ``original`` is a batch.
        original: What was given: for an array, an array of the same dtype, with the same number of axes where the number
            of channels allows; for a tensor, one of the same dtype on the same device, (B, C, H, W) for a batch; for a PIL
            image, one of its mode (of the mode that it was taken as: P gives RGB or RGBA, 1 gives L), with colour profile and
            EXIF; for a path or an ``Image``, the ``Image``.

    Raises:
        ValueError: several images for an original that is no batch.
    """
    images = [result] if isinstance(result, Image) else list(result)
    if _is_tensor(original):
        return _to_tensor(images, original)
    if len(images) != 1:
        raise ValueError(f"{len(images)} images for one {type(original).__name__}")
    (image,) = images
    if isinstance(original, np.ndarray):
        array = _joined(image)
        if original.ndim == 2 and array.shape[2] == 1:
            array = array[..., 0]
        return array.astype(original.dtype, copy=False)
    if _is_pillow(original):
        return to_pillow(image)
    return image


def _of_array(array: NDArray[Any], name: str) -> Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and not 1 <= array.shape[2] <= 4) or 0 in array.shape:
        raise ValueError(f"{name} of shape {array.shape}: expected {_LAYOUTS}; for other numbers of bands, give a GeoTIFF")
    array = _checked(array[..., None] if array.ndim == 2 else array, name)
    if array.shape[2] in (2, 4):
        return Image(pixels=array[..., :-1], alpha=array[..., -1], name=name)
    return Image(pixels=array, name=name)


def _checked(array: NDArray[Any], name: str) -> NDArray[Any]:
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind != "f":
        raise ValueError(f"{name} of {array.dtype}: its range is unknown; expected uint8, uint16, or floats in 0..1")
    low, high = float(array.min()), float(array.max())  # NaN if any is
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"{name}: {int((~np.isfinite(array)).sum())} values are NaN or infinite")
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ValueError(f"{name} of {array.dtype} with values in {low:.4g}..{high:.4g}: floats must lie in 0..1")
    return np.clip(array.astype(np.float32, copy=False), 0, 1)


def _of_tensor(tensor: "torch.Tensor") -> list[Image]:
    if tensor.ndim not in (3, 4) or not 1 <= tensor.shape[-3] <= 4 or 0 in tensor.shape:
        raise ValueError(f"tensor of shape {tuple(tensor.shape)}: expected (1 to 4 channels, height, width), or a batch of such")
    host = tensor.detach().cpu()
    if host.dtype.is_floating_point:
        host = host.float()  # NumPy has no bfloat16
    batch: NDArray[Any] = host.numpy()
    return [_of_array(np.moveaxis(one, 0, -1), "tensor") for one in (batch if batch.ndim == 4 else batch[None])]


def _to_tensor(images: Sequence[Image], original: "torch.Tensor") -> "torch.Tensor":
    import torch

    batch = np.stack([np.moveaxis(_joined(image), -1, 0) for image in images])
    tensor = torch.from_numpy(np.ascontiguousarray(batch)).to(original.device, original.dtype)
    return tensor if original.ndim == 4 else tensor[0]


def _joined(image: Image) -> NDArray[Any]:
    return image.pixels if image.alpha is None else np.concatenate([image.pixels, image.alpha[..., None]], axis=-1)


def to_pillow(image: Image) -> "PillowImage.Image":
    """PIL image of mode L, LA, RGB, RGBA, I;16 or F, with colour profile and EXIF.

    Raises:
        ValueError: PIL has no mode for it (16-bit colour, more than three bands).
    """
    made = encode(image)
    made.info |= {key: value for key, value in (("icc_profile", image.icc), ("exif", image.exif)) if value}
    return made


def _is_tensor(obj: Any) -> bool:
    torch = sys.modules.get("torch")  # an object of torch exists only if it is loaded
    return torch is not None and isinstance(obj, torch.Tensor)


def _is_pillow(obj: Any) -> bool:
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(obj, pillow.Image)
