"""What a case is made of, in numbers: grid, intensities, labels; gathered in one reading, slab by slab."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.cases import Case, read_case
from ...datasets.volumes import Volume, open_volume

Progress = Callable[[int, int], None]  # cases done, cases in all

_SAMPLES = 4096  # foreground voxels that are kept of each channel of a case, for percentiles over all cases
_QUANTILE_VOXELS = 1_000_000  # of which percentiles of a case are taken
_SLAB_VOXELS = 4_000_000
_LABELS = 256  # values, from which an image is no label map
PERCENTS = (0.5, 50.0, 99.5)


@dataclass(frozen=True, kw_only=True)
class Intensities:
    """Of the finite voxels of a channel: extremes, percentiles 0.5, 50 and 99.5, mean and standard deviation."""

    minimum: float
    low: float
    median: float
    high: float
    maximum: float
    mean: float
    std: float

    @property
    def tail(self) -> float:
        """How far the extremes lie outside the percentiles, as a share of the distance between those."""
        width = max(self.high - self.low, 1e-12)
        return max(self.maximum - self.high, self.low - self.minimum) / width


@dataclass(frozen=True, kw_only=True)
class ChannelFacts:
    """A channel of a case.

    Args:
        image: of all voxels.
        foreground: of the labelled ones; None if there are none.
        zeros: share of voxels that are exactly zero.
        nonfinite: number of voxels that are NaN or infinite.
        samples: foreground voxels evenly chosen, at most 4096; not written to files.
    """

    image: Intensities
    foreground: Intensities | None
    zeros: float
    nonfinite: int
    samples: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32), repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class CaseFacts:
    """A case in numbers; axes are those of the file turned to right, front, top (RAS) without resampling.

    Args:
        name: of the case.
        size: voxels on each axis.
        spacing: millimetres between them.
        orientation: of the file, such as "LPS".
        stored: dtype of the voxels in the file.
        channels: of the image.
        labels: voxels of each value in the label map, background included; empty if there is no map.
        centres: of each value but 0, the mean position on each axis, 0 at the first voxel and 1 at the last.
        swapped: whether the label file looks like an image and the image like a label map.
        digest: of the image's voxels; equal for duplicates.
        problem: why the case cannot be used, in one line; then the rest is empty.
    """

    name: str
    size: tuple[int, int, int] = (0, 0, 0)
    spacing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    orientation: str = ""
    stored: str = ""
    channels: tuple[ChannelFacts, ...] = ()
    labels: Mapping[int, int] = field(default_factory=dict)
    centres: Mapping[int, tuple[float, float, float]] = field(default_factory=dict)
    swapped: bool = False
    digest: str = ""
    problem: str = ""

    @property
    def foreground(self) -> int:
        """Labelled voxels."""
        return sum(count for value, count in self.labels.items() if value != 0)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON would hold it, without samples."""
        given = asdict(self)
        for channel in given["channels"]:
            del channel["samples"]
        given["labels"] = {str(value): count for value, count in self.labels.items()}
        given["centres"] = {str(value): list(centre) for value, centre in self.centres.items()}
        return given


def facts_from_dict(given: Mapping[str, Any]) -> CaseFacts:
    """Read what ``CaseFacts.to_dict`` returned; KeyError and TypeError if it is no such."""
    channels = tuple(
        ChannelFacts(
            image=Intensities(**channel["image"]),
            foreground=None if channel["foreground"] is None else Intensities(**channel["foreground"]),
            zeros=channel["zeros"],
            nonfinite=channel["nonfinite"],
        )
        for channel in given["channels"]
    )
    read = {
        "size": tuple(given["size"]),
        "spacing": tuple(given["spacing"]),
        "channels": channels,
        "labels": {int(value): count for value, count in given["labels"].items()},
        "centres": {int(value): tuple(centre) for value, centre in given["centres"].items()},
    }
    return CaseFacts(**{**given, **read})


def examine_cases(cases: Sequence[Case], *, progress: Progress | None = None) -> dict[str, CaseFacts]:
    """Read cases one after the other, and return their facts by name.

    One case is in memory at a time. What cannot be read is no error here, but has a ``problem``.
    """
    found = {}
    for number, case in enumerate(cases, start=1):
        found[case.name] = examine(case)
        if progress is not None:
            progress(number, len(cases))
    return found


