"""Cases that a ``dataset.json`` lists: Medical Segmentation Decathlon, nnU-Net, MONAI."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..sidecars import inside
from .case import Case, CaseSet, LabelTarget, some
from .folders import cases_of_folder, stem


def cases_of_json(path: Path) -> CaseSet:
    """Read a ``dataset.json``.

    Raises:
        FileNotFoundError: if files that it lists are missing.
        ValueError: if it is not understood, or lists files outside of its folder.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object with labels and training, got a {type(content).__name__}")  # noqa: TRY004
    channels = _channels(path, content.get("channel_names", content.get("modality")))
    targets, regions = _targets(path, content)
    entries = content.get("training")
    if isinstance(content.get("dataset"), dict):
        entries = [
            {"image": files["images"], "label": files["label"], "name": name} for name, files in content["dataset"].items()
        ]
    if entries is None or isinstance(entries, int):
        found = cases_of_folder(path.parent, channels, targets)
        return CaseSet(cases=found.cases, channels=found.channels, targets=targets, regions=regions, test=found.test, source=path)
    cases = _cases(path, entries, labelled=True)
    tests = _cases(path, content.get("test") or [], labelled=False)
    _check_files(path, [*cases, *tests])
    if channels is None:
        channels = tuple(map(str, range(len(cases[0].images))))
    return CaseSet(
        cases=tuple(sorted(cases, key=lambda case: case.name)),
        channels=channels,
        targets=targets,
        regions=regions,
        test=tuple(tests),
        folds=_folds(path, entries, cases),
        source=path,
    )


def _channels(path: Path, given: Any) -> tuple[str, ...] | None:
    if given is None:
        return None
    if isinstance(given, str):
        return (given,)
    if isinstance(given, Mapping):
        if not all(str(key).isdigit() for key in given):
            raise ValueError(f'{path}: channels are named as {{"0": "T1", "1": "T2"}}, not {json.dumps(given)[:80]}')
        return tuple(str(given[key]) for key in sorted(given, key=int))
    return tuple(map(str, given))


def _targets(path: Path, content: Mapping[str, Any]) -> tuple[tuple[LabelTarget, ...] | None, bool]:
    given = content.get("labels")
    if given is None:
        return None, False
    if not isinstance(given, Mapping) or not given:
        raise ValueError(f'{path}: labels are named as {{"0": "background", "1": "liver"}} or the other way round')
    named: dict[str, tuple[int, ...]] = {}
    for key, value in given.items():
        name, values = (str(value), key) if str(key).lstrip("-").isdigit() and isinstance(value, str) else (str(key), value)
        listed = values if isinstance(values, list) else [values]
        if not listed or not all(str(v).isdigit() for v in listed):
            raise ValueError(f"{path}: label {key!r}: {json.dumps(value)[:60]} is neither a name, a value nor a list of values")
        if name in named:
            raise ValueError(f"{path}: two labels are called {name}")
        named[name] = tuple(int(v) for v in listed)
    if "ignore" in named:
        raise ValueError(f"{path}: a label to ignore ({some(named['ignore'])}) is not supported")
    named = {name: values for name, values in named.items() if values != (0,)}
    order = content.get("regions_class_order")
    if order is None:
        if several := [name for name, values in named.items() if len(values) > 1]:
            raise ValueError(f"{path}: {some(several)} are regions, which need regions_class_order: the value to write for each")
        values = [values[0] for values in named.values()]
        if len(set(values)) < len(values):
            raise ValueError(f"{path}: two labels have one value")
        classes = [LabelTarget(name=name, values=values, output=values[0]) for name, values in named.items()]
        return tuple(sorted(classes, key=lambda target: target.output)), False
    if not isinstance(order, list) or len(order) != len(named) or len(set(order)) < len(order):
        raise ValueError(f"{path}: regions_class_order has to list a different value for each of the {len(named)} regions")
    found = [
        LabelTarget(name=name, values=tuple(sorted(values)), output=int(output))
        for (name, values), output in zip(named.items(), order, strict=True)
    ]
    return tuple(found), True


def _cases(path: Path, entries: Any, *, labelled: bool) -> list[Case]:
    key = "training" if labelled else "test"
    if not isinstance(entries, list) or (labelled and not entries):
        raise ValueError(f"{path}: {key} has to be a list of images" + (" with labels" if labelled else ""))
    found: dict[str, Case] = {}
    for number, entry in enumerate(entries):
        images, label = (entry.get("image"), entry.get("label")) if isinstance(entry, Mapping) else (entry, None)
        files = [images] if isinstance(images, str) else images
        if not isinstance(files, list) or not files or not all(isinstance(file, str) for file in files):
            raise ValueError(f"{path}: {key}, entry {number}: expected an image, or a list of one for each channel")
        if labelled and not isinstance(label, str):
            raise ValueError(f"{path}: {key}, entry {number} ({files[0]}): expected one label")
        paths = tuple(inside(path, file) for file in files)
        place = inside(path, label) if isinstance(label, str) and labelled else None
        name = (isinstance(entry, Mapping) and entry.get("name")) or stem(place if place is not None else paths[0])
        if name in found:
            raise ValueError(f"{path}: two cases are called {name}")
        found[name] = Case(name=name, images=paths, label=place)
    counts = {len(case.images) for case in found.values()}
    if len(counts) > 1:
        raise ValueError(f"{path}: cases of {key} have different numbers of images: {some(sorted(counts))}")
    return list(found.values())


def _check_files(path: Path, cases: Sequence[Case]) -> None:
    wanted = [file for case in cases for file in (*case.images, case.label) if file is not None]
    if missing := [file.name for file in wanted if not file.exists()]:
        raise FileNotFoundError(f"{len(missing)} of {len(wanted)} files of {path} are missing: {some(missing)}")


def _folds(path: Path, entries: Sequence[Any], cases: Sequence[Case]) -> tuple[tuple[str, ...], ...]:
    """Folds as MONAI's lists have them: a number at each case."""
    numbers = [entry.get("fold") for entry in entries]
    if all(number is None for number in numbers):
        return ()
    if not all(isinstance(number, int) for number in numbers):
        raise ValueError(f"{path}: some cases have a fold, others have none")
    return tuple(
        tuple(sorted(case.name for case, number in zip(cases, numbers, strict=True) if number == fold))
        for fold in sorted(set(numbers))
    )
