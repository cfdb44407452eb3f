"""From raw spectra to what a network sees, with statistics that belong to the model."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...core.device import without_autocast

_TINY = 1e-6


@dataclass(frozen=True, kw_only=True)
class SpectralTransformConfig:
    """Settings of ``SpectralTransform``.

    Args:
        shape: describe a spectrum by its shape (zero mean, unit variance over the bands) and its level (the mean) instead of by
            the bands: the shape does not change with illumination.
        components: principal components to keep; None keeps every band and undoes the rotation (ZCA whitening).
        floor: added to every eigenvalue, as a share of their mean. With few training pixels, small values amplify noise.
    """

    shape: bool = True
    components: int | None = None
    floor: float = 0.1


class SpectralTransform(nn.Module):
    """Whiten spectra: (batch, bands, height, width) to (batch, features, height, width), zeros at pixels that are not valid.

    Neighbouring bands say nearly the same. Whitening (here regularised, see ``floor``) takes out what they share, so that the
    small differences that part the classes are as large as the brightness that does not. All statistics come from the
    training pixels given to ``fit`` and are buffers, saved with the model.
    """

    band_mean: Tensor
    band_std: Tensor
    mean: Tensor
    matrix: Tensor

    def __init__(self, bands: int, config: SpectralTransformConfig) -> None:
        super().__init__()
        inner = bands + config.shape
        self.features = inner if config.components is None else config.components
        if not 0 < self.features <= inner:
            raise ValueError(f"components is {config.components}, allowed are 1..{inner} for this scene")
        self.config = config
        self.register_buffer("band_mean", torch.zeros(bands))  # of the raw bands, to tell whether another scene is alike
        self.register_buffer("band_std", torch.ones(bands))
        self.register_buffer("mean", torch.zeros(inner))
        self.register_buffer("matrix", torch.zeros(self.features, inner))

    @torch.no_grad()
    def fit(self, spectra_NC: Tensor) -> "SpectralTransform":
        """Take the statistics of training spectra, finite values of shape (pixels, bands)."""
        self.band_mean.copy_(spectra_NC.mean(0))
        self.band_std.copy_(spectra_NC.std(0, correction=0).clamp_min(_TINY))
        x_ND = self._describe(spectra_NC.double().T[None, :, :, None])[0, :, :, 0].T
        mean, std = x_ND.mean(0), x_ND.std(0, correction=0).clamp_min(_TINY)
        covariance = torch.cov(((x_ND - mean) / std).T, correction=0)
        values, vectors = torch.linalg.eigh(covariance)
        values = values.clamp_min(0)
        rows = vectors.T / (values + self.config.floor * values.mean()).clamp_min(_TINY).sqrt()[:, None]
        rotated = vectors @ rows if self.config.components is None else rows.flip(0)[: self.features]
        self.mean.copy_(mean)
        self.matrix.copy_(rotated / std)
        return self

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x.device):  # differences of large raw values
            valid = x.isfinite().all(1, keepdim=True)
            x = self._describe(torch.where(valid, x, self.band_mean[:, None, None]))
            x = torch.einsum("kd,bdhw->bkhw", self.matrix, x - self.mean[:, None, None])
            return x * valid

    def _describe(self, x: Tensor) -> Tensor:
        if not self.config.shape:
            return x
        level = x.mean(1, keepdim=True)
        spread = x.std(1, correction=0, keepdim=True).clamp_min(_TINY)
        return torch.cat([(x - level) / spread, level], 1)
