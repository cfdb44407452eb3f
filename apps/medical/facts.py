"""What a case is made of, in numbers: grid, intensities, labels; gathered in one reading."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.cases import Case, read_case
from ...datasets.volumes import Volume, open_volume
from .resampling import coded

Progress = Callable[[int, int], None]  # cases done, cases in all

_SAMPLES = 4096  # foreground voxels that are kept of each channel of a case, for percentiles over all cases
_QUANTILE_VOXELS = 1_000_000  # of which percentiles of a case are taken
_PART = 100_000  # voxels in floating point at once
_FEW_VALUES = 32  # which an image has more of
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
    # Axes in the order in which voxels lie in memory (NIfTI's first axis is the fastest): all that follows runs along it.
    order = np.argsort(volume.voxels[0].strides)[::-1]
    counts, sums = _labels(labels.transpose(order)) if labels is not None else ({}, {})
    chosen = None if labels is None else np.asarray(labels.transpose(order) != 0).reshape(-1)
    channels = tuple(_channel(x.transpose(order).reshape(-1), chosen) for x in volume.voxels)
    digest = _digest(volume.voxels)
    centres = {}
    place = np.argsort(order)
    for value, total in sums.items():
        means = {axis: float(total[place[axis]]) / counts[value] / max(volume.size[axis] - 1, 1) for axis in axes}
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
    """Whether an image has far fewer values than its label map, and those are whole numbers."""
    every = max(1, math.ceil((image.size / _QUANTILE_VOXELS) ** (1 / 3)))
    of_image, of_label = (np.unique(x[::every, ::every, ::every]) for x in (image, label))
    many = len(of_label) > max(2 * len(of_image), _FEW_VALUES)
    return many and len(of_image) < _LABELS and bool(np.all(of_image == np.round(of_image)))


def _thinned(flat: NDArray[Any], most: int) -> NDArray[Any]:
    return flat[:: -(-flat.size // most)] if flat.size > most else flat


def _digest(voxels: NDArray[Any]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for channel in voxels:
        for plane in np.moveaxis(channel, -1, 0):
            found.update(np.ascontiguousarray(plane).data)
    return found.hexdigest()


def _labels(labels: NDArray[np.integer]) -> tuple[dict[int, int], dict[int, NDArray[np.float64]]]:
    """Voxels of each value, and the sums of their indices on each axis but for 0."""
    values, codes = coded(labels)
    many = len(values) + 1
    counts, sums = np.zeros(many), np.zeros((3, many))
    # Of each plane the voxels of each value in each row, and in each column.
    rows, columns = (many * np.arange(n) for n in labels.shape[1:])
    for number, plane in enumerate(codes):
        of_rows = np.bincount((plane + rows[:, None]).reshape(-1), minlength=many * len(rows)).reshape(-1, many)
        of_columns = np.bincount((plane + columns).reshape(-1), minlength=many * len(columns)).reshape(-1, many)
        found = of_rows.sum(axis=0)
        counts += found
        sums[0] += number * found
        sums[1] += np.arange(len(rows)) @ of_rows
        sums[2] += np.arange(len(columns)) @ of_columns
    names = [int(value) for value in values]
    kept = {value: sums[:, code] for code, value in enumerate(names, start=1) if value != 0}
    return {value: int(counts[code]) for code, value in enumerate(names, start=1)}, kept


def _channel(flat: NDArray[Any], chosen: NDArray[np.bool_] | None) -> ChannelFacts:
    finite = np.isfinite(flat) if flat.dtype.kind == "f" else None
    bad = 0 if finite is None else int(flat.size - np.count_nonzero(finite))
    kept = flat[finite] if bad else flat
    inside = flat[:0] if chosen is None else flat[chosen & finite] if bad else flat[chosen]
    return ChannelFacts(
        image=_intensities(kept),
        foreground=_intensities(inside) if inside.size else None,
        zeros=float(1 - np.count_nonzero(kept) / max(kept.size, 1)),
        nonfinite=bad,
        samples=_thinned(inside, _SAMPLES).astype(np.float32),
    )


def _intensities(flat: NDArray[Any]) -> Intensities:
    if not flat.size:
        return Intensities(minimum=0, low=0, median=0, high=0, maximum=0, mean=0, std=0)
    origin = float(flat[0])  # squares of what lies around it lose no digits
    total = squares = 0.0
    for begin in range(0, flat.size, _PART):
        part = flat[begin : begin + _PART].astype(np.float64) - origin
        total += float(part.sum())
        squares += float(part @ part)
    mean = total / flat.size
    low, median, high = np.percentile(_thinned(flat, _QUANTILE_VOXELS).astype(np.float64), PERCENTS).tolist()
    return Intensities(
        minimum=float(flat.min()),
        low=low,
        median=median,
        high=high,
        maximum=float(flat.max()),
        mean=origin + mean,
        std=max(squares / flat.size - mean**2, 0.0) ** 0.5,
    )
