"""A kernel classifier of spectra, to stand beside a network: it bends where the linear discriminant is straight."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.device import without_autocast
from .calibration import calibrated, never_unknown
from .discriminant import spread_within

_REACH = 2  # pixels on each side of the largest window that spectra are averaged over
_TINY = 1e-6
_SHRINKAGE = 0.3  # of the metric
_RIDGE = 0.3
_SURE = 100.0  # logit of a class that is sure, before the temperature
_DIRECTIONS = 64  # of the largest variance, which distances are taken in: 32 to all 224 gave the same accuracy, in more time
_AT_ONCE = 128  # support spectra, so that memory does not grow with their number


class KernelClassifier(nn.Module):
    """Least-squares classification with a Gaussian kernel: raw spectra (batch, bands, height, width) to logits.

    Classes are regressed on as indicators (kernel ridge regression; Rifkin et al. 2003, "Regularized least-squares
    classification"). Distances are those of the discriminant: in units of the shrunk covariance within classes, divided by what
    two training pixels differ by on average. Of more training pixels than there are support spectra, all are fitted to, by the
    kernels around a fixed random choice of them (subset of regressors; Rasmussen & Williams 2006, section 8.3.1).

    Where neighbours are alike, the mean spectrum of a window says more than the pixel's own: the window of 1, 3 or 5 pixels is
    that at which training pixels left out are most likely. All of it is solved for, not trained: buffers, saved with the model.

    Args:
        bands: of the spectra.
        classes: to tell apart.
        supports: spectra that kernels lie around, at most.

    Raises:
        ValueError: no support spectra.
    """

    receptive_field = _REACH
    mean: Tensor
    matrix: Tensor
    support: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, bands: int, classes: int, *, supports: int) -> None:
        super().__init__()
        if supports < 1:
            raise ValueError(f"the kernel classifier has {supports} support spectra, allowed are 1 or more")
        self.register_buffer("mean", torch.zeros(bands))
        directions = min(bands, _DIRECTIONS)
        self.register_buffer("matrix", torch.zeros(directions, bands))
        self.radius = 0  # of the window; no buffer, as exported programs cannot branch on one
        self.register_buffer("support", torch.zeros(supports, directions))  # with weights of zero where there are fewer
        self.register_buffer("weight", torch.zeros(classes, supports))
        self.register_buffer("bias", torch.zeros(classes))

    @torch.no_grad()
    def fit(self, spectra_RNC: Tensor, targets_N: Tensor, *, label_smoothing: float = 0.0) -> "KernelClassifier":
        """Solve for the weights.

        Args:
            spectra_RNC: for windows of 1, 3, ... pixels, the mean spectra around training pixels (pixels, bands), all finite.
            targets_N: their classes by number.
            label_smoothing: see ``calibrated``.
        """
        classes, supports = self.weight.shape

        def solve(x_NC: Tensor, y_N: Tensor) -> _Solution:
            return _solve(x_NC, y_N, classes, supports)

        found = [calibrated(solve, x_NC.double(), targets_N, label_smoothing=label_smoothing) for x_NC in spectra_RNC]
        radius = min(range(len(found)), key=lambda r: found[r].loss)
        (mean, matrix, support, weight, bias), temperature = found[radius].solution, found[radius].temperature
        self.radius = radius
        self.mean.copy_(mean)
        self.matrix.copy_(matrix)
        self.support.zero_()[: len(support)] = support
        self.weight.zero_()[:, : len(support)] = weight / temperature
        self.bias.copy_(never_unknown(bias / temperature, targets_N))
        return self

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x.device):  # differences of large raw values
            valid = x.isfinite().all(1, keepdim=True)
            x = torch.where(valid, x - self.mean[:, None, None], 0.0)
            z = _local_mean(torch.einsum("dc,bchw->bdhw", self.matrix, x), valid, self.radius)
            square, one = z.square().sum(1, keepdim=True), torch.ones_like(z[:, :1])
            z = torch.cat([z, square, one], 1)
            ends = torch.cat(
                [2 * self.support, -torch.ones_like(self.support[:, :1]), -self.support.square().sum(1, keepdim=True)], 1
            )
            logits = self.bias[:, None, None]
            for end, weight in zip(torch.split(ends, _AT_ONCE), torch.split(self.weight, _AT_ONCE, 1), strict=True):
                kernel = torch.einsum("sd,bdhw->bshw", end, z).clamp_max_(0).exp_()  # e to the minus squared distance
                logits = logits + torch.einsum("ks,bshw->bkhw", weight, kernel)
            return logits

    def get_extra_state(self) -> Tensor:
        """Return the window's radius, for the state dict."""
        return torch.tensor(self.radius)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the window's radius from a state dict."""
        self.radius = int(state)


def mean_spectra(x: Tensor) -> Tensor:
    """Return what ``KernelClassifier.fit`` asks for: raw (batch, bands, height, width) to (batch, windows * bands, ...)."""
    valid = x.isfinite().all(1, keepdim=True)
    x = torch.where(valid, x, 0.0)
    return torch.cat([_local_mean(x, valid, radius) for radius in range(_REACH + 1)], 1)


def _local_mean(x: Tensor, valid: Tensor, radius: int) -> Tensor:
    """Average over the valid pixels of a window; zero where there are none, as ``x`` is where it is not valid."""
    if not radius:
        return x
    pooled = F.avg_pool2d(torch.cat([x, valid.to(x.dtype)], 1), 2 * radius + 1, stride=1, padding=radius)
    return pooled[:, :-1] / pooled[:, -1:].clamp_min(_TINY)


class _Solution(NamedTuple):
    mean: Tensor
    matrix: Tensor
    support: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, x_NC: Tensor) -> Tensor:
        return _kernel((x_NC - self.mean) @ self.matrix.T, self.support) @ self.weight.T + self.bias


def _kernel(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    return (2 * a_ND @ b_MD.T - a_ND.square().sum(1)[:, None] - b_MD.square().sum(1)).clamp_max(0).exp()


# scikit-learn's KernelRidge finds the same where each training pixel is a support spectrum, which the tests compare.
def _solve(x_NC: Tensor, targets_N: Tensor, classes: int, supports: int) -> _Solution:
    mean, std = x_NC.mean(0), x_NC.std(0, correction=0).clamp_min(_TINY)
    x_NC = (x_NC - mean) / std
    _, within = spread_within(x_NC, targets_N, classes, _SHRINKAGE)
    values, vectors = torch.linalg.eigh(within)
    matrix = vectors.T / values.sqrt()[:, None]
    _, principal = torch.linalg.eigh(torch.cov((x_NC @ matrix.T).T, correction=0))
    matrix = principal.T[-_DIRECTIONS:] @ matrix
    matrix = matrix / (2 * (x_NC @ matrix.T).var(0, correction=0).sum()).sqrt().clamp_min(_TINY)
    z_ND = x_NC @ matrix.T
    truth_NK = _SURE * F.one_hot(targets_N, classes).to(z_ND.dtype)
    shares = truth_NK.mean(0)
    chosen = torch.randperm(len(z_ND), generator=torch.Generator().manual_seed(0))[:supports].sort().values
    support = z_ND[chosen]
    around, between = _kernel(z_ND, support), _kernel(support, support)
    # With all pixels as support this is (between + ridge)^-1 truth, but for the noise that keeps it soluble where they repeat.
    normal = around.T @ around + _RIDGE * between + _TINY * torch.eye(len(between), dtype=between.dtype)
    weight = torch.linalg.solve(normal, around.T @ (truth_NK - shares)).T
    return _Solution(mean, matrix / std, support, weight, shares)
