"""How the weights move: optimiser, learning rate over the steps, averaging."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its schedule.

    Args:
        lr: learning rate, the highest.
        betas, weight_decay: of AdamW; no decay makes it Adam.
        schedule: "cosine" falls to ``floor`` at the last step; "steps" multiplies by ``factor`` at each of the ``milestones``.
        warmup: steps in which the rate rises to its start in a straight line.
        floor: share of ``lr`` that is left at the end.
        milestones, factor: of "steps".
        clip: largest norm of the gradient; 0 leaves it as it is.
        average: decay of the moving average of the weights, which is what is validated and saved.
        decay_all: whether weight decay also pulls at what multiplies nothing: biases, norms, learned tokens and positions.
    """

    lr: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    schedule: Literal["cosine", "steps"] = "cosine"
    warmup: int = 0
    floor: float = 0.0
    milestones: Sequence[int] = ()
    factor: float = 0.5
    clip: float = 0.0
    average: float = 0.999
    decay_all: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot train."""
        if self.lr <= 0 or not 0 <= self.average < 1 or not 0 <= self.floor <= 1 or self.warmup < 0 or self.clip < 0:
            raise ValueError(
                f"lr {self.lr}, average {self.average}, floor {self.floor}, warmup {self.warmup}, clip {self.clip}: allowed are "
                "a positive lr, an average in 0..1 and below 1, a floor in 0..1, a warmup and a clip from 0 on"
            )

    def rate(self, step: int, steps: float) -> float:
        """Return the share of ``lr`` at a step (from 0) of a training of ``steps``."""
        if self.schedule == "cosine":
            done = min(max(step - self.warmup, 0) / max(steps - self.warmup, 1), 1.0)
            rate = self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2
        else:
            rate = self.factor ** sum(step >= milestone for milestone in self.milestones)
        return rate * min((step + 1) / (self.warmup + 1), 1.0)

    def build(
        self, parameters: Iterable[nn.Parameter] | nn.Module, steps: int | Callable[[int], float]
    ) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """Make the optimiser, and the scheduler that is stepped after it.

        Args:
            parameters: those that are trained are taken; a module's, if ``decay_all`` is off: it tells what they are.
            steps: of the training; a function that tells them of each step, if they depend on how quick the machine is.
        """
        if self.decay_all:
            found = parameters.parameters() if isinstance(parameters, nn.Module) else parameters
            groups: list[dict[str, Any]] = [{"params": [p for p in found if p.requires_grad]}]
        elif isinstance(parameters, nn.Module):
            kept = {p for p in _multiplied(parameters) if p.requires_grad}
            others = [p for p in parameters.parameters() if p.requires_grad and p not in kept]
            groups = [{"params": [p for p in parameters.parameters() if p in kept]}, {"params": others, "weight_decay": 0.0}]
        else:
            raise TypeError("decay_all is off: expected a module, whose layers tell what is not to decay")
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=self.lr, betas=self.betas, weight_decay=self.weight_decay
        )
        of = steps if callable(steps) else lambda _: steps
        return optimizer, LambdaLR(optimizer, lambda step: self.rate(step, of(step)))


def _multiplied(module: nn.Module) -> Iterator[nn.Parameter]:
    """Yield what images and tokens are multiplied by: the matrices and kernels named weight, but for tables to look up."""
    for part in module.modules():
        weight = getattr(part, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim > 1 and not isinstance(part, nn.Embedding):
            yield weight
