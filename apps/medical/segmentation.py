"""Volumes in, labels out, on the volume's own grid."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.device import resolve_device
from ...core.engines import EngineName
from ...core.memory import bytes_allowed, peak_bytes
from ...core.precision import Precision, resolve_precision
from ...datasets import check_writable
from ...datasets.cases import Case, read_case
from ...datasets.volumes import Volume, check_finite, check_format, write_labels
from .model import Segmenter
from .models import open_segmenter
from .plan import Plan
from .preparation import Prepared, labels_on, prepare, values_on
from .progress import progress_bar
from .sliding import Slider, Ticker
from .swin_encoder import MergingOrder

logger = logging.getLogger(__name__)

Labels = NDArray[np.integer]
Probabilities = NDArray[np.float16]
Image = str | Path | Sequence[str | Path] | Volume | NDArray[Any]


@dataclass(frozen=True, eq=False)
class Segmented:
    """What was found in a volume, and how long it took.

    Args:
        labels: (i, j, k) on the volume's own grid, values of the plan's targets, 0 elsewhere.
        probabilities: (outputs, i, j, k), of background and classes or of regions; None unless asked for.
        seconds: by stage: prepare, network, back.
    """

    labels: Labels
    probabilities: Probabilities | None
    seconds: Mapping[str, float]


@overload
def segment(
    image: Image,
    *,
    model: str | Path | Segmenter,
    plan: str | Path | Plan | None = None,
    merging_order: MergingOrder | None = None,
    engine: EngineName | None = None,
    affine: NDArray[np.floating] | None = None,
    probabilities: Literal[False] = False,
    out: str | Path | None = None,
    overwrite: bool = False,
    overlap: float = 0.5,
    mirror: bool = False,
    max_memory: float | None = None,
    precision: Precision = "auto",
    device: str = "auto",
    progress: bool = False,
) -> Labels: ...


@overload
def segment(
    image: Image,
    *,
    model: str | Path | Segmenter,
    plan: str | Path | Plan | None = None,
    merging_order: MergingOrder | None = None,
    engine: EngineName | None = None,
    affine: NDArray[np.floating] | None = None,
    probabilities: Literal[True],
    out: str | Path | None = None,
    overwrite: bool = False,
    overlap: float = 0.5,
    mirror: bool = False,
    max_memory: float | None = None,
    precision: Precision = "auto",
    device: str = "auto",
    progress: bool = False,
) -> tuple[Labels, Probabilities]: ...


def segment(
    image: Image,
    *,
    model: str | Path | Segmenter,
    plan: str | Path | Plan | None = None,
    merging_order: MergingOrder | None = None,
    engine: EngineName | None = None,
    affine: NDArray[np.floating] | None = None,
    probabilities: bool = False,
    out: str | Path | None = None,
    overwrite: bool = False,
    overlap: float = 0.5,
    mirror: bool = False,
    max_memory: float | None = None,
    precision: Precision = "auto",
    device: str = "auto",
    progress: bool = False,
) -> Labels | tuple[Labels, Probabilities]:
    """Segment an image: a label for each voxel, on the image's own grid.

    Args:
        image: a NIfTI or NRRD file; the folder of a DICOM series; a list of these, one for each channel of the model; a
            ``Volume`` of ``geovit.datasets.volumes``; or an array (i, j, k) or (channels, i, j, k), which needs ``affine``.
        model: the folder or a file that ``geovit fit medical`` wrote, a checkpoint of MONAI's Swin UNETR with a plan, a file of
            `geovit export`, or what ``open_segmenter`` made of any.
        plan: of a checkpoint: "btcv", "brats21", a YAML or JSON file, or a plan.
        merging_order: of a checkpoint that does not tell it: "legacy" if it was trained with MONAI before 1.5, else "fixed".
        engine: runtime of a model that `geovit export` wrote: onnx or openvino, on the CPU in fp32. Default: the one of its file.
        affine: (4, 4), from the indices of an array to millimetres to the right, front and top of the patient (RAS+).
        probabilities: also return the probability of each class (background first) or region; takes memory for all of them.
        out: label map to write: .nii.gz, .nii, .nrrd, or .dcm (DICOM-SEG) for a DICOM series.
        overwrite: replace that file.
        overlap: share of a window that the next one covers again.
        mirror: also see each window mirrored in every combination of axes: 8 times as long in 3-D.
        max_memory: gigabytes (10^9 bytes) that the process may take at the most, on the device.
        precision: auto, fp32, bf16 or fp16.
        device: auto, cpu, cuda, cuda:1 or mps.
        progress: show a progress bar.

    Returns:
        Labels (i, j, k), with the output values that the model's plan has; with ``probabilities`` also those, (outputs, i, j, k)
        float16.

    Raises:
        ValueError: anything wrong with the input, in one line.
        OSError: a file is missing, or cannot be written.
    """
    if out is not None:
        check_writable([out], overwrite)
    if isinstance(model, Segmenter) and any(given is not None for given in (plan, merging_order, engine)):
        raise ValueError("plan, merging_order and engine are of a file that is read here: leave them out")
    segmenter = model if isinstance(model, Segmenter) else open_segmenter(model, plan, merging_order, engine)
    segmentation = Segmentation(
        segmenter, device=device, precision=precision, overlap=overlap, mirror=mirror, max_memory=max_memory
    )
    volume = _volume(image, affine)
    if out is not None:
        check_format(out, volume)
    name = str(volume.path or "volume")
    with progress_bar(progress) as bar:
        bar.start(name)
        found = segmentation(volume, probabilities=probabilities, tick=bar.tick)
    if out is not None:
        write_labels(out, found.labels, volume, names=label_names(segmenter), overwrite=overwrite)
    return found.labels if found.probabilities is None else (found.labels, found.probabilities)


def label_names(segmenter: Segmenter) -> dict[int, str]:
    """Return the names of the values in label maps, without background."""
    return {target.output: target.name for target in segmenter.plan.targets}


class Segmentation:
    """A model set up to segment one volume after the other; options as of ``segment``.

    Args:
        segmenter: the model.
        frugal: whether the process keeps no freed memory, see ``Slider``.

    Raises:
        ValueError: for an option that is not allowed.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        overlap: float = 0.5,
        mirror: bool = False,
        max_memory: float | None = None,
        frugal: bool = False,
    ) -> None:
        limit = bytes_allowed(max_memory)
        if not 0 <= overlap < 1:
            raise ValueError(f"overlap is {overlap}, expected 0 or more and less than 1")
        target = resolve_device(device)
        self.segmenter = segmenter
        self.slider = Slider(
            network=segmenter.network.eval().to(target),
            plan=segmenter.plan,
            device=target,
            dtype=resolve_precision(precision, target),
            overlap=overlap,
            mirror=mirror,
            limit=limit,
            frugal=frugal,
        )

    def __call__(self, volume: Volume, *, probabilities: bool = False, tick: Ticker | None = None) -> Segmented:
        """Segment a volume.

        Raises:
            ValueError: for another number of channels than the model's, voxels that are not finite, and a volume that does not
                fit in the memory allowed.
        """
        plan = self.segmenter.plan
        _check_channels(volume, plan.channels)
        check_finite(volume)
        if len(plan.roi) == 3 and 1 in volume.size:
            logger.warning("%s is a single slice: the model was trained on volumes", volume.path or "the image")
        times = [time.perf_counter()]
        prepared = prepare(volume, plan)
        times.append(time.perf_counter())
        size = prepared.voxels.shape[1:]
        likely = np.empty((plan.outputs, *size), np.float16) if probabilities else None
        held = 0 if likely is None else likely.nbytes  # not yet touched: it comes while the windows do
        labels = self.slider.labels(prepared.voxels, probabilities_KXYZ=likely, held=held, tick=tick)
        times.append(time.perf_counter())
        # The voxels are needed no more, and may be as large as all else together.
        grid = Prepared(torch.empty(1).expand(prepared.voxels.shape), prepared.affine)
        del prepared
        found = labels_on(volume, labels, grid)
        mapped = None
        if likely is not None:
            mapped = np.empty((plan.outputs, *volume.size), np.float16)
            for index, one in enumerate(likely):
                mapped[index] = values_on(volume, one, grid)
        times.append(time.perf_counter())
        logger.debug("peak until now: %.2f GB", peak_bytes(self.slider.device) / 1e9)
        stages = zip(("prepare", "network", "back"), np.diff(times).tolist(), strict=True)
        return Segmented(found, mapped, dict(stages))


