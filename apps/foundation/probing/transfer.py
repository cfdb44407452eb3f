"""A probe trained on one sensor's features, asked about another's, or about fewer bands."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....datasets.sensors import SensorImage
from .cells import Cells, Fold
from .labelled import LabelledImages
from .probes import Features
from .scoring import Interval, interval
from .study import Scorer, predict


@dataclass(frozen=True)
class Moved:
    """What a probe makes of images that it was not trained on.

    Args:
        accuracy: balanced.
        drop: share of the balanced accuracy on the sensor of its training that is lost.
    """

    accuracy: Interval
    drop: Interval


def measure_transfer(
    cells: Cells,
    folds: Sequence[Fold],
    extractors: Mapping[str, Callable[[Sequence[SensorImage]], list[Features]]],
    data: LabelledImages,
    *,
    block: int,
    draws: int,
    seed: int,
) -> dict[str, dict[str, Moved]]:
    """Train linear probes on features of one sensor, and test them on those of others, of the same cells and folds.

    Args:
        cells: with classes.
        folds: which train and test.
        extractors: what makes features of images, by name.
        data: images, and others of the same places.
        block, draws, seed: as for ``compare``.

    Returns:
        By extractor and by name of the others; the sensor of the training comes first, without drop.
    """
    groups = cells.blocks(block)
    scorer = Scorer(cells, folds, groups=groups, draws=draws, seed=seed)
    found: dict[str, dict[str, Moved]] = {}
    for name, extract in extractors.items() if data.others else ():
        own = [_filled(features) for features in extract(data.images)]
        home = scorer.figures(predict(cells, folds, own, "linear", groups=groups))
        rows = {data.sensor: Moved(interval(home), Interval(0.0, 0.0, 0.0))}
        for other, images in data.others.items():
            asked = [_filled(features) for features in extract(images)]
            figures = scorer.figures(predict(cells, folds, own, "linear", groups=groups, asked=asked))
            rows[other] = Moved(interval(figures), interval(1 - figures / np.maximum(home, 1e-12)))
        found[name] = rows
    return found


def _filled(features: Features) -> Features:
    return np.nan_to_num(features)
