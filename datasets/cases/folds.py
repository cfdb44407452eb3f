"""Folds of a cross-validation: by subject, seeded, in nnU-Net's file format."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..writing import write_text_atomic
from .case import some

# Names that tell several images of one subject apart: BIDS ("sub-01_ses-2"), BraTS since 2023 ("BraTS-GLI-00005-001").
_SUBJECTS = (re.compile(r"(sub-[A-Za-z0-9]+)(?:_.*)?"), re.compile(r"(BraTS-[A-Za-z]+-\d+)-\d+"))


SPLITS = "splits.json"  # where geovit fit medical writes folds, beside its models


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Names of the cases that train and of those that validate."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


def make_folds(names: Sequence[str], folds: int = 5, *, seed: int = 0) -> list[Fold]:
    """Split cases at random into parts of nearly equal size, each of which validates once.

    Images of one subject stay together, where names are those of BIDS or BraTS. The same names in any order,
    number and seed give the same folds.

    Raises:
        ValueError: for fewer than two folds, or fewer subjects than folds.
    """
    subjects: dict[str, list[str]] = {}
    for name in sorted(names):
        subjects.setdefault(_subject(name), []).append(name)
    if folds < 2 or folds > len(subjects):
        raise ValueError(f"{folds} folds of {len(subjects)} subjects: allowed are 2 to {len(subjects)}")
    order = np.random.default_rng(seed).permutation(len(subjects))
    groups = list(subjects.values())
    found = []
    for part in np.array_split(order, folds):
        chosen = {name for group in part for name in groups[group]}
        train = tuple(name for name in sorted(names) if name not in chosen)
        found.append(Fold(train=train, validation=tuple(sorted(chosen))))
    return found


def split_digest(folds: Sequence[Fold]) -> str:
    """Return a hash of the names in folds, by which a split is known again without telling names."""
    parts = [[sorted(fold.train), sorted(fold.validation)] for fold in folds]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _subject(name: str) -> str:
    for pattern in _SUBJECTS:
        if match := pattern.fullmatch(name):
            return match[1]
    return name


def write_folds(path: str | Path, folds: Sequence[Fold], *, overwrite: bool = False) -> None:
    """Write folds as nnU-Net's ``splits_final.json``: a list of ``{"train": [...], "val": [...]}``.

    Raises:
        FileExistsError, OSError: as in ``geovit.datasets.atomic``.
    """
    listed = [{"train": list(fold.train), "val": list(fold.validation)} for fold in folds]
    write_text_atomic(path, json.dumps(listed, indent=1) + "\n", overwrite)


def read_folds(path: str | Path, names: Sequence[str]) -> list[Fold]:
    """Read what ``write_folds`` or nnU-Net wrote.

    Args:
        path: of the file.
        names: of the cases that there are.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no list of folds, or a fold names other cases than there are, or one case twice.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")
    folds = read_split(path)
    if not folds:
        raise ValueError(f"{path} lists no folds")
    for number, fold in enumerate(folds):
        if strange := sorted({*fold.train, *fold.validation} - set(names)):
            raise ValueError(f"{path}: fold {number} names cases that there are not: {some(strange)}")
        if twice := sorted(set(fold.train) & set(fold.validation)):
            raise ValueError(f"{path}: fold {number} trains and validates on {some(twice)}")
        if not fold.train or not fold.validation:
            raise ValueError(f"{path}: fold {number} has {len(fold.train)} cases to train and {len(fold.validation)} to validate")
    return folds


def read_split(path: str | Path) -> list[Fold]:
    """Read what ``write_folds`` wrote, whatever cases it names; nothing where there is no such file.

    Raises:
        ValueError: if it is no list of folds.
    """
    path = Path(path)
    if not path.is_file():
        return []
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        return [Fold(train=tuple(map(str, fold["train"])), validation=tuple(map(str, fold["val"]))) for fold in listed]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f'{path} is no list of {{"train": [...], "val": [...]}}') from error
