"""Run cards read back: the same parameters again, if the files are still the same.

A card may come from someone else. What is taken from it are values of the command's own parameters, and of these none that tells
where to write, what to replace or which machine to connect to; it names no class, and nothing in it is run.
"""

import json
import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..datasets.identity import differs, files_of
from ..datasets.several import MOSAIC, STACK
from .cards import CARD, plain, versions

logger = logging.getLogger(__name__)

_MOST_BYTES = 2**24
_NEVER = frozenset({"out", "overwrite", "resume", "dask", "max_memory", "vectorize", "progress", "debug", "config"})
_NOR = {"segment": frozenset({"report"})}  # a file to write; elsewhere it is said whether one is written
_NOR_ELSEWHERE = frozenset({"plan"})  # writes nothing; of a segmentation it is how images are prepared
_CHOOSE = frozenset({"model", "weights"})  # parameters that name the model
_DECIDE = ("geovit", "torch", "gdal")  # versions that results are known to depend on


@dataclass(frozen=True, eq=False)
class Repeated:
    """What a run card asks for.

    Args:
        file: the card.
        parameters: of the command, JSON.
        inputs: what is known of the files of each input.
        model: what is known of the model's file; None if none was given.
        versions: that the run was made with.
    """

    file: Path
    parameters: Mapping[str, Any]
    inputs: Mapping[str, Any]
    model: Mapping[str, Any] | None
    versions: Mapping[str, Any]

    def check(self, options: Mapping[str, Any]) -> None:
        """Find out whether a run is the card's again; what was given anew is not looked at.

        Args:
            options: of the run.

        Raises:
            ValueError: files are missing or differ; one line that says which and how.
        """
        anew = {key for key, value in self.parameters.items() if key in options and plain(options[key]) != value}
        replaced = {str(text) for key in anew for text in _texts(self.parameters[key])}
        differences = [
            difference
            for given, known in self.inputs.items()
            if given not in replaced
            for difference in _differences(given, files_of(given), known)
        ]
        if self.model is not None and not anew & _CHOOSE:
            file = str(self.model.get("path"))
            there = Path(file).is_file()
            # One that was not named came with the package, which may lie elsewhere here; its version is compared.
            if there or any(self.parameters.get(name) is not None for name in _CHOOSE):
                differences += _differences(file, [file] if there else [], [self.model])
        if differences:
            more = f", and {len(differences) - 3} more" if len(differences) > 3 else ""
            raise ValueError(f"{self.file}: the run cannot be repeated: {'; '.join(differences[:3])}{more}")
        here = versions()
        others = [f"{name} {self.versions[name]}" for name in _DECIDE if self.versions.get(name, here[name]) != here[name]]
        if others:
            logger.warning("%s was made with %s: bytes may differ", self.file, ", ".join(others))


def read_card(file: Path, command: str, allowed: Collection[str]) -> Repeated:
    """Read a run card.

    Args:
        file: that a run of the command wrote.
        command: that is to be run.
        allowed: its parameters.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no run card, one of another command, or one with parameters that the command does not have.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    if file.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{file}: larger than any run card")
    try:
        card = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not a run card ({' '.join(str(error).split())[:200]})") from error
    if isinstance(card, dict) and card.get("type") == "Feature" and "stac_version" in card:
        beside = file.name.removesuffix("_item.json") + "_run.json"
        raise ValueError(f"{file}: a STAC item, which repeats nothing; the run card beside it does: {file.with_name(beside)}")
    if not isinstance(card, dict) or card.get("format") != CARD:
        raise ValueError(f"{file}: not a run card of geovit, which begins with {CARD!r}")
    if card.get("command") != command:
        raise ValueError(f"{file}: a card of geovit {str(card.get('command'))[:40]}, not of geovit {command}")
    parts = {name: card.get(name) for name in ("parameters", "inputs", "versions", "model")}
    wrong = [name for name, part in parts.items() if not (isinstance(part, dict) or (name == "model" and part is None))]
    if wrong:
        raise ValueError(f"{file}: damaged: {wrong[0]} is no JSON object")
    parameters: dict[str, Any] = card["parameters"]
    never = _NEVER | _NOR.get(command, _NOR_ELSEWHERE)
    strange = next((key for key in parameters if key not in {*allowed, *never}), None)
    if strange is not None:
        raise ValueError(f"{file}: geovit {command} has no parameter {strange[:40]!r}")
    try:
        named = _names_class(parameters)
    except RecursionError as error:
        raise ValueError(f"{file}: not a run card (nested too deeply)") from error
    if named:
        raise ValueError(f"{file}: names a class to load, which no run card does")
    kept = {key: value for key, value in parameters.items() if key not in never and key in allowed}
    return _from_here(Repeated(file, kept, card["inputs"], card.get("model"), card["versions"]), card.get("folder"))


def _from_here(card: Repeated, folder: Any) -> Repeated:
    """Name files as they are named from the working folder: relative paths begin at the folder that the run was started in.

    Where a file is not there, or the card does not say where that was, its name stays, and may be that of a file here.
    """
    if not isinstance(folder, str):
        return card
    there = (card.file.parent / folder).resolve()
    local = [given for given, known in card.inputs.items() if known]
    if card.model is not None:
        local.append(str(card.model.get("path")))
    moved = {given: _moved(given, there) for given in local} if there != Path.cwd() else {}

    def named(value: Any) -> Any:
        if isinstance(value, list):
            return [named(item) for item in value]
        return moved.get(value, value) if isinstance(value, str) else value

    model = None if card.model is None else {**card.model, "path": named(card.model.get("path"))}
    inputs = {named(given): known for given, known in card.inputs.items()}
    return replace(card, parameters={key: named(value) for key, value in card.parameters.items()}, inputs=inputs, model=model)


def _moved(given: str, folder: Path) -> str:
    """Return a source, which may be of several files, with what is relative in it beginning at a folder, if that is there."""
    for joint in ("", STACK, MOSAIC):
        words = given.split(joint) if joint else [given]
        moved = joint.join(str(folder / word.strip()) for word in words)
        with suppress(OSError, ValueError):
            if files_of(moved):
                return moved
    return given


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _names_class(value: Any) -> bool:
    if isinstance(value, dict):
        return "class_path" in value or any(map(_names_class, value.values()))
    return isinstance(value, list) and any(map(_names_class, value))


def _texts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _differences(given: str, files: list[str], known: Any) -> list[str]:
    if not isinstance(known, list) or not all(isinstance(item, dict) for item in known):
        return [f"what it knows of {given} is damaged"]
    if not known:  # no local file then
        return []
    if not files:
        return [f"{given}: no such file"]
    if len(files) != len(known):
        return [f"{given} consists of {len(files)} files instead of {len(known)}"]
    found = []
    for file, item in zip(files, known, strict=True):
        if why := differs(file, item):
            found.append(f"{file}: {why}")
    return found
