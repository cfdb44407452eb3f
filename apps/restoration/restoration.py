"""Images in, images out: of every kind, with every number of bands, and with what belongs to them."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ...core.device import resolve_device
from ...core.engines import EngineName
from ...core.memory import bytes_allowed
from ...core.precision import Precision, resolve_precision
from ...core.streaming.run import InMemory
from ...datasets import check_writable
from ...datasets.images import Image, Survey, Windows, as_images, check_format, survey, to_kind_of, write_image
from ...datasets.images.geotiff import picked_details, resized_details
from .models import open_restorer
from .network import Network
from .parts import IMAGE, MASK, PartRestorer
from .progress import Bar, progress_bar
from .tiling import Tiler
from .weights import Restorer

logger = logging.getLogger(__name__)

Range = tuple[float, float]


def restore(
    image: Any,
    *,
    weights: str | Path | None = None,
    engine: EngineName | None = None,
    model: str | None = None,
    scale: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    tile: int | Literal["auto"] = "auto",
    overlap: int | None = None,
    max_memory: float | None = None,
    precision: Precision = "auto",
    device: str = "auto",
    value_range: Range | None = None,
    progress: bool = False,
) -> Any:
    """Restore an image: enlarge, sharpen or clean it, whatever the network was trained for.

    Args:
        image: a path; a NumPy array (H, W) or (H, W, C) of uint8, uint16 or floats in 0..1; a PIL image; a torch tensor
            (C, H, W) or (B, C, H, W); or an ``Image`` of ``geovit.datasets.images``, which keeps grid, nodata and profiles.
        weights: a checkpoint file, or one of `geovit export`.
        engine: runtime of a model that `geovit export` wrote: onnx or openvino, on the CPU in fp32. Default: the one of its file.
        model: name of a packaged model. With neither, the packaged model of that scale.
        scale: output pixels for each input pixel on an axis; that of the network if it is not given.
        out: image file to write, for one image.
        overwrite: replace that file.
        tile: pixels on a side of the tiles that it is computed in; "auto" for as many as memory allows.
        overlap: pixels that neighbouring tiles share; twice the network's halo if it is not given.
        max_memory: gigabytes (10^9 bytes) that the process may take at the most, on the device.
        precision: auto, fp32, bf16 or fp16.
        device: auto, cpu, cuda, cuda:1 or mps.
        value_range: pixel values that are black and white to the network; those of the type if not given.
        progress: show a progress bar.

    Returns:
        The restored image as the kind that was given: same dtype, axes and device. A path gives a NumPy array (H, W, C).

    Raises:
        ValueError: anything wrong with the input, in one line.
        OSError: a file is missing, or cannot be written.
    """
    images = as_images(image)
    if out is not None and len(images) != 1:
        raise ValueError(f"out is one file, but there are {len(images)} images")
    if out is not None:
        check_format(Path(out), images[0])
        check_writable([out], overwrite)
    restorer = open_restorer(weights, model, scale, engine)
    restoration = Restoration(
        restorer, device=device, precision=precision, tile=tile, overlap=overlap, max_memory=max_memory, value_range=value_range
    )
    with progress_bar(progress) as bar:
        results = [restoration(one, bar) for one in images]
    if out is not None:
        write_image(out, results[0], overwrite=overwrite)
    if isinstance(image, str | Path):
        (result,) = results
        return result.pixels if result.alpha is None else np.concatenate([result.pixels, result.alpha[..., None]], axis=-1)
    return to_kind_of(results, image)


class Restoration:
    """A network set up to restore one image after the other; options as of ``restore``.

    Args:
        restorer: the network.
        frugal: whether the process keeps no freed memory, see ``Tiler``.
    """

    def __init__(
        self,
        restorer: Restorer,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        tile: int | Literal["auto"] = "auto",
        overlap: int | None = None,
        max_memory: float | None = None,
        value_range: Range | None = None,
        frugal: bool = False,
    ) -> None:
        limit = bytes_allowed(max_memory)
        target = resolve_device(device)
        dtype = safe_precision(restorer, precision, target)
        self.restorer = restorer
        self.network: Network = restorer.network.folded().eval().to(target)
        self.value_range = value_range
        self.tiler = Tiler(
            self.network,
            target,
            dtype,
            tile=tile,
            overlap=overlap,
            limit=limit,
            frugal=frugal,
        )

    def __call__(self, image: Image, bar: "Bar | None" = None) -> Image:
        """Restore one image, with everything that belongs to it.

        A network for colour sees grey as three equal channels, and the mean of what it makes is grey again; other bands go
        through it by threes, the last ones repeated to fill up the last three. A network for grey sees each band by itself.
        Where the scale is not 1, alpha goes through the network as grey. Pixels without data, and colours that nobody sees
        under alpha, are filled from their neighbours before, and are nothing again after.

        Raises:
            ValueError: for a number of bands that the network does not take, NaN pixels that are not nodata, an image that
                does not fit in the memory allowed, and results that are not finite.
        """
        parts, s = self.parts(image, survey(image, self.value_range)), self.network.scale
        bands, shape = len(parts.bands), (image.shape[0] * s, image.shape[1] * s)
        # Left untouched until they are filled: memory that is not used yet counts as needed.
        pixels = np.empty((*shape, bands + image.transparent), image.dtype)
        mask = np.empty(shape, np.bool_) if image.masked else None
        made = InMemory({IMAGE: np.moveaxis(pixels, -1, 0)} | ({} if mask is None else {MASK: mask[None]}))
        if bar is not None:
            bar.start(image.name)
        self.tiler.run(parts, image.shape, made, load=parts.load(made.nbytes), tick=None if bar is None else bar.tick)
        return replace(
            image,
            pixels=pixels[..., :bands],
            alpha=pixels[..., bands] if image.transparent else None,
            mask=mask,
            grid=None if image.grid is None else image.grid.resized(*shape),
            geo=None if image.geo is None else resized_details(picked_details(image.geo, parts.bands), s, s),
        )

    def parts(self, image: Windows, known: Survey) -> PartRestorer:
        """Return what restores parts of an image, in memory or not, of which is known what ``survey`` tells.

        Raises:
            ValueError: for a number of bands that the network does not take.
        """
        return PartRestorer(image, known, self.tiler, self.restorer.architecture.official)


def safe_precision(restorer: Restorer, precision: Precision, device: torch.device) -> torch.dtype:
    """Turn a user's word into a dtype in which the network keeps the image.

    Raises:
        ValueError: if it does not in the one asked for, with the reason; or the device has no hardware for it.
    """
    unsafe = restorer.network.unsafe
    asked = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
    if asked is not None and asked in unsafe:
        raise ValueError(f"precision is {precision!r}, which {restorer.architecture.official} does not stand: {unsafe[asked]}")
    dtype = resolve_precision(precision, device)
    if dtype in unsafe:  # by "auto"
        logger.info("computing in fp32, not %s: %s", dtype, unsafe[dtype])
        return torch.float32
    return dtype
