"""Predicted label maps and the true ones that they belong to."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..volumes import Volume, open_volume
from ..volumes.paths import SUFFIXES
from .case import some
from .folders import stem
from .reading import grid_difference, whole_numbers

logger = logging.getLogger(__name__)

_ENDING = re.compile(r"[-_](seg|label|labels|mask)$")
_PREDICTION = "_seg"


@dataclass(frozen=True, kw_only=True)
class LabelPair:
    """A predicted label map and the true one.

    Args:
        name: of the case.
        prediction, label: files.
    """

    name: str
    prediction: Path
    label: Path


def pair_labels(predictions: str | Path, labels: str | Path) -> tuple[list[LabelPair], list[str]]:
    """Find the true label map of each predicted one.

    Args:
        predictions: a file, or a folder of them; if names in it end in _seg, as ``geovit segment`` writes them, only these count.
        labels: a file, or a folder with files of the same names but for endings such as _seg and _label.

    Returns:
        Pairs sorted by name, and the names of labels without prediction.

    Raises:
        FileNotFoundError: if there is no such file or folder, or nothing in it.
        ValueError: if a file is paired with a folder, a prediction has no label, or two have the same name.
    """
    predictions, labels = Path(predictions), Path(labels)
    for path in (predictions, labels):
        if not path.exists():
            raise FileNotFoundError(f"no folder or file {path}")
    if predictions.is_dir() != labels.is_dir():
        raise ValueError(f"{predictions} and {labels}: expected two folders or two files")
    if not predictions.is_dir():
        return [LabelPair(name=_name(predictions), prediction=predictions, label=labels)], []
    found = _files(predictions)
    if own := [path for path in found if stem(path).endswith(_PREDICTION)]:
        if len(own) < len(found):
            logger.info("%d files of %s that do not end in %s are left out", len(found) - len(own), predictions, _PREDICTION)
        found = own
    predicted, true = _named(found, predictions), _named(_files(labels), labels)
    if alone := [path.name for name, path in predicted.items() if name not in true]:
        raise ValueError(f"{len(alone)} of {len(predicted)} label maps in {predictions} without one in {labels}: {some(alone)}")
    pairs = [LabelPair(name=name, prediction=predicted[name], label=true[name]) for name in sorted(predicted)]
    return pairs, sorted(true.keys() - predicted.keys())


def read_pair(pair: LabelPair) -> tuple[NDArray[np.integer], NDArray[np.integer], Volume]:
    """Read a predicted label map and the true one, (i, j, k), and the volume of the latter.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file cannot be read, has more than one channel or values that are no whole numbers, or the grids differ
            by more than a tenth of a voxel.
    """
    predicted, true = (_label(path) for path in (pair.prediction, pair.label))
    if problem := grid_difference(predicted, true):
        raise ValueError(f"{pair.prediction} is on another grid than {pair.label}: {problem}")
    return whole_numbers(predicted), whole_numbers(true), true


def _label(path: Path) -> Volume:
    volume = open_volume(path)
    if len(volume.voxels) != 1:
        raise ValueError(f"{path} has {len(volume.voxels)} channels; a label map has one")
    return volume


def _name(path: Path) -> str:
    return _ENDING.sub("", stem(path))


def _files(folder: Path) -> list[Path]:
    files = sorted(
        p for p in folder.iterdir() if p.name.lower().endswith(SUFFIXES) and not p.name.startswith(".") and p.is_file()
    )
    if not files:
        raise FileNotFoundError(f"{folder} has no label maps: expected files {', '.join(SUFFIXES)}")
    return files


def _named(files: list[Path], folder: Path) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for path in files:
        other = named.setdefault(_name(path), path)
        if other is not path:
            raise ValueError(f"{folder}: {other.name} and {path.name} are both of a case {_name(path)}")
    return named
