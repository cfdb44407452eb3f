"""What a run writes about itself: its options, with which it is resumed, and its history."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from .runs import Clock

METRICS = "metrics.jsonl"
OPTIONS = "options.json"


def plain_options(**given: Any) -> dict[str, Any]:
    """Return options as they are in JSON: dataclasses as mappings, paths as text."""
    plain = {key: asdict(value) if hasattr(value, "__dataclass_fields__") else value for key, value in given.items()}
    return json.loads(json.dumps(plain, default=str))  # type: ignore[no-any-return]


def require_same(file: Path, options: dict[str, Any]) -> None:
    """Check that a training is resumed with the options it was begun with.

    Raises:
        FileNotFoundError: if none wrote its options there.
        ValueError: if one differs.
    """
    if not file.is_file():
        raise FileNotFoundError(f"nothing to resume: no file {file}")
    begun = json.loads(file.read_text(encoding="utf-8"))
    for key, value in options.items():
        if begun.get(key) != value:
            raise ValueError(f"the training in {file.parent} was begun with {key} {begun.get(key)}, not {value}: resume it so")


def events(out: Path) -> Any:
    """Return Lightning's logger that writes events for TensorBoard into a folder."""
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(out, name="", version="events")


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out that Lightning advises more processes for reading: what lies in memory only gets slower by them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers")
        yield


class History(Callback):
    """Writes the list ``history`` of the task, a row for each validation, whole, after each; a resumed one goes on in its place.

    The row gets "minutes", what the training has taken.
    """

    def __init__(self, file: Path, clock: Clock) -> None:
        self.file, self.clock = file, clock

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        history: Any = pl_module.history
        history[-1]["minutes"] = round(self.clock.seconds / 60, 3)
        if trainer.is_global_zero:
            temporary = self.file.with_name(f".{self.file.name}.tmp")
            temporary.write_text("".join(json.dumps(row) + "\n" for row in history), encoding="utf-8")
            temporary.replace(self.file)
