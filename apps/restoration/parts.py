"""Parts of an image through a network, and back to what its file holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ...core.streaming.plan import Area, Part
from ...core.streaming.run import Finished
from ...datasets.images import REACH, Survey, Windows, fill_transparent, invalid_pixels, to_pixels, to_unit, unit_alpha
from ...datasets.images.image import peak_of
from .tiling import Load, Tiler

IMAGE, MASK = "image", "mask"  # names of what is finished: bands with alpha, and 255 where pixels are valid


@dataclass(frozen=True)
class Groups:
    """Bands that the network sees together, and how many of what it makes of them are kept."""

    seen: tuple[tuple[int, ...], ...]
    kept: tuple[int, ...]

    @property
    def bands(self) -> list[int]:
        """Of the image, those that the result has, in its order."""
        return [band for group, count in zip(self.seen, self.kept, strict=True) for band in group[:count]]


def groups_of(image: Windows, takes: int, gives: int, official: str) -> Groups:
    """Return which bands a network sees together that takes and gives so many.

    Raises:
        ValueError: for a number of bands that the network does not take.
    """
    count = image.channels
    if takes == gives == 1:
        return Groups(tuple((band,) for band in range(count)), (1,) * count)
    if takes == gives == 3:
        groups = [tuple(range(first, min(first + 3, count))) for first in range(0, count, 3)]
        return Groups(tuple(group + group[-1:] * (3 - len(group)) for group in groups), tuple(map(len, groups)))
    if takes == count and gives <= takes:
        return Groups((tuple(range(count)),), (gives,))
    raise ValueError(f"{image.name} has {count} channels, the weights ({official}) take {takes} and make {gives}")


@dataclass(frozen=True, eq=False)
class Looked:
    """What a part looks at.

    Args:
        unit: (C, h, w) in 0..1, holes filled.
        invalid: of the used pixels, (C or 1, h', w'); None if all are valid.
        mask: of the used pixels, (h', w'); None if the image has none.
        alpha: (h, w) in 0..1; None if the image has none.
        bounds: of the used pixels, the least and the most of alpha of each and its neighbours, (2, h', w').
    """

    unit: NDArray[np.float32]
    invalid: NDArray[np.bool_] | None
    mask: NDArray[np.bool_] | None
    alpha: NDArray[np.float32] | None
    bounds: NDArray[np.float32] | None


class PartRestorer:
    """Restores parts of one image; the worker of ``core.streaming``.

    Values of a part are the bands of the result in 0..1, NaN where they hold nodata, then opacity and the mask if there are
    any: all that is to be known of pixels goes through the blending with them. Holes are filled as in the whole image, because
    as much is looked at around a part as filling looks at.

    Args:
        image: what is restored.
        survey: of all of it.
        tiler: of the network.
        official: the architecture's name, for messages.

    Raises:
        ValueError: for a number of bands that the network does not take.
    """

    def __init__(self, image: Windows, survey: Survey, tiler: Tiler, official: str) -> None:
        self._image, self._survey, self._tiler = image, survey, tiler
        self._groups = groups_of(image, tiler.network.in_channels, tiler.network.out_channels, official)
        self._scale = tiler.network.scale
        # Nodata that the type cannot hold is nowhere.
        self._hollow = image.nodata is not None
        self._around = REACH * (self._hollow or image.masked) + REACH * image.transparent

    def load(self, held: int = 0) -> Load:
        """Tell what this takes beside the network."""
        layers = self._image.transparent + self._image.masked
        read = self._image.channels * (1 + self._image.dtype.itemsize / 4) + 3 * layers
        return Load(read=read, made=len(self._groups.bands) + layers, held=held)

    @property
    def bands(self) -> list[int]:
        """Of the image, those that the result has."""
        return self._groups.bands

    def read(self, part: Part) -> Looked:
        """Read a part and fill its holes."""
        height, width = self._image.shape
        rows, columns = part.rows, part.columns
        top, left = (max(start - self._around, 0) for start in (rows.start, columns.start))
        bottom, right = min(rows.stop + self._around, height), min(columns.stop + self._around, width)
        image = self._image.read(top, left, bottom - top, right - left)
        seen = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
        used = slice(rows.first - top, rows.last - top), slice(columns.first - left, columns.last - left)
        unit = to_unit(image, self._survey.value_range, means=self._survey.means)
        alpha, bounds = unit_alpha(image), None
        if alpha is not None:
            low, high = self._survey.value_range
            unit = fill_transparent(unit, alpha, means=[(mean - low) / (high - low) for mean in self._survey.means])
            pooled = (sign * F.max_pool2d(sign * torch.from_numpy(alpha)[None], 3, 1, 1)[0] for sign in (-1, 1))
            bounds = torch.stack(list(pooled)).numpy()[:, used[0], used[1]].copy()
            alpha = alpha[seen].copy()
        invalid = invalid_pixels(image) if self._hollow else None
        return Looked(
            np.ascontiguousarray(np.moveaxis(unit[seen], -1, 0)),
            None if invalid is None else np.ascontiguousarray(np.moveaxis(invalid[used], -1, 0)),
            None if image.mask is None else image.mask[used].copy(),
            alpha,
            bounds,
        )

    def compute(self, data: Looked, part: Part) -> NDArray[np.float32]:
        """Restore the bands of a part, group by group."""
        s, gives = self._scale, self._tiler.network.out_channels
        bands = self._groups.bands
        shape = (part.rows.last - part.rows.first) * s, (part.columns.last - part.columns.first) * s
        layers = (data.alpha is not None) + (data.mask is not None)
        values = np.empty((len(bands) + layers, *shape), np.float32)
        first = 0
        for group, count in zip(self._groups.seen, self._groups.kept, strict=True):
            made = self._through(data.unit, group, part)
            values[first : first + count] = made.mean(0, keepdims=True) if count == 1 and gives > 1 else made[:count]
            first += count
        if data.invalid is not None:
            holes = data.invalid if len(data.invalid) == 1 else data.invalid[bands]
            values[:first][np.broadcast_to(_repeated(holes, s), values[:first].shape)] = np.nan
        if data.alpha is not None and data.bounds is not None:
            values[first] = self._opacity(data.alpha, data.bounds, part)
            first += 1
        if data.mask is not None:
            values[first] = _repeated(data.mask, s)
        return values

    def _through(self, unit: NDArray[np.float32], group: Sequence[int], part: Part) -> NDArray[np.float32]:
        every = len(group) == len(unit) and list(group) == list(range(len(unit)))
        return self._tiler.part(torch.from_numpy(unit if every else unit[list(group)]), part)

    def _opacity(self, alpha: NDArray[np.float32], bounds: NDArray[np.float32], part: Part) -> NDArray[np.float32]:
        """Alpha through the network as grey, within what each pixel and its neighbours had.

        Networks ring at the hard edges of masks, which would leave specks around and holes inside.
        """
        s = self._scale
        if s == 1:
            rows, columns = (slice(tile.first - tile.start, tile.last - tile.start) for tile in (part.rows, part.columns))
            return alpha[rows, columns]
        made = self._through(alpha[None].repeat(self._tiler.network.in_channels, 0), range(self._tiler.network.in_channels), part)
        low, high = _repeated(bounds, s)
        within: NDArray[np.float32] = np.clip(made.mean(0), low, high)
        return within

    def finish(self, values: NDArray[np.float32], area: Area) -> Finished:
        """Round to the type of the image; nothing is visible where opacity is none."""
        del area
        image, count = self._image, len(self._groups.bands)
        low, high = self._survey.value_range
        bounded = image.dtype.kind == "f" and (low, high) == (0.0, 1.0) and image.format != "GTiff"
        pixels = np.empty((count + image.transparent, *values.shape[1:]), image.dtype)
        peak = peak_of(image.dtype)
        shown = values[count] >= 0.5 / peak if image.transparent else None
        for band, unit in enumerate(values[:count]):
            invalid = np.isnan(unit) if self._hollow else None
            made = unit if invalid is None else np.where(invalid, 0, unit)
            if shown is not None:
                made = made * shown
            pixels[band] = to_pixels(made, image.dtype, (low, high), bounded=bounded, nodata=image.nodata, invalid=invalid)
        if image.transparent:
            pixels[count] = to_pixels(values[count], image.dtype, (0.0, peak), bounded=True)
        masks = {MASK: np.where(values[-1:] >= 0.5, np.uint8(255), np.uint8(0))} if image.masked else {}
        return Finished({IMAGE: pixels} | masks)


def _repeated(array: NDArray[np.generic], times: int) -> NDArray[np.generic]:
    return array.repeat(times, -2).repeat(times, -1) if times > 1 else array
