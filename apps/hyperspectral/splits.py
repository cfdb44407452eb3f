"""Which labelled pixels train and which test."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .samples import LabelledScene, Mask


@dataclass(frozen=True, eq=False)
class Split:
    """Masks over the labelled pixels. Pixels in neither are left out."""

    training: Mask
    test: Mask


def random_split(labelled: LabelledScene, per_class: float, *, seed: int) -> Split:
    """Draw training pixels of each class at random; all others test.

    The optimistic protocol of the literature: test pixels lie beside training pixels.

    Args:
        labelled: the pixels.
        per_class: number for each class, or, below 1, share of each.
        seed: of the draw.

    Raises:
        ValueError: a class has too few pixels to train and to test.
    """
    random = np.random.default_rng(seed)
    training = np.zeros(len(labelled), dtype=np.bool_)
    for k, info in enumerate(labelled.classes):
        pixels = random.permutation(_in_order(labelled, labelled.targets == k))
        count = int(per_class) if per_class >= 1 else max(round(per_class * len(pixels)), 2)
        if count >= len(pixels):
            raise ValueError(f"class {info.name} has {len(pixels)} pixels: {count} to train on leave none to test")
        training[pixels[:count]] = True
    return Split(training, ~training)


def thinned(labelled: LabelledScene, split: Split, per_class: float, *, seed: int) -> Split:
    """Return a split with fewer training pixels of each class, drawn at random; a class that has fewer keeps all of them.

    Args:
        labelled: the pixels.
        split: its test stays as it is.
        per_class: number for each class, or, below 1, share of each, two pixels at least.
        seed: of the draw.
    """
    random = np.random.default_rng(seed)
    training = np.zeros_like(split.training)
    for k in range(len(labelled.classes)):
        pixels = random.permutation(_in_order(labelled, split.training & (labelled.targets == k)))
        count = int(per_class) if per_class >= 1 else max(round(per_class * len(pixels)), 2)
        training[pixels[:count]] = True
    return Split(training, split.test)


def block_split(labelled: LabelledScene, *, block: int, buffer: int, share: float, seed: int) -> Split:
    """Cut the scene into square blocks; some test, the others train but for pixels within ``buffer`` of a test pixel.

    Blocks are drawn until ``share`` of the labelled pixels test. A draw is repeated until every class keeps two training
    pixels, as classes in a single place do if they are absent from the test. Where no draw manages that, the classes without
    are in neither part.

    Args:
        labelled: the pixels.
        block: pixels on a side.
        buffer: distance in rows or columns, whichever is larger, that no training pixel comes nearer to a test pixel.
        share: of the labelled pixels that test, at least.
        seed: of the draw.

    Raises:
        ValueError: no draw leaves pixels of two classes to train on, and pixels to test.
    """
    random = np.random.default_rng(seed)
    of_pixel = labelled.rows // block * labelled.shape[1] + labelled.columns // block
    blocks, of_pixel, counts = np.unique(of_pixel, return_inverse=True, return_counts=True)
    best, most = None, -1
    for _ in range(200):
        order = random.permutation(len(blocks))
        drawn = order[: int(np.searchsorted(np.cumsum(counts[order]), share * len(labelled))) + 1]
        test = np.isin(of_pixel, drawn)
        training = ~test & (distance_to(labelled, test) > buffer)
        kept = np.bincount(labelled.targets[training], minlength=len(labelled.classes)) >= 2
        known = kept[labelled.targets]
        if kept.sum() > most and (test & known).any():
            best, most = Split(training & known, test & known), int(kept.sum())
        if kept.all():
            break
    if best is None or most < 2:
        raise ValueError(
            f"blocks of {block} pixels with a buffer of {buffer} leave no pixels of two classes to train on: choose smaller ones"
        )
    return best


def distance_to(labelled: LabelledScene, chosen: Mask) -> NDArray[np.int64]:
    """Of each labelled pixel, the larger of row and column distance to the nearest chosen pixel."""
    places = np.stack([labelled.rows, labelled.columns], axis=1)
    distance, _ = cKDTree(places[chosen]).query(places, p=np.inf)
    return np.asarray(distance, dtype=np.int64)


def leakage(labelled: LabelledScene, split: Split, reach: int) -> float:
    """Share of the test pixels whose context, ``reach`` pixels on every side, holds a training pixel."""
    return float((distance_to(labelled, split.training)[split.test] <= reach).mean())


def _in_order(labelled: LabelledScene, chosen: Mask) -> NDArray[np.int64]:
    """Numbers of the chosen pixels, row by row: a draw from them is the same however the scene was cut into tiles."""
    pixels = np.flatnonzero(chosen)
    return pixels[np.lexsort((labelled.columns[pixels], labelled.rows[pixels]))]
