"""What is written beside every result: a run card that can repeat the run, and a STAC item that tells what the result is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..datasets import Grid


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One run of a command.

    Args:
        command: such as "classify".
        parameters: what the command was called with, by parameter; JSON. With them the run is repeated.
        inputs: files that were read.
        model: file of the model; None if there was none.
        results: what was written, by kind; the first is what the STAC item is about.
        grid: of the result.
        seconds: by stage.
        architecture: of the model, in a word.
        task: of the MLM extension, such as "semantic-segmentation".
        bands: that the model was given: by name or centre in nm.
        classes: value and name of each, for class maps.
    """

    command: str
    parameters: Mapping[str, Any]
    inputs: Sequence[str]
    model: Path | None
    results: Mapping[str, Path]
    grid: Grid
    seconds: Mapping[str, float] = field(default_factory=dict)
    architecture: str = ""
    task: str = ""
    bands: Sequence[str] = ()
    classes: Mapping[int, str] = field(default_factory=dict)


def write_run_card(path: Path, facts: RunFacts) -> None:
    """Write NAME_run.json: versions, hashes of model and inputs, parameters, timings."""
    raise NotImplementedError


def write_stac_item(path: Path, facts: RunFacts) -> None:
    """Write NAME_item.json: a STAC item with the projection, classification and MLM extensions."""
    raise NotImplementedError
