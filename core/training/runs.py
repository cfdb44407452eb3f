"""A run that may be stopped at any moment and goes on as if it had not been."""

import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, WeightAveraging
from torch import Tensor

LAST = "last.ckpt"
BEST = "best.safetensors"


def state_file(out: Path, *, resume: bool) -> Path:
    """Return the file of a run's state, after a check that there is one to go on from, or none that would be lost.

    Raises:
        FileNotFoundError: if a run is to be resumed and has saved no state.
        ValueError: if a new one would go where another's state lies.
        OSError: if the folder cannot be made or written to.
    """
    last = out / LAST
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{out} cannot be a folder for results: {there} is a file")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(f"cannot write to {out}: {error.strerror}") from error
    if resume and not last.is_file():
        raise FileNotFoundError(f"nothing to resume: no file {last}")
    if not resume and last.exists():
        raise ValueError(f"{last} is of an earlier training: resume it, or choose another folder")
    return last


def seed_of(*parts: int) -> int:
    """Mix numbers, such as the seed of a run, a step and a device, into a seed of 64 bits for torch."""
    words = np.random.SeedSequence(parts).generate_state(2)
    return int(words[0]) << 32 | int(words[1])


class SeededSteps(Callback):
    """Seeds torch's own generator anew at each step, for dropout: a resumed training drops what it would have dropped."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(seed_of(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank))


class SaveState(Checkpoint):
    """Saves the state after every validation, after all other callbacks; the file is the old or the new one, never a part."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        temporary = self.file.with_name(f".{self.file.name}.tmp")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            temporary.replace(self.file)


class Averaging(WeightAveraging):
    """Averages the weights of late steps exponentially; the averaged ones are validated and left at the end.

    The first n steps count as in an average of all steps, n / (n + 10), until that passes the decay: else a short training would
    end with its random start in it. Buffers of whole numbers, such as an index, are copied: an average rounds them down.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=self._average)
        self.decay = decay

    @torch.no_grad()
    def _average(self, averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        if averaged[0].is_floating_point():
            decay = min(self.decay, int(count) / (int(count) + 10))
            torch._foreach_lerp_(list(averaged), list(current), 1 - decay)
        else:
            for mine, other in zip(averaged, current, strict=True):
                mine.copy_(other)


class Clock(Callback):
    """Ends a training after some time, that of runs before it was resumed counted in, and tells how many steps it will have.

    Args:
        steps: at most.
        minutes: at most; None for no limit.
    """

    def __init__(self, steps: int, minutes: float | None) -> None:
        self.steps, self.minutes = steps, minutes
        self._begun, self._before = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        """Time that the training has taken."""
        return self._before + time.monotonic() - self._begun

    def expected(self, step: int) -> float:
        """Return how many steps the training will have, as it looks at a step."""
        if self.minutes is None:
            return self.steps
        done = min(self.seconds / (60 * self.minutes), 1.0)
        return min(self.steps, step / done) if step and done else self.steps

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        over = self.minutes is not None and self.seconds >= 60 * self.minutes
        if trainer.strategy.reduce_boolean_decision(over, all=False):
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before, self._begun = float(state_dict["seconds"]), time.monotonic()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end a training by Lightning as it ends everything else, and further ones be heard."""
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:  # how Lightning answers Ctrl-C, and it has all further ones ignored
        signal.signal(signal.SIGINT, on_interrupt)
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise stop.__context__ from None
        raise
