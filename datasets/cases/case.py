"""What a case is, and a set of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Case:
    """The files of one patient.

    Args:
        name: unique in its set; of the files, without suffix.
        images: one for each channel, or one with all channels.
        label: the label map, on the same grid; None of cases for testing.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None = None


@dataclass(frozen=True, kw_only=True)
class LabelTarget:
    """A class, or a region of several label values, as a ``dataset.json`` names it.

    Args:
        name: for users.
        values: in label maps; of a class exactly one.
        output: value in written label maps.
    """

    name: str
    values: tuple[int, ...]
    output: int


@dataclass(frozen=True, kw_only=True)
class CaseSet:
    """Cases that one network can learn from.

    Args:
        cases: with label maps, sorted by name.
        channels: names of the images' channels, such as "CT" or "FLAIR"; "0", "1", ... where nothing names them.
        targets: classes or regions without background; None where nothing names them: then they are the values in the maps.
        regions: whether targets are regions, which may overlap, in the order in which a map is painted.
        test: cases without label map.
        folds: for each fold the names of its validation cases, where the file says so; else empty.
        source: where the set was found.
    """

    cases: tuple[Case, ...]
    channels: tuple[str, ...]
    targets: tuple[LabelTarget, ...] | None = None
    regions: bool = False
    test: tuple[Case, ...] = ()
    folds: tuple[tuple[str, ...], ...] = ()
    source: Path | None = None


def some(names: Sequence[object]) -> str:
    """Return the first few of many names, for a line that tells of them."""
    return ", ".join(map(str, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
