"""Looking at a few places of a scene instead of all of it."""

import logging
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from ...core.streaming.plan import Area
from ...datasets import AreaMask, Scene
from .model import Classifier

logger = logging.getLogger(__name__)

_SIDE = 128  # pixels of a place
_TRIES = 16  # places looked for under a mask, for each one wanted
_ROW, _COLUMN = 0.7548776662466927, 0.5698402909980532  # 1 / g and 1 / g^2 with g^3 = g + 1: multiples of them spread evenly

# Beyond these, spectra are of another radiometry and not of another mixture of classes.
_FAR = 3.0  # standard deviations of the training pixels between the means
_FLAT = 1 / 30  # of their standard deviation: reflectance of 0..1 or 0..100 where the model learned 0..10000


def sampled_spectra(scene: Scene, area: Area, *, places: int, mask: AreaMask | None = None) -> Iterator[NDArray[np.float32]]:
    """Yield valid spectra (pixels, bands) of squares spread over an area; of all of it, if it is no larger than that.

    The same area gives the same spectra.
    """
    for row, column, height, width in _places(area, places, mask):
        values = scene.read(Window(column, row, width, height))
        valid = np.isfinite(values).all(axis=0)
        if mask is not None:
            valid &= mask.read(row, column, height, width)
        yield values[:, valid].T


def _places(area: Area, places: int, mask: AreaMask | None) -> Iterator[tuple[int, int, int, int]]:
    rows, columns = -(-area.height // _SIDE), -(-area.width // _SIDE)
    if rows * columns <= places:
        chosen = [(row, column) for row in range(rows) for column in range(columns)]
    else:
        # The additive recurrence of two dimensions whose points lie farthest apart (Roberts 2018, "R2").
        steps = np.arange(1, 1 + places * (1 if mask is None else _TRIES))
        pairs = zip(
            (steps * _ROW % 1 * rows).astype(int).tolist(), (steps * _COLUMN % 1 * columns).astype(int).tolist(), strict=True
        )
        chosen = list(dict.fromkeys(pairs))
    found = 0
    for row, column in chosen:
        top, left = area.row + row * _SIDE, area.column + column * _SIDE
        height, width = min(_SIDE, area.row + area.height - top), min(_SIDE, area.column + area.width - left)
        if mask is not None and not mask.read(top, left, height, width).any():
            continue
        yield top, left, height, width
        found += 1
        if found == places:
            return


def warn_if_far(scene: Scene, area: Area, model: Classifier, *, mask: AreaMask | None = None) -> None:
    """Log a warning if spectra are unlike those that a model was trained on; told before hours of work, from a few places.

    Args:
        scene: with just the model's bands.
        area: of the scene.
        model: whose training pixels are compared with.
        mask: of the pixels that count.
    """
    count, total, squares = 0, np.zeros(scene.num_bands), np.zeros(scene.num_bands)
    for spectra in sampled_spectra(scene, area, places=16, mask=mask):
        count += len(spectra)
        total += spectra.sum(axis=0, dtype=np.float64)
        squares += np.square(spectra, dtype=np.float64).sum(axis=0)
    if not count:
        return
    transform = model.members[0].transform
    mean, std = (values.double().cpu().numpy() for values in (transform.band_mean, transform.band_std))
    distance = float(np.median(np.abs(total / count - mean) / std))
    spread = float(np.median(np.sqrt(np.maximum(squares / count - np.square(total / count), 0)) / std))
    if distance > _FAR or spread < _FLAT:
        logger.warning(
            "%s: its spectra are unlike the model's training pixels: the mean %.1f standard deviations off, the spread %.2g times"
            " as large (medians over bands); check scale and offset, the map is doubtful",
            scene.path,
            distance,
            spread,
        )