def examine(case: Case) -> CaseFacts:
    """Read a case and return its facts, or why it cannot be read."""
    try:
        volume, labels = read_case(case)
    except (ValueError, OSError) as error:
        problem = " ".join(str(error).split())
        if swapped := _swapped(case):
            problem += "; it looks as if image and label were swapped"
        return CaseFacts(name=case.name, problem=problem, swapped=swapped)
    axes, codes = _turned(volume)
    counts, sums = _labels(labels) if labels is not None else ({}, {})
    chosen = None if labels is None else np.asarray(labels != 0)
    channels = tuple(_channel(x, chosen) for x in volume.voxels)
    digest = hashlib.blake2b(np.ascontiguousarray(volume.voxels).data, digest_size=16).hexdigest()
    centres = {}
    for value, total in sums.items():
        means = {axis: float(total[axis]) / counts[value] / max(volume.size[axis] - 1, 1) for axis in axes}
        centres[value] = _three([1 - mean if codes[axis] in "LPI" else mean for axis, mean in means.items()])
    return CaseFacts(
        name=case.name,
        size=_three([volume.size[axis] for axis in axes]),
        spacing=_three([volume.spacing[axis] for axis in axes]),
        orientation=codes,
        stored=str(volume.stored),
        channels=channels,
        labels=counts,
        centres=centres,
        swapped=labels is not None and _looks_like(volume.voxels[0], labels),
        digest=digest,
    )


def _three(items: Sequence[Any]) -> tuple[Any, Any, Any]:
    one, two, three = items
    return one, two, three


def _turned(volume: Volume) -> tuple[list[int], str]:
    """Axes of the file in the order right, front, top, and its codes."""
    from nibabel.orientations import aff2axcodes

    codes = "".join(aff2axcodes(volume.affine))
    pairs = ("RL", "AP", "SI")
    return [next(axis for axis, code in enumerate(codes) if code in pair) for pair in pairs], codes


def _swapped(case: Case) -> bool:
    """Whether the files of a case that cannot be read look swapped, as far as they can be."""
    if case.label is None or len(case.images) > 1:
        return False
    try:
        image, label = open_volume(case.images[0]), open_volume(case.label)
    except (ValueError, OSError):
        return False
    return image.size == label.size and _looks_like(image.voxels[0], label.voxels[0])


def _looks_like(image: NDArray[Any], label: NDArray[Any]) -> bool:
    """Whether an image has fewer values than its label map, and those are whole numbers."""
    of_image, of_label = (np.unique(_thinned(x.reshape(-1), _QUANTILE_VOXELS)) for x in (image, label))
    return len(of_image) < min(len(of_label), _LABELS) and bool(np.all(of_image == np.round(of_image)))


def _thinned(flat: NDArray[Any], most: int) -> NDArray[Any]:
    return flat[:: -(-flat.size // most)] if flat.size > most else flat


def _slabs(size: tuple[int, ...]) -> list[slice]:
    step = max(1, _SLAB_VOXELS // max(1, int(np.prod(size[1:]))))
    return [slice(begin, begin + step) for begin in range(0, size[0], step)]


def _labels(labels: NDArray[np.integer]) -> tuple[dict[int, int], dict[int, NDArray[np.float64]]]:
    """Voxels of each value, and the sums of their indices on each axis but for 0."""
    counts: dict[int, int] = {}
    sums: dict[int, NDArray[np.float64]] = {}
    for slab in _slabs(labels.shape):
        part = labels[slab]
        where = np.nonzero(part)
        found, inverse, sizes = np.unique(part[where], return_inverse=True, return_counts=True)
        counts[0] = counts.get(0, 0) + part.size - len(inverse)
        totals = [np.bincount(inverse, weights=axis, minlength=len(found)) for axis in where]
        for at, value in enumerate(found.tolist()):
            total = np.array([axis[at] for axis in totals]) + np.array([slab.start * sizes[at], 0.0, 0.0])
            counts[value] = counts.get(value, 0) + int(sizes[at])
            sums[value] = sums.get(value, 0) + total
    return {value: counts[value] for value in sorted(counts) if counts[value]}, sums


def _channel(x: NDArray[Any], chosen: NDArray[np.bool_] | None) -> ChannelFacts:
    flat = x.reshape(-1)
    finite = np.isfinite(flat) if x.dtype.kind == "f" else None
    bad = 0 if finite is None else int(flat.size - np.count_nonzero(finite))
    kept = flat[finite] if bad else flat
    inside = flat[:0] if chosen is None else flat[chosen.reshape(-1) & (True if finite is None or not bad else finite)]
    return ChannelFacts(
        image=_intensities(kept),
        foreground=_intensities(inside) if inside.size else None,
        zeros=float(np.count_nonzero(kept == 0) / max(kept.size, 1)),
        nonfinite=bad,
        samples=_thinned(inside, _SAMPLES).astype(np.float32),
    )


def _intensities(flat: NDArray[Any]) -> Intensities:
    if not flat.size:
        return Intensities(minimum=0, low=0, median=0, high=0, maximum=0, mean=0, std=0)
    parts = [flat[slab] for slab in _slabs((flat.size,))]
    mean = sum(float(part.sum(dtype=np.float64)) for part in parts) / flat.size
    variance = sum(float(np.square(part - mean, dtype=np.float64).sum()) for part in parts) / flat.size
    low, median, high = np.percentile(_thinned(flat, _QUANTILE_VOXELS).astype(np.float64), PERCENTS).tolist()
    return Intensities(
        minimum=float(flat.min()),
        low=low,
        median=median,
        high=high,
        maximum=float(flat.max()),
        mean=mean,
        std=variance**0.5,
    )
