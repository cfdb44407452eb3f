"""What an app says of a model that is exported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

_ODD = 7  # positions from one size to the next, where any size is allowed


def noise(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Numbers in 0..1, the input of most networks."""
    return torch.rand(tuple(shape), generator=generator)


@dataclass(frozen=True, kw_only=True, eq=False)
class Exportable:
    """A model with one input and one output, and what else its file tells.

    Args:
        module: (batch, channels, *size) float32 to (batch, outputs, *(scale * size)), in evaluation mode, on the CPU.
        channels: of its input.
        multiple: of which each size is; its length is the number of axes. 0: that size is ``smallest`` and no other.
        smallest: each size at the least.
        single: whether it takes one image at a time instead of any number.
        scale: output positions for each input position on an axis.
        app: its application, such as "restoration".
        model: its architecture, in a word.
        about: what the app's own commands need to know, as JSON: bands, classes, preparation.
        meaning: of the input and of the output, for people.
        traced: number of the size that is traced; large enough that no grid of the model has one position.
        sample: makes an input of a shape that looks like real ones, for the comparison.
    """

    module: nn.Module
    channels: int
    multiple: tuple[int, ...]
    smallest: tuple[int, ...]
    scale: float
    app: str
    model: str
    about: Mapping[str, Any]
    meaning: tuple[str, str]
    traced: int = 2
    single: bool = False
    sample: Callable[[Sequence[int], torch.Generator], Tensor] = field(default=noise)

    def described(self) -> dict[str, Any]:
        """Return what the file tells, but for what is measured."""
        name, made = self.meaning
        shape = {"channels": self.channels, "multiple": list(self.multiple), "smallest": list(self.smallest)}
        return {
            "app": self.app,
            "model": self.model,
            "input": {"means": name, "dtype": "float32", **shape, "single": self.single},
            "output": {"means": made, "dtype": "float32", "scale": self.scale},
            "about": dict(self.about),
        }

    def size(self, step: int) -> tuple[int, ...]:
        """Return the ``step``-th size from the smallest on, another on each axis."""
        sides = enumerate(zip(self.smallest, self.multiple, strict=True))
        return tuple(least + (_ODD if m == 1 else m) * (step + axis * (step > 0)) for axis, (least, m) in sides)
