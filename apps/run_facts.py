"""What is known of a run of a command, for what is written beside its results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..datasets import ClassInfo, Grid

# MLM, "Task Enum"; images made better without growing are "regression" there.
Task = Literal[
    "regression", "classification", "segmentation", "semantic-segmentation", "similarity-search", "super-resolution",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One run of a command.

    Args:
        command: such as "classify".
        parameters: what the command was called with, by parameter, paths and dataclasses as they are. With them it is repeated.
        inputs: what was read beside the model, as it was given; the first is the scene.
        model: file of the model that was used or fitted; None if there was none.
        results: what was written, by kind; the first is what the STAC item is about. They may still lie elsewhere, but have their
            final names.
        grid: of the result; None if it has no place on earth: then there is no STAC item.
        folder: where results, card and item are to lie in the end. Default: where the card is written.
        seconds: by stage.
        architecture: of the model, in a word.
        task: in the words of the MLM extension.
        bands: that the model was given: by name or centre in nm.
        classes: of class maps.
        elsewhere: where results are to lie that are not to lie in the folder, by kind.
    """

    command: str
    parameters: Mapping[str, Any]
    inputs: Sequence[str]
    model: Path | None
    results: Mapping[str, Path]
    grid: Grid | None
    folder: Path | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    architecture: str = ""
    task: Task | None = None
    bands: Sequence[str] = ()
    classes: Sequence[ClassInfo] = ()
    elsewhere: Mapping[str, Path] = field(default_factory=dict)
