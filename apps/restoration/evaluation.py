"""`geovit evaluate restoration`: PSNR and SSIM of a network next to bicubic, with the protocol beside the figures."""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Group
from rich.table import Table

from ... import __version__
from ...core.device import resolve_device
from ...core.precision import Precision, autocast
from ...datasets import check_writable, write_text_atomic
from ...datasets.identity import sha256
from ...datasets.images import open_image
from ...datasets.pairs import ImagePair, find_pairs, fitting
from .metrics import psnr, ssim, to_uint8
from .models import open_restorer, packaged_models
from .progress import Bar, progress_bar
from .resize import matlab_resize
from .restoration import safe_precision
from .tiling import Tiler
from .weights import Restorer

Channels = Literal["auto", "luma", "rgb"]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures of all images, as in the JSON file."""

    report: dict[str, Any]

    def __rich__(self) -> Group:
        """A row for each image and one for the mean; PSNR and SSIM of each method."""
        methods = self.report["methods"]
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("image", no_wrap=True)
        for method in methods:
            table.add_column(f"{method} PSNR", justify="right")
            table.add_column("SSIM", justify="right")
        for row in (*self.report["images"], {"name": "mean", **self.report["mean"]}):
            table.add_row(row["name"], *(cell for method in methods for cell in _cells(row[method])))
        return Group(self.report["protocol"]["text"], "", table)


def _cells(figures: dict[str, float | None]) -> tuple[str, str]:
    decibels, similarity = figures["psnr"], figures["ssim"]
    return "inf" if decibels is None else f"{decibels:.2f}", f"{similarity:.4f}"


def evaluate(
    high: str,
    *,
    low: str | None = None,
    weights: Path | None = None,
    model: str | None = None,
    scale: int | None = None,
    channels: Channels = "auto",
    crop: int | None = None,
    tile: int = 0,
    device: str = "auto",
    precision: Precision = "fp32",
    out: Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Measure a restoration network on images whose restored form is known, next to bicubic enlargement.

    PSNR and SSIM are those of BasicSR, digit for digit: of images rounded to 8 bits, without a border as wide as the scale, the
    mean over images. For another scale than 1 they are of the luma, else of all channels and next to the degraded image itself.

    Args:
        high: what the images should become: a folder, a file, or a pattern such as 'pairs/*_sharp.png'.
        low: the degraded images by the same names, or a pattern with the same in place of *. Default: made from the others,
            whose lower right edge is cropped to a multiple of the scale, by MATLAB's antialiased bicubic.
        weights: a checkpoint file.
        model: name of a model; bicubic measures nothing else. Default, without weights: the model of the package.
        scale: output pixels for each input pixel. Default: that of the weights.
        channels: luma (BT.601, 16 to 235), rgb, or auto: luma for super-resolution, rgb for scale 1.
        crop: pixels that are left out at each edge. Default: the scale, and none at scale 1.
        tile: pixels on a side of the tiles that images are restored in, as geovit restore does; 0 restores them whole.
        device: auto, cpu, cuda, cuda:1 or mps.
        precision: auto, fp32, bf16 or fp16.
        out: JSON file to write.
        overwrite: replace that file.
        progress: show a progress bar.

    Returns:
        The figures.

    Raises:
        ValueError: anything wrong with the input, in one line.
    """
    if crop is not None and crop < 0:
        raise ValueError(f"crop is {crop}: expected 0 pixels or more")
    if out is not None:
        check_writable([out], overwrite)
    pairs = find_pairs(high, low)
    method = None
    if model != "bicubic" or weights is not None:
        method = _Network(open_restorer(weights, model, scale), tile, device, precision)
        scale = method.scale
    if scale is None:
        raise ValueError("bicubic has any scale: name one")
    if scale < 1:
        raise ValueError(f"scale is {scale}: expected a whole number from 1 on")
    if low is None and scale == 1:
        raise ValueError("scale is 1, and no degraded images are given: expected those of --low")
    luma = scale > 1 if channels == "auto" else channels == "luma"
    crop = (scale if scale > 1 else 0) if crop is None else crop

    rows = []
    with progress_bar(progress) as bar:
        for number, pair in enumerate(pairs, start=1):
            bar.start(f"{pair.name} ({number} of {len(pairs)})")
            rows.append(_measured(pair, scale, method, crop=crop, luma=luma, bar=bar))
    methods = [_plain(scale), *([method.name] if method else [])]
    mean = {name: {key: float(np.mean([row[name][key] for row in rows])) for key in ("psnr", "ssim")} for name in methods}
    protocol = _protocol(scale, luma=luma, crop=crop, made=low is None, grey=_grey(method))
    report = _without_infinity(
        {
            "geovit": __version__,
            "high": high,
            "low": low,
            "protocol": {**protocol, **(method.told() if method else {})},
            "methods": methods,
            "images": rows,
            "mean": mean,
        }
    )
    if out is not None:
        write_text_atomic(out, json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n", overwrite)
    return Evaluation(report)


def _plain(scale: int) -> str:
    """Name what a network has to be better than."""
    return "bicubic" if scale > 1 else "input"


def _grey(method: "_Network | None") -> bool:
    return method is not None and method.network.in_channels == 1


def _measured(pair: ImagePair, scale: int, method: "_Network | None", *, crop: int, luma: bool, bar: Bar) -> dict[str, Any]:
    """Return the figures of one image."""
    truth, degraded = _read(pair, scale, _grey(method))
    row: dict[str, Any] = {"name": pair.name, "height": truth.shape[0], "width": truth.shape[1]}
    restored = {_plain(scale): matlab_resize(degraded, scale) if scale > 1 else degraded}
    if method is not None:
        started = time.perf_counter()
        restored[method.name] = method(degraded, bar)
        row["seconds"] = time.perf_counter() - started
    try:
        for name, image in restored.items():
            row[name] = {"psnr": psnr(truth, image, crop=crop, luma=luma), "ssim": ssim(truth, image, crop=crop, luma=luma)}
    except ValueError as error:
        raise ValueError(f"{pair.high}: {error}") from error
    return row


def _protocol(scale: int, *, luma: bool, crop: int, made: bool, grey: bool) -> dict[str, Any]:
    """Return all that the figures depend on beside images and network."""
    compared = "the single channel" if grey else "Y of BT.601 (16 to 235)" if luma else "R, G, B"
    degraded = "MATLAB's imresize of the cropped image" if made else "as given"
    text = f"x{scale}, PSNR in dB and SSIM of {compared}, {crop} pixels cut off at each edge, degraded images: {degraded}"
    return {
        "text": text,
        "scale": scale,
        "channels": "grey" if grey else "luma" if luma else "rgb",
        "luma": "65.481 R + 128.553 G + 24.966 B + 16 with R, G, B of 0 to 1, not rounded" if luma and not grey else None,
        "crop": crop,
        "high_cropped_to_multiple_of": scale,
        "degraded": "MATLAB imresize, bicubic, antialiased, rounded to uint8 after each axis" if made else "given",
        "rounding": "restored images are clipped and rounded to uint8 before they are compared",
        "psnr": "float64, peak 255, of the mean square over pixels and channels",
        "ssim": "Gaussian window 11 x 11, sigma 1.5, inside the image; K1 0.01, K2 0.03, L 255; mean over channels",
        "mean": "over images, of their figures",
        "next_to": "MATLAB imresize, bicubic" if scale > 1 else "the degraded image",
        "self_ensemble": False,
    }


def _read(pair: ImagePair, scale: int, grey: bool) -> tuple[Pixels, Pixels]:
    """Return the image cropped to whole multiples of the scale, and the degraded one."""
    degraded = None if pair.low is None else _pixels(pair.low, grey)
    truth = fitting(_pixels(pair.high, grey), degraded, scale, pair)
    return truth, matlab_resize(truth, 1 / scale) if degraded is None else degraded


def _pixels(path: Path, grey: bool) -> Pixels:
    """Read an image of 8 bits: (H, W, 3), grey as three equal channels, or (H, W, 1) for a network of grey images."""
    image = open_image(path)
    if image.pixels.dtype != np.uint8 or image.channels not in (1, 3):
        given = f"{image.channels} channel{'s' if image.channels > 1 else ''} of {image.pixels.dtype}"
        raise ValueError(f"{path}: {given}, expected 8 bits, colour or grey, which PSNR and SSIM are defined on here")
    if grey and image.channels == 3:
        raise ValueError(f"{path}: a colour image, the network takes grey ones")
    return image.pixels if grey else np.broadcast_to(image.pixels, (*image.shape, 3))


def _without_infinity(value: Any) -> Any:
    """Replace infinite figures, those of equal images, by None: JSON has no word for them."""
    if isinstance(value, dict):
        return {key: _without_infinity(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_infinity(entry) for entry in value]
    return None if isinstance(value, float) and math.isinf(value) else value


class _Network:
    """A network with its weights, from image to image."""

    def __init__(self, restorer: Restorer, tile: int, device: str, precision: Precision) -> None:
        if restorer.network.in_channels not in (1, 3) or restorer.network.in_channels != restorer.network.out_channels:
            taken = f"{restorer.network.in_channels} channels and makes {restorer.network.out_channels}"
            raise ValueError(f"{restorer.architecture.official} takes {taken}: expected a network of colour or grey images")
        self.device = resolve_device(device)
        self.dtype = safe_precision(restorer, precision, self.device)
        self.restorer, self.scale = restorer, restorer.network.scale
        self.network = restorer.network.folded().eval().to(self.device)
        self.tiler = Tiler(self.network, self.device, self.dtype, tile) if tile else None

    @property
    def name(self) -> str:
        """That of the file for a model of the package, else of the architecture."""
        file = self.restorer.file
        return file.stem if file is not None and file in packaged_models().values() else self.restorer.architecture.name

    def __call__(self, image_HWC: Pixels, bar: Bar) -> Pixels:
        x_CHW = torch.from_numpy(np.moveaxis(image_HWC, -1, 0).astype(np.float32) / 255)
        if self.tiler is None:
            with torch.inference_mode(), autocast(self.device, self.dtype):
                y_CHW = self.network(x_CHW[None].to(self.device))[0].float().cpu()
        else:
            y_CHW = self.tiler.restored(x_CHW, tick=bar.tick)
        if not y_CHW.isfinite().all():
            raise ValueError(f"{self.name} gives values that are not finite in {self.told()['precision']}")
        return to_uint8(np.moveaxis(y_CHW.numpy(), 0, -1))

    def told(self) -> dict[str, Any]:
        """Return what the figures of the network depend on."""
        file = self.restorer.file
        assert file is not None
        return {
            "architecture": self.restorer.architecture.official,
            "weights": {"file": file.name, "sha256": sha256(file)},
            "tile": {"side": self.tiler.tile, "overlap": self.tiler.shared} if self.tiler else "whole image",
            "filled_up": f"to multiples of {self.network.multiple} by {self.network.fill}" if self.network.multiple > 1 else None,
            "precision": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
        }
