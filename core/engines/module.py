"""An exported program in the place of a network."""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .engine import Exported


class EngineModule(nn.Module):
    """(batch, channels, *size) to what the program makes of it: filled up with zeros to a size that the program takes.

    The output is on the device of the input, though the program runs on the CPU; a cut to the size given, times the scale of the
    program, is made of it.

    Args:
        exported: the program, whose metadata tell the multiples and the smallest sizes of its input.
    """

    def __init__(self, exported: Exported) -> None:
        super().__init__()
        self.exported = exported
        told = exported.metadata["input"]
        self.channels, self.multiple, self.smallest = told["channels"], tuple(told["multiple"]), tuple(told["smallest"])
        self.single = bool(told["single"])
        self.scale = int(exported.metadata["output"]["scale"])
        self._bytes = exported.metadata["bytes_per_position"]

    @property
    def fixed_size(self) -> tuple[int, ...] | None:
        """The one size that the program computes; None if it computes others."""
        return None if any(self.multiple) else self.smallest

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Run the program.

        Raises:
            ValueError: for another number of axes or channels, or a larger image than a program of one size takes.
        """
        if x.ndim != len(self.multiple) + 2 or x.shape[1] != self.channels:
            raise ValueError(
                f"{self.exported.path}: the input is {list(x.shape)}, expected (batch, {self.channels} channels,"
                f" {len(self.multiple)} axes)"
            )
        size = x.shape[2:]
        if self.fixed_size is not None and any(n > s for n, s in zip(size, self.fixed_size, strict=True)):
            raise ValueError(f"{self.exported.path} was exported for images of {list(self.fixed_size)}, got {list(size)}")
        filled = [max(-(-n // m) * m if m else 0, s) for n, m, s in zip(size, self.multiple, self.smallest, strict=True)]
        missing = [f - n for n, f in zip(size, filled, strict=True)]
        if any(missing):
            x = F.pad(x, [p for m in reversed(missing) for p in (0, m)])
        # Never touched, so that it takes no memory; it tells those who count tensors what the runtime takes beside them.
        at_once = 1 if self.single else len(x)
        told = torch.empty(self._bytes * at_once * math.prod(filled), dtype=torch.uint8)
        values = x.detach().float().cpu().numpy().astype(np.float32, copy=False)
        run = self.exported.engine.run
        y = torch.from_numpy(np.concatenate([run(one[None]) for one in values]) if self.single else run(values))
        del told
        for axis, n in enumerate(size, 2):
            y = y.narrow(axis, 0, n * self.scale)
        return y.to(x.device)
