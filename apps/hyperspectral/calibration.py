"""How sure a classifier may be that is solved for on a few training pixels, as pixels tell that it was not given."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

_FOLDS = 5
_TEMPERATURES = torch.logspace(0, 2, 41)  # 1..100 in steps of 12 %
_NEVER = -1e4  # logit of a class without training pixels; half precision holds it


class Logits(Protocol):
    """Features (pixels, features) to logits (pixels, classes)."""

    def __call__(self, x_NC: Tensor) -> Tensor: ...


Solution = TypeVar("Solution", bound=Logits)


@dataclass(frozen=True)
class Calibrated(Generic[Solution]):
    """A solution, what its logits are to be divided by, and the loss of pixels left out."""

    solution: Solution
    temperature: float
    loss: float


def calibrated(
    solve: Callable[[Tensor, Tensor], Solution], x_NC: Tensor, targets_N: Tensor, *, label_smoothing: float
) -> Calibrated[Solution]:
    """Solve on all pixels, and find the temperature at which those left out of a solution are most likely.

    With few pixels for many bands logits are too sure by far, ten times and more; an average with another model's probabilities
    would be theirs alone. A solution is never made surer than it is.

    Classes too small to be left out have no say in it; without any other the temperature is 1 and the loss 0.

    Args:
        solve: from features (pixels, features) and classes by number.
        x_NC: of the training pixels.
        targets_N: their classes.
        label_smoothing: of the likelihood: without, pixels that are all told right would ask for certainty.
    """
    fold_N = torch.zeros_like(targets_N)
    for k in range(int(targets_N.max()) + 1):
        of_class = targets_N == k
        fold_N[of_class] = torch.arange(int(of_class.sum())) % _FOLDS
    logits, truths = [], []
    for fold in range(_FOLDS):
        rest = fold_N != fold
        left_out = ~rest & torch.isin(targets_N, targets_N[rest])
        if left_out.any():
            logits.append(solve(x_NC[rest], targets_N[rest])(x_NC[left_out]))
            truths.append(targets_N[left_out])
    solution = solve(x_NC, targets_N)
    if not logits:
        return Calibrated(solution, 1.0, 0.0)
    found, truth = torch.cat(logits), torch.cat(truths)
    losses = torch.stack([F.cross_entropy(found / t, truth, label_smoothing=label_smoothing) for t in _TEMPERATURES])
    return Calibrated(solution, float(_TEMPERATURES[losses.argmin()]), float(losses.min()))


def never_unknown(bias_K: Tensor, targets_N: Tensor) -> Tensor:
    """Return the logits' offsets such that a class without training pixels is never chosen."""
    return torch.where(torch.isin(torch.arange(len(bias_K)), targets_N), bias_K, _NEVER)
