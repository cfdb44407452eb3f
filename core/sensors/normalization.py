"""Physical values to numbers around 0, as a function of wavelength: bands and sensors never seen before fall into place."""

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from .batch import SensorBatch


class Normalization(nn.Module):
    """(value - mean) / deviation, where both are interpolated over wavelength between those of the training images.

    With ``logarithm`` e above 0, the value of an optical band of reflectance r is log(r + e), r at least 0, as radar's decibels
    are logarithms: what darkens or brightens all of a surface then shifts its bands alike, and dark surfaces are told apart.

    Beyond the shortest and longest wavelength theirs are taken; a radar polarisation that was not there takes those of all radar
    bands together.

    Args:
        knots: wavelengths with a scale of their own.
        logarithm: what is added to reflectance under the logarithm; 0: reflectance as it is.

    Buffers: ``wavelengths`` (knots,) ascending, with codes of radar below 0; ``mean``, ``deviation`` (knots,), of
    logarithms if so.
    """

    wavelengths: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, knots: int = 0, *, logarithm: float = 0.0) -> None:
        super().__init__()
        if not 0 <= logarithm < math.inf:
            raise ValueError(f"logarithm is {logarithm}: allowed is what is added to reflectance, above 0, or 0 for none")
        self.logarithm = logarithm
        self.register_buffer("wavelengths", torch.zeros(knots))
        self.register_buffer("mean", torch.zeros(knots))
        self.register_buffer("deviation", torch.ones(knots))

    @classmethod
    def fitted(cls, batches: Iterable[SensorBatch], *, logarithm: float = 0.0) -> "Normalization":
        """Measure valid values of training images, bands of one wavelength together."""
        bare = cls(logarithm=logarithm)
        sums: dict[float, Tensor] = {}
        for batch in batches:
            values, valid = bare.scaled(batch.values.double(), batch.wavelengths), batch.valid
            for band, wavelength in enumerate(batch.wavelengths.tolist()):
                v = values[:, band][valid[:, band]]
                part = torch.stack([torch.tensor(float(len(v)), dtype=torch.float64), v.sum(), v.square().sum()])
                sums[wavelength] = sums.get(wavelength, torch.zeros(3, dtype=torch.float64)) + part
        keys = sorted(key for key, part in sums.items() if part[0] > 0)
        if not keys:
            raise ValueError("no valid value to measure")
        self = cls(len(keys), logarithm=logarithm)
        count, total, squares = torch.stack([sums[key] for key in keys]).T
        mean = total / count
        self.wavelengths = torch.tensor(keys)
        self.mean = mean.float()
        self.deviation = (squares / count - mean.square()).clamp_min(1e-12).sqrt().float()
        return self

    def at(self, wavelengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation for each of the wavelengths."""
        asked = wavelengths.to(self.wavelengths)
        means, deviations = torch.zeros_like(asked), torch.ones_like(asked)
        for radar in (False, True):
            which, kind = (asked < 0) == radar, (self.wavelengths < 0) == radar
            if not bool(which.any()):
                continue
            knots = self.wavelengths[kind]
            if not len(knots):
                known = "optical" if radar else "radar"
                raise ValueError(f"the model was trained on {known} bands only: there is no scale for {asked[which][0]:g}")
            weights = _polarizations(asked[which], knots) if radar else _between(asked[which], knots)
            means[which], deviations[which] = weights @ self.mean[kind], weights @ self.deviation[kind]
        return means, deviations

    def scaled(self, values: Tensor, wavelengths: Tensor) -> Tensor:
        """Return what mean and deviation are of: values (..., bands, height, width), or their logarithms."""
        if not self.logarithm:
            return values
        optical = (wavelengths > 0).to(values.device)[:, None, None]
        return torch.where(optical, (values.clamp_min(0) + self.logarithm).log(), values)

    def undo(self, values: Tensor, wavelengths: Tensor) -> Tensor:
        """Return physical values of normalised ones, (batch, bands, height, width)."""
        mean, deviation = (t.to(values.device)[:, None, None] for t in self.at(wavelengths))
        values = values * deviation + mean
        if not self.logarithm:
            return values
        optical = (wavelengths > 0).to(values.device)[:, None, None]
        return torch.where(optical, values.where(optical, 0.0).exp() - self.logarithm, values)

    def forward(self, batch: SensorBatch) -> SensorBatch:
        mean, deviation = (t.to(batch.values.device)[:, None, None] for t in self.at(batch.wavelengths))
        return replace(batch, values=((self.scaled(batch.values, batch.wavelengths) - mean) / deviation).where(batch.valid, 0.0))


def _between(asked: Tensor, knots: Tensor) -> Tensor:
    """Return the weights of linear interpolation between ascending knots, (asked, knots)."""
    right = torch.searchsorted(knots, asked).clamp(0, len(knots) - 1)
    left = (right - 1).clamp_min(0)
    span = (knots[right] - knots[left]).where(right > left, 1.0)
    share = ((asked - knots[left]) / span).clamp(0, 1)[:, None]
    each = torch.eye(len(knots), dtype=knots.dtype, device=knots.device)
    return (1 - share) * each[left] + share * each[right]


def _polarizations(asked: Tensor, knots: Tensor) -> Tensor:
    """Return one for the polarisation that was asked for, equal weights of all for one that is not there."""
    same = (asked[:, None] == knots).to(knots.dtype)
    return torch.where(same.any(1, keepdim=True), same, 1 / len(knots))