def _check_channels(volume: Volume, channels: Sequence[Any]) -> None:
    given, wanted = len(volume.voxels), len(channels)
    if given == wanted:
        return
    name = volume.path or "the volume"
    if wanted == 1:
        raise ValueError(f"{name} is 4-D, with {given} channels or times; the model takes 3-D images of one channel")
    told = ", ".join(channel.name for channel in channels)
    have = "a single channel" if given == 1 else f"{given} channels"
    raise ValueError(f"{name} has {have}, the model takes {wanted}: {told}")


def _volume(image: Image, affine: NDArray[np.floating] | None) -> Volume:
    if isinstance(image, Volume | str | Path) and affine is not None:
        raise ValueError("affine is for arrays: files and volumes have their own")
    if isinstance(image, Volume):
        return image
    if isinstance(image, np.ndarray):
        if affine is None:
            raise ValueError("an array needs affine, (4, 4) from its indices to millimetres (RAS+): numpy.diag([sx, sy, sz, 1])")
        if image.ndim not in (3, 4) or np.shape(affine) != (4, 4):
            raise ValueError(
                f"an array of {image.shape} with an affine of {np.shape(affine)}: "
                "expected (i, j, k) or (channels, i, j, k), and (4, 4)"
            )
        return Volume(voxels=image if image.ndim == 4 else image[None], affine=np.asarray(affine, np.float64), stored=image.dtype)
    paths = [Path(image)] if isinstance(image, str | Path) else [Path(part) for part in image]
    if not paths:
        raise ValueError("no image: expected a path or some")
    volume, _ = read_case(Case(name=paths[0].name, images=tuple(paths)))
    return volume
