"""Physical values to numbers around 0, as a function of wavelength: bands and sensors never seen before fall into place."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from .batch import SensorBatch


class Normalization(nn.Module):
    """(value - mean) / deviation, where both are interpolated over wavelength between those of the training images.

    Beyond the shortest and longest wavelength theirs are taken; a radar polarisation that was not there takes those of all radar
    bands together.

    Buffers: ``wavelengths`` (knots,) ascending, with codes of radar below 0; ``mean``, ``deviation`` (knots,).
    """

    wavelengths: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, knots: int = 0) -> None:
        super().__init__()
        self.register_buffer("wavelengths", torch.zeros(knots))
        self.register_buffer("mean", torch.zeros(knots))
        self.register_buffer("deviation", torch.ones(knots))

    @classmethod
    def fitted(cls, batches: Iterable[SensorBatch]) -> "Normalization":
        """Measure valid values of training images, bands of one wavelength together."""
        sums: dict[float, Tensor] = {}
        for batch in batches:
            values, valid = batch.values.double(), batch.valid
            for band, wavelength in enumerate(batch.wavelengths.tolist()):
                v = values[:, band][valid[:, band]]
                part = torch.stack([torch.tensor(float(len(v)), dtype=torch.float64), v.sum(), v.square().sum()])
                sums[wavelength] = sums.get(wavelength, torch.zeros(3, dtype=torch.float64)) + part
        keys = sorted(key for key, part in sums.items() if part[0] > 0)
        if not keys:
            raise ValueError("no valid value to measure")
        self = cls(len(keys))
        count, total, squares = torch.stack([sums[key] for key in keys]).T
        mean = total / count
        self.wavelengths = torch.tensor(keys)
        self.mean = mean.float()
        self.deviation = (squares / count - mean.square()).clamp_min(1e-12).sqrt().float()
        return self

    def at(self, wavelengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation for each of the wavelengths."""
        means, deviations = [], []
        for wavelength in wavelengths.tolist():
            kind = self.wavelengths > 0 if wavelength > 0 else self.wavelengths < 0
            knots, mean, deviation = self.wavelengths[kind], self.mean[kind], self.deviation[kind]
            if not len(knots):
                known = "optical" if wavelength < 0 else "radar"
                raise ValueError(f"the model was trained on {known} bands only: there is no scale for {wavelength:g}")
            if wavelength < 0 and not bool((knots == wavelength).any()):
                means.append(mean.mean())
                deviations.append(deviation.mean())
                continue
            right = int(torch.searchsorted(knots, wavelength).clamp(0, len(knots) - 1))
            left = max(right - 1, 0) if float(knots[right]) != wavelength else right
            span = float(knots[right] - knots[left])
            share = min(max((wavelength - float(knots[left])) / span, 0.0), 1.0) if span else 0.0
            means.append(torch.lerp(mean[left], mean[right], share))
            deviations.append(torch.lerp(deviation[left], deviation[right], share))
        return torch.stack(means), torch.stack(deviations)

    def forward(self, batch: SensorBatch) -> SensorBatch:
        mean, deviation = (t.to(batch.values.device)[:, None, None] for t in self.at(batch.wavelengths))
        return replace(batch, values=((batch.values - mean) / deviation).where(batch.valid, 0.0))
