"""A written program against the module that it was made of."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram

from ..memory import LiveBytes
from .exportable import Exportable

_STEPS = (0, 1, 3)  # of the sizes that are compared, none of which is traced


@dataclass(frozen=True)
class Checked:
    """How far a program is from PyTorch.

    Args:
        sizes: of the inputs that were compared, none of them the traced one.
        error: the largest absolute difference of any of them.
        scale: the largest absolute value of any output.
    """

    sizes: tuple[tuple[int, ...], ...]
    error: float
    scale: float

    @property
    def share(self) -> float:
        """The error as a share of the largest value."""
        return self.error / max(self.scale, 1e-30)


def check(exportable: Exportable, run: Callable[[NDArray[np.float32]], NDArray[np.float32]], *, tolerance: float) -> Checked:
    """Compare a program with the module as it runs here, compiled kernels and all, on three sizes that it was not traced with.

    A program of one size is compared on one and three images at once, of which two were traced, or, if it takes one at a time, on
    two images.

    Args:
        exportable: the model.
        run: the program.
        tolerance: the largest difference that is allowed, as a share of the largest value.

    Raises:
        ValueError: if the program fails, or differs by more.
    """
    generator = torch.Generator().manual_seed(1)
    error = scale = 0.0
    sizes: list[tuple[int, ...]] = []
    fixed = not any(exportable.multiple)
    for step in (0, 2) if fixed else _STEPS:
        size, batch = exportable.size(step), 1 + (0 if exportable.single else step if fixed else step == 1)
        x = exportable.sample((batch, exportable.channels, *size), generator)
        with torch.no_grad():
            expected: Tensor = exportable.module(x).float()
        try:
            made = torch.from_numpy(run(x.numpy()))
        except Exception as failure:
            told = " ".join(str(failure).split())[:240]
            raise ValueError(f"{exportable.model}: the exported program fails on {_told(x.shape)}: {told}") from failure
        if made.shape != expected.shape:
            shapes = f"{_told(made.shape)} of {_told(x.shape)}, not {_told(expected.shape)}"
            raise ValueError(f"{exportable.model}: the exported program makes {shapes}")
        # A difference that is no number is the largest of all.
        error = max(error, float((made - expected).abs().nan_to_num(torch.inf).max()))
        scale = max(scale, float(expected.abs().max()))
        sizes.append((batch, *size))
    checked = Checked(tuple(sizes), error, scale)
    if not checked.share <= tolerance:
        raise ValueError(
            f"{exportable.model}: the exported program differs from PyTorch by {checked.share:.1e} of the largest value,"
            f" {tolerance:.0e} is allowed: it was not kept"
        )
    return checked


@torch.no_grad()
def bytes_per_position(exportable: Exportable, program: ExportedProgram) -> int:
    """Return the bytes that the program takes at its peak for each position of its input, weights excluded."""
    size = exportable.size(3)
    x = exportable.sample((1, exportable.channels, *size), torch.Generator().manual_seed(2))
    module = program.module(check_guards=False)
    with LiveBytes() as live:
        module(x)
    return math.ceil((int(live.peak) + x.nbytes) / math.prod(size))


def _told(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
