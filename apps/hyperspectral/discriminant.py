"""A linear discriminant of single spectra, to stand beside a network."""

import torch
from torch import Tensor, nn

from ...core.device import without_autocast

_TINY = 1e-6
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
    def fit(self, spectra_NC: Tensor, targets_N: Tensor) -> "LinearDiscriminant":
        """Solve for the weights.

        Args:
            spectra_NC: training spectra, finite values of shape (pixels, bands).
            targets_N: their classes by number.
        """
        x_NC = spectra_NC.double()
        mean, std = x_NC.mean(0), x_NC.std(0, correction=0).clamp_min(_TINY)
        x_NC = (x_NC - mean) / std
        counts = torch.bincount(targets_N, minlength=len(self.bias))
        sums = torch.zeros(len(counts), x_NC.shape[1], dtype=x_NC.dtype).index_add_(0, targets_N, x_NC)
        means = sums / counts.clamp_min(1)[:, None]
        within = torch.cov((x_NC - means[targets_N]).T, correction=0)
        spread = within.diagonal().mean().clamp_min(_TINY)
        within = (1 - self.shrinkage) * within + self.shrinkage * spread * torch.eye(len(within), dtype=within.dtype)
        weight = torch.linalg.solve(within, means.T).T
        bias = (counts / counts.sum()).log() - (weight * means).sum(1) / 2
        self.mean.copy_(mean)
        self.weight.copy_(weight / std)
        self.bias.copy_(torch.where(counts > 0, bias, _NEVER))
        return self

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x.device):  # differences of large raw values
            valid = x.isfinite().all(1, keepdim=True)
            x = torch.where(valid, x - self.mean[:, None, None], 0.0)
            return torch.einsum("kc,bchw->bkhw", self.weight, x) + self.bias[:, None, None]
