"""A linear discriminant of single spectra, to stand beside a network."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.device import without_autocast

_TINY = 1e-6
_FOLDS = 5
_TEMPERATURES = torch.logspace(0, 2, 41)  # 1..100 in steps of 12 %
_NEVER = -1e4  # logit of a class without training pixels; half precision holds it


class LinearDiscriminant(nn.Module):
    """Linear discriminant analysis: raw spectra (batch, bands, height, width) to logits (batch, classes, height, width).

    All classes are taken to spread alike around their means, so that a class of two pixels is still told by its mean and by how
    the others spread, where a network or a support vector machine learns nothing of it. The common covariance, of standardised
    bands, is drawn towards a multiple of the identity (Friedman 1989, section 3), as there may be fewer pixels than bands.
    Priors are the shares of the training pixels. Weights are solved for, not trained: they are buffers, saved with the model.

    Args:
        bands: of the spectra.
        classes: to tell apart.
        shrinkage: share of the identity in the covariance, above 0 and at most 1.

    Raises:
        ValueError: another shrinkage.
    """

    mean: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, bands: int, classes: int, *, shrinkage: float) -> None:
        super().__init__()
        if not 0 < shrinkage <= 1:
            raise ValueError(f"the discriminant's shrinkage is {shrinkage:g}, allowed are numbers above 0 up to 1")
        self.shrinkage = shrinkage
        self.register_buffer("mean", torch.zeros(bands))
        self.register_buffer("weight", torch.zeros(classes, bands))
        self.register_buffer("bias", torch.zeros(classes))

    @torch.no_grad()
    def fit(self, spectra_NC: Tensor, targets_N: Tensor, *, label_smoothing: float = 0.0) -> "LinearDiscriminant":
        """Solve for the weights, and divide them by the temperature at which pixels left out are most likely.

        With few pixels for many bands the logits are too sure by far, ten times and more; an average with another model's
        probabilities would be theirs alone.

        Args:
            spectra_NC: training spectra, finite values of shape (pixels, bands).
            targets_N: their classes by number.
            label_smoothing: of the likelihood: without, pixels that are all told right would ask for certainty.
        """
        x_NC, classes = spectra_NC.double(), len(self.bias)
        fold_N = torch.zeros_like(targets_N)
        for k in range(classes):
            of_class = targets_N == k
            fold_N[of_class] = torch.arange(int(of_class.sum())) % _FOLDS
        logits, truths = [], []
        for fold in range(_FOLDS):
            rest = fold_N != fold
            left_out = ~rest & torch.isin(targets_N, targets_N[rest])
            if left_out.any():
                logits.append(_solve(x_NC[rest], targets_N[rest], classes, self.shrinkage)(x_NC[left_out]))
                truths.append(targets_N[left_out])
        solution = _solve(x_NC, targets_N, classes, self.shrinkage)
        temperature = 1.0
        if logits:
            found, truth = torch.cat(logits), torch.cat(truths)
            losses = [F.cross_entropy(found / t, truth, label_smoothing=label_smoothing) for t in _TEMPERATURES]
            temperature = float(_TEMPERATURES[torch.stack(losses).argmin()])
        self.mean.copy_(solution.mean)
        self.weight.copy_(solution.weight / temperature)
        self.bias.copy_(torch.where(torch.isin(torch.arange(classes), targets_N), solution.bias / temperature, _NEVER))
        return self

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x.device):  # differences of large raw values
            valid = x.isfinite().all(1, keepdim=True)
            x = torch.where(valid, x - self.mean[:, None, None], 0.0)
            return torch.einsum("kc,bchw->bkhw", self.weight, x) + self.bias[:, None, None]


class _Solution(NamedTuple):
    mean: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, x_NC: Tensor) -> Tensor:
        return (x_NC - self.mean) @ self.weight.T + self.bias


# scikit-learn's LinearDiscriminantAnalysis finds the same, which the tests compare, but has one row of weights for two classes,
# and none for classes that are not there.
def _solve(x_NC: Tensor, targets_N: Tensor, classes: int, shrinkage: float) -> _Solution:
    mean, std = x_NC.mean(0), x_NC.std(0, correction=0).clamp_min(_TINY)
    x_NC = (x_NC - mean) / std
    counts = torch.bincount(targets_N, minlength=classes)
    means = x_NC.new_zeros(classes, x_NC.shape[1]).index_add_(0, targets_N, x_NC) / counts.clamp_min(1)[:, None]
    within = torch.cov((x_NC - means[targets_N]).T, correction=0)
    spread = within.diagonal().mean().clamp_min(_TINY)
    within = (1 - shrinkage) * within + shrinkage * spread * torch.eye(len(within), dtype=within.dtype)
    weight = torch.linalg.solve(within, means.T).T
    prior = (counts / counts.sum()).clamp_min(_TINY).log()
    return _Solution(mean, weight / std, prior - (weight * means).sum(1) / 2)
