"""The place of DICOM slices: order, spacing and affine, from their positions alone."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dicom_files import DicomFile
from .volume import check_affine

logger = logging.getLogger(__name__)

PARALLEL = 1e-3  # largest difference between direction cosines that count as equal: 0.06 degrees
REGULAR = 0.1  # of the spacing: how far a slice may lie from where equal steps put it; scanners round positions
_SAME = 1e-3  # mm: two slices at one place
_PIXEL = 1e-3  # of the pixel spacing
_MISSING = 1.5  # spacings
_DRIFT = 0.5  # of a pixel: how far slices may be shifted in their plane, over the whole stack


@dataclass(frozen=True)
class Slice:
    """One plane of a series.

    Args:
        file: that holds it.
        frame: its number in the file, from 0; None in a file of one.
        position: (3,) of the first pixel, millimetres to left, back and top.
        orientation: (6,) direction cosines of the rows and of the columns.
        pixel: (2,) millimetres between rows and between columns.
        slope, intercept: from stored values to those meant.
    """

    file: DicomFile
    frame: int | None
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    pixel: NDArray[np.float64]
    slope: float
    intercept: float

    @property
    def name(self) -> str:
        return self.file.path.name + ("" if self.frame is None else f" frame {self.frame + 1}")


def slices_of(file: DicomFile) -> list[Slice]:
    """The slices of a file, in its order.

    Raises:
        ValueError: a header without what places them.
    """
    header = file.header
    try:
        if "PerFrameFunctionalGroupsSequence" not in header:
            _require_one_frame(header)
            return [_slice(file, None, header, header, header, header)]
        shared = header.get("SharedFunctionalGroupsSequence") or [{}]
        return [
            _slice(
                file,
                number,
                _group(frame, shared[0], "PlanePositionSequence"),
                _group(frame, shared[0], "PlaneOrientationSequence"),
                _group(frame, shared[0], "PixelMeasuresSequence"),
                _group(frame, shared[0], "PixelValueTransformationSequence", needed=False),
            )
            for number, frame in enumerate(header.PerFrameFunctionalGroupsSequence)
        ]
    except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise ValueError(f"{file.path}: damaged, or not a slice of a volume: {' '.join(str(error).split())}") from error


def _require_one_frame(header: Any) -> None:
    if int(header.get("NumberOfFrames", None) or 1) > 1:
        raise ValueError(f"{header.NumberOfFrames} frames without a place for each")


def _group(frame: Any, shared: Any, name: str, needed: bool = True) -> Any:
    found = frame.get(name) or shared.get(name)
    if not found:
        if needed:
            raise ValueError(f"no {name}")
        return {}
    return found[0]


def _slice(file: DicomFile, frame: int | None, position: Any, orientation: Any, measures: Any, transform: Any) -> Slice:
    if "ModalityLUTSequence" in file.header:
        raise ValueError("a table of values (ModalityLUTSequence), expected rescale slope and intercept")
    slope, intercept = transform.get("RescaleSlope"), transform.get("RescaleIntercept")
    if slope is not None and not (np.isfinite(float(slope)) and float(slope)):
        raise ValueError(f"RescaleSlope {slope}, expected a number other than 0")
    return Slice(
        file,
        frame,
        _numbers(position, "ImagePositionPatient", 3),
        _numbers(orientation, "ImageOrientationPatient", 6),
        _numbers(measures, "PixelSpacing", 2),
        1.0 if slope is None else float(slope),
        0.0 if intercept is None else float(intercept),
    )


def _numbers(group: Any, name: str, count: int) -> NDArray[np.float64]:
    given = group.get(name)
    numbers = np.array([float(value) for value in given or ()], np.float64)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ValueError(f"{name} {'is missing' if not given else f'is {given}'}, expected {count} numbers")
    return numbers


def arrange(slices: Sequence[Slice], name: Path) -> tuple[list[Slice], NDArray[np.float64]]:
    """Order slices along their normal and place them.

    Returns:
        The slices, and the affine (4, 4) from (column, row, slice) to RAS+ millimetres.

    Raises:
        ValueError: slices of different sizes, orientations or pixel spacings; two at one place; missing ones; unequal steps (a
            slice further than a tenth of the spacing from where equal steps put it); a gantry tilt (slices shifted in their plane
            by more than half a pixel).
    """
    _require_alike(slices, name)
    first = slices[0]
    across, down = first.orientation[:3], first.orientation[3:]
    lengths = [float(np.linalg.norm(across)), float(np.linalg.norm(down)), 1 + abs(float(across @ down))]
    if max(abs(length - 1) for length in lengths) > PARALLEL:
        raise ValueError(f"{name}: ImageOrientationPatient {first.orientation.tolist()} are not two orthogonal directions")
    normal = np.cross(across, down)
    normal /= np.linalg.norm(normal)
    ordered = sorted(slices, key=lambda one: float(one.position @ normal))
    spacing = _spacing(ordered, normal, name)
    origin = ordered[0].position
    _require_upright(ordered, normal, name)
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([across * first.pixel[1], down * first.pixel[0], normal * spacing])
    affine[:3, 3] = origin
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    check_affine(affine, str(name))
    return ordered, affine


def _require_alike(slices: Sequence[Slice], name: Path) -> None:
    first = slices[0]
    size = (int(first.file.header.Rows), int(first.file.header.Columns))
    for one in slices[1:]:
        other = (int(one.file.header.Rows), int(one.file.header.Columns))
        if other != size:
            raise ValueError(f"{name}: slices of different sizes: {first.name} {size}, {one.name} {other} rows and columns")
        if np.abs(one.orientation - first.orientation).max() > PARALLEL:
            raise ValueError(
                f"{name}: slices of different orientations: {first.name} {_told(first.orientation)}, "
                f"{one.name} {_told(one.orientation)}"
            )
        if np.abs(one.pixel / first.pixel - 1).max() > _PIXEL:
            raise ValueError(
                f"{name}: different pixel spacings: {first.name} {_told(first.pixel)}, {one.name} {_told(one.pixel)}"
            )


def _spacing(ordered: Sequence[Slice], normal: NDArray[np.float64], name: Path) -> float:
    """Millimetres between slices."""
    if len(ordered) == 1:
        return _thickness(ordered[0], name)
    places = np.array([one.position @ normal for one in ordered])
    gaps = np.diff(places)
    if gaps.min() < _SAME:
        twice = int(gaps.argmin())
        raise ValueError(
            f"{name}: {len(ordered)} slices at {1 + int((gaps >= _SAME).sum())} places, such as {ordered[twice].name} and "
            f"{ordered[twice + 1].name} at {places[twice]:g} mm: several phases, echoes or times, expected one volume"
        )
    usual = float(np.median(gaps))
    holes = [(place, gap) for place, gap in zip(places, gaps, strict=False) if gap > _MISSING * usual]
    whole = all(abs(gap / usual - round(gap / usual)) <= REGULAR for _, gap in holes)
    if holes and whole and len(holes) < len(gaps):
        count = sum(round(gap / usual) - 1 for _, gap in holes)
        raise ValueError(
            f"{name}: {count} slices missing among {len(ordered)}, the first at {holes[0][0] + usual:g} mm: "
            f"a gap of {holes[0][1]:g} mm where others are {usual:g} mm"
        )
    spacing = float(places[-1] - places[0]) / len(gaps)
    # From the steps that fit best: with those between the ends, the rounding of these two would count for all.
    steps = np.arange(len(places)) - (len(places) - 1) / 2
    away = np.abs(places - places.mean() - steps * (steps @ places / (steps @ steps)))
    if away.max() > REGULAR * spacing:
        raise ValueError(
            f"{name}: slices unequally spaced, {gaps.min():g} to {gaps.max():g} mm apart; {ordered[int(away.argmax())].name} "
            f"lies {away.max():.3g} mm from where equal steps put it, expected at most {REGULAR:g} of a step"
        )
    return spacing


def _thickness(one: Slice, name: Path) -> float:
    """What a single slice stands for along its normal."""
    for tag in ("SpacingBetweenSlices", "SliceThickness"):
        given = one.file.header.get(tag)
        if given and float(given) > 0:
            return float(given)
    logger.warning("%s: a single slice without a thickness, taken as 1 mm", name)
    return 1.0


def _require_upright(ordered: Sequence[Slice], normal: NDArray[np.float64], name: Path) -> None:
    shifts = np.array([one.position - ordered[0].position for one in ordered])
    along = shifts @ normal
    apart = np.linalg.norm(shifts - along[:, None] * normal, axis=1)
    if apart.max() > _DRIFT * ordered[0].pixel.min():
        angle = np.degrees(np.arctan2(apart[-1], along[-1]))
        raise ValueError(
            f"{name}: slices are shifted in their plane by {apart.max():.3g} mm (a gantry tilt of {angle:.3g} degrees?), "
            f"expected at most {_DRIFT:g} of a pixel; resample the series upright first"
        )


def _told(numbers: NDArray[np.float64]) -> str:
    return "[" + ", ".join(f"{number:.4g}" for number in numbers) + "]"
