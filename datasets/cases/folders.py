"""Cases by their file names: folders of images and labels, or a folder for each case."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..volumes import open_volume
from ..volumes.paths import SUFFIXES
from .case import Case, CaseSet, LabelTarget, some

_PAIRS = (("imagesTr", "labelsTr", "imagesTs"), ("images", "labels", "images_test"))
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_LABEL_ENDINGS = ("seg", "label", "labels", "mask")


def cases_of_folder(
    folder: Path, channels: Sequence[str] | None = None, targets: tuple[LabelTarget, ...] | None = None
) -> CaseSet:
    """List the cases of a folder.

    Args:
        folder: where ``images`` and ``labels`` are, or a folder for each case.
        channels: names, where known.
        targets: classes, where known; else those of ``labels.csv``, if there is one.

    Raises:
        FileNotFoundError: if it has no cases.
        ValueError: if images and labels do not go together.
    """
    if targets is None and (folder / "labels.csv").is_file():
        targets = _names_of_csv(folder / "labels.csv")
    for images, labels, test in _PAIRS:
        if (folder / images).is_dir() and (folder / labels).is_dir():
            cases, endings = _paired(folder / images, folder / labels, len(channels) if channels else None)
            tests = _grouped(_volumes(folder / test), len(endings) > 0)[0] if (folder / test).is_dir() else {}
            break
    else:
        cases, endings = _folder_for_each(folder, channels)
        tests = {}
    if not cases:
        raise FileNotFoundError(
            f"{folder} has no cases: expected folders images and labels, or one for each case, or dataset.json"
        )
    if channels is None:
        channels = endings or _channels_of(cases[0])
    return CaseSet(
        cases=tuple(cases),
        channels=tuple(channels),
        targets=targets,
        test=tuple(Case(name=name, images=files) for name, files in tests.items()),
        source=folder,
    )


def stem(path: Path) -> str:
    """Return the name of a file without its suffix, also of two parts as ".nii.gz"."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name if path.is_dir() else path.stem


def _volumes(folder: Path) -> dict[str, Path]:
    """Files and folders (DICOM series) of a folder by their names; hidden and other files are left out.

    Raises:
        ValueError: if two differ in their suffix only.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not (path.is_dir() or path.name.lower().endswith(SUFFIXES)):
            continue
        if stem(path) in found:
            raise ValueError(f"{folder}: {found[stem(path)].name} and {path.name} differ in their suffix only")
        found[stem(path)] = path
    return found


def _grouped(files: Mapping[str, Path], numbered: bool) -> tuple[dict[str, tuple[Path, ...]], tuple[str, ...]]:
    """Files of each case in the order of their channel numbers, and those numbers, equal for all cases.

    Raises:
        ValueError: if cases have different channels.
    """
    if not numbered:
        return {name: (path,) for name, path in files.items()}, ()
    cases: dict[str, dict[str, Path]] = {}
    for name, path in files.items():
        match = _CHANNEL.fullmatch(name)
        if match is None:
            raise ValueError(f"{path} has no channel number as _0000, but others have")
        cases.setdefault(match[1], {})[match[2]] = path
    numbers = sorted({number for parts in cases.values() for number in parts})
    for name, parts in cases.items():
        if lacking := [number for number in numbers if number not in parts]:
            raise ValueError(f"{name} has no channel {some(lacking)}, but others have")
    return {name: tuple(parts[number] for number in numbers) for name, parts in cases.items()}, tuple(numbers)


def _paired(images: Path, labels: Path, channels: int | None) -> tuple[list[Case], tuple[str, ...]]:
    """Cases of two folders, and the channel numbers that are their own files."""
    pictures, maps = _volumes(images), _volumes(labels)
    if not pictures:
        raise FileNotFoundError(f"{images} has no volumes: expected files {', '.join(SUFFIXES)} or folders of DICOM files")
    # A name as scan_0001 is a channel number only if labels go without.
    plain = len(pictures.keys() & maps.keys())
    stripped = [match[1] for name in pictures if (match := _CHANNEL.fullmatch(name))]
    numbered = len(maps.keys() & set(stripped)) > plain or (not plain and len(stripped) == len(pictures) and bool(channels))
    groups, numbers = _grouped(pictures, numbered)
    if alone := [name for name in groups if name not in maps]:
        raise ValueError(f"{len(alone)} of {len(groups)} images in {images} without label: {some(alone)}{_near(alone[0], maps)}")
    if alone := [name for name in maps if name not in groups]:
        raise ValueError(f"{len(alone)} of {len(maps)} labels in {labels} without image: {some(alone)}{_near(alone[0], groups)}")
    return [Case(name=name, images=files, label=maps[name]) for name, files in groups.items()], numbers


def _near(name: str, others: Mapping[str, object]) -> str:
    """Point to a name that differs in its ending only, as a_img and a_seg."""
    for other in others:
        begin = _begin(name, other)
        ends = {name[len(begin) :], other[len(begin) :]}
        if begin and all(re.fullmatch(r"[-_.]?[A-Za-z]*|[-_.].*", end) for end in ends):
            return f" (names must be equal: {name} is not {other})"
    return ""


def _begin(one: str, other: str) -> str:
    same = [a == b for a, b in zip(one, other, strict=False)]
    return one[: (*same, False).index(False)]


def _folder_for_each(folder: Path, channels: Sequence[str] | None) -> tuple[list[Case], tuple[str, ...]]:
    """Cases of one folder each, with files named by channel, and the names of these."""
    cases: list[Case] = []
    names: tuple[str, ...] | None = tuple(channels) if channels else None
    for sub in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files = {re.sub(rf"^{re.escape(sub.name)}[-_]", "", name): path for name, path in _volumes(sub).items()}
        labels = [ending for ending in files if ending.lower() in _LABEL_ENDINGS]
        if not files or not labels:
            continue
        if len(labels) > 1:
            raise ValueError(f"{sub} has two labels: {some(labels)}")
        label = files.pop(labels[0])
        names = names or tuple(sorted(files))
        if set(names) != set(files):
            raise ValueError(f"{sub} has the channels {some(sorted(files))}, expected {', '.join(names)}")
        cases.append(Case(name=sub.name, images=tuple(files[name] for name in names), label=label))
    return cases, names or ()


def _channels_of(case: Case) -> tuple[str, ...]:
    count = len(open_volume(case.images[0]).voxels) if len(case.images) == 1 else len(case.images)
    return tuple(map(str, range(count)))


def _names_of_csv(path: Path) -> tuple[LabelTarget, ...]:
    """Read lines of value and name; a first line without number is a heading, 0 is background.

    Raises:
        ValueError: if a line is no such, or a value comes twice.
    """
    names: dict[int, str] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            cells = [cell.strip() for cell in row]
            if not any(cells) or (number == 1 and not cells[0].isdigit()):
                continue
            if len(cells) < 2 or not cells[0].isdigit() or not cells[1]:
                raise ValueError(f"{path}, line {number}: expected a value and a name, as 1,liver")
            value = int(cells[0])
            if value in names:
                raise ValueError(f"{path}, line {number}: value {value} has two names")
            names[value] = cells[1]
    names.pop(0, None)
    if not names:
        raise ValueError(f"{path} names no classes")
    return tuple(LabelTarget(name=names[value], values=(value,), output=value) for value in sorted(names))
