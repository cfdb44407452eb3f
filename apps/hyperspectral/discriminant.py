"""A linear discriminant of single spectra, to stand beside a network."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...core.device import without_autocast
from .calibration import calibrated, never_unknown

_TINY = 1e-6


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
        """Solve for the weights, and divide them by a temperature: see ``calibrated``.

        Args:
            spectra_NC: training spectra, finite values of shape (pixels, bands).
            targets_N: their classes by number.
            label_smoothing: see ``calibrated``.
        """
        classes = len(self.bias)
        found = calibrated(
            lambda x, y: _solve(x, y, classes, self.shrinkage), spectra_NC.double(), targets_N, label_smoothing=label_smoothing
        )
        self.mean.copy_(found.solution.mean)
        self.weight.copy_(found.solution.weight / found.temperature)
        self.bias.copy_(never_unknown(found.solution.bias / found.temperature, targets_N))
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
    means, within = spread_within(x_NC, targets_N, classes, shrinkage)
    weight = torch.linalg.solve(within, means.T).T
    counts = torch.bincount(targets_N, minlength=classes)
    prior = (counts / counts.sum()).clamp_min(_TINY).log()
    return _Solution(mean, weight / std, prior - (weight * means).sum(1) / 2)


def spread_within(x_ND: Tensor, targets_N: Tensor, classes: int, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Return the means of the classes and their common covariance, drawn towards a multiple of the identity by ``shrinkage``."""
    counts = torch.bincount(targets_N, minlength=classes)
    means = x_ND.new_zeros(classes, x_ND.shape[1]).index_add_(0, targets_N, x_ND) / counts.clamp_min(1)[:, None]
    within = torch.cov((x_ND - means[targets_N]).T, correction=0)
    spread = within.diagonal().mean().clamp_min(_TINY)
    return means, (1 - shrinkage) * within + shrinkage * spread * torch.eye(len(within), dtype=within.dtype)
