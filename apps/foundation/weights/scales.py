"""Physical units to the numbers that published systems were trained on."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ....core.layers.tokenizers import RADAR
from ....core.sensors.batch import SensorBatch
from ....core.sensors.normalization import Normalization

_TOLERANCE = 20.0  # nm between a sensor's band and a system's


class RangeScale(Normalization):
    """The bands of a system, in its order, each from a range to 0..1, what is outside cut off; then (value - mean) / deviation.

    Bands of an image that the system has not are left out. The official programs round to 8 bits in between; here nothing is
    rounded.

    Args:
        wavelengths: of the system's bands: nm, or codes of radar.
        names: of the same, for messages.
        low, high: ends of the range, in physical units.
        mean, deviation: of what is in 0..1. Default: 0 and 1.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        wavelengths: Sequence[float],
        names: Sequence[str],
        low: Sequence[float],
        high: Sequence[float],
        *,
        mean: Sequence[float] | None = None,
        deviation: Sequence[float] | None = None,
    ) -> None:
        super().__init__(len(wavelengths))
        self.names = tuple(names)
        self.wavelengths = torch.tensor(wavelengths, dtype=torch.float32)
        self.register_buffer("low", torch.tensor(low))
        self.register_buffer("high", torch.tensor(high))
        span = self.high - self.low
        self.mean = self.low + (torch.zeros_like(span) if mean is None else torch.tensor(mean)) * span
        self.deviation = span if deviation is None else torch.tensor(deviation) * span

    def at(self, wavelengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of the system's bands.

        Raises:
            ValueError: an image with these bands lacks one of them.
        """
        places(wavelengths, self.wavelengths, self.names)
        return self.mean, self.deviation

    def forward(self, batch: SensorBatch) -> SensorBatch:
        """Choose the bands and scale them; what is not valid is 0.

        Raises:
            ValueError: as ``at``.
        """
        batch = choose(batch, self.wavelengths, self.names)
        low, high, mean, deviation = (t[:, None, None] for t in (self.low, self.high, self.mean, self.deviation))
        values = (torch.minimum(torch.maximum(batch.values, low), high) - mean) / deviation
        return replace(batch, values=values.where(batch.valid, 0.0))


class StretchScale(Normalization):
    """The bands of a system, in its order, each from the least to the greatest valid value of its image to 0..1.

    The numbers of a tile depend on what is in it, and so do its features.

    Args:
        wavelengths: of the system's bands: nm, or codes of radar.
        names: of the same, for messages.
    """

    def __init__(self, wavelengths: Sequence[float], names: Sequence[str]) -> None:
        super().__init__(len(wavelengths))
        self.names = tuple(names)
        self.wavelengths = torch.tensor(wavelengths, dtype=torch.float32)

    def at(self, wavelengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return 0 and 1: there is no scale but that of each image; errors as ``RangeScale.at``."""
        places(wavelengths, self.wavelengths, self.names)
        return self.mean, self.deviation

    def forward(self, batch: SensorBatch) -> SensorBatch:
        """Choose the bands and stretch them; what is not valid is 0. Errors as ``at``."""
        batch = choose(batch, self.wavelengths, self.names)
        low = batch.values.masked_fill(~batch.valid, torch.inf).amin((2, 3), keepdim=True)
        high = batch.values.masked_fill(~batch.valid, -torch.inf).amax((2, 3), keepdim=True)
        return replace(batch, values=((batch.values - low) / (high - low + 1e-10)).where(batch.valid, 0.0))


def places(given: Tensor, wanted: Tensor, names: Sequence[str]) -> Tensor:
    """Return for each band of a system which band of an image it is, (wanted,).

    Args:
        given, wanted: (bands,) of the image and of the system: nm, or codes of radar.
        names: of the system's bands.

    Raises:
        ValueError: if one is not there; it names all that are not.
    """
    given = given.to(wanted)
    apart = (given - wanted[:, None]).abs()
    apart = apart.masked_fill(((given < 0) | (wanted[:, None] < 0)) & (apart > 0), torch.inf)
    least, found = apart.min(1)
    # A band serves the one of the system's that it is nearest to, and no second.
    there = (least <= _TOLERANCE) & (apart.argmin(0)[found] == torch.arange(len(wanted), device=wanted.device))
    if not bool(there.all()):
        lacking = ", ".join(
            f"{name} ({w:g} nm)" if w > 0 else name for name, w, ok in zip(names, wanted.tolist(), there, strict=True) if not ok
        )
        codes = {code: name for name, code in RADAR.items()}
        bands = ", ".join(codes.get(w, f"{w:g} nm") for w in given.tolist())
        raise ValueError(f"the model needs {len(names)} bands ({', '.join(names)}); among {bands} there is no {lacking}")
    return found


def choose(batch: SensorBatch, wanted: Tensor, names: Sequence[str]) -> SensorBatch:
    """Return the bands of a system, in its order; errors as ``places``."""
    index = places(batch.wavelengths, wanted, names).to(batch.values.device)
    values, valid = (t.index_select(1, index) for t in (batch.values, batch.valid))
    return replace(batch, values=values, valid=valid, wavelengths=wanted)
