"""Cases: images of patients with label maps, from a folder or a ``dataset.json``, and how they are split."""

from .case import Case, CaseSet, LabelTarget
from .folds import SPLITS, Fold, make_folds, read_folds, read_split, split_digest, write_folds
from .opening import open_cases
from .pairing import LabelPair, pair_labels, read_pair
from .reading import read_case

__all__ = [
    "SPLITS",
    "Case",
    "CaseSet",
    "Fold",
    "LabelPair",
    "LabelTarget",
    "make_folds",
    "open_cases",
    "pair_labels",
    "read_case",
    "read_folds",
    "read_pair",
    "read_split",
    "split_digest",
    "write_folds",
]
