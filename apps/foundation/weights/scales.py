"""Physical units to the numbers that published systems were trained on."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ....core.sensors.batch import SensorBatch

_TOLERANCE = 20.0  # nm between a sensor's band and a system's


class BandScale(nn.Module):
    """What all of them share: the system's bands are taken from an image, in the system's order; others are left out.

    Args:
        wavelengths: of the system's bands, nm or codes of radar.
        names: of the same, for messages.
    """

    wavelengths: Tensor

    def __init__(self, wavelengths: Sequence[float], names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.register_buffer("wavelengths", torch.tensor(wavelengths), persistent=False)

    def choose(self, batch: SensorBatch) -> SensorBatch:
        """Return the system's bands of a batch.

        Raises:
            ValueError: if one is not there; it names all that are not.
        """
        given = batch.wavelengths.to(self.wavelengths)
        apart = (given[None] - self.wavelengths[:, None]).abs()
        apart = apart.masked_fill((given[None] < 0) != (self.wavelengths[:, None] < 0), torch.inf)
        least, places = apart.min(1)
        allowed = torch.where(self.wavelengths < 0, 0.0, _TOLERANCE)
        # A band serves the one of the system's that it is nearest to, and no second.
        own = apart.argmin(0)[places] == torch.arange(len(places), device=places.device)
        missing = [f"{name} ({w:g} nm)" for name, w, ok in zip(self.names, self.wavelengths.tolist(), (least <= allowed) & own) if not ok]
        if missing:
            there = ", ".join(f"{w:g}" for w in batch.wavelengths.tolist())
            raise ValueError(f"the model needs {len(self.names)} bands, and {batch.sensor} ({there}) has no {', '.join(missing)}")
        index = places.to(batch.values.device)
        return replace(
            batch,
            values=batch.values.index_select(1, index),
            valid=batch.valid.index_select(1, index),
            wavelengths=self.wavelengths,
        )

    def scaled(self, batch: SensorBatch) -> Tensor:
        """Return the values of the system's bands in its numbers."""
        raise NotImplementedError

    def forward(self, batch: SensorBatch) -> SensorBatch:
        """Choose bands and scale them; what is not valid is 0."""
        batch = self.choose(batch)
        return replace(batch, values=self.scaled(batch).where(batch.valid, 0.0))


class RangeScale(BandScale):
    """A range of each band to 0..1, what is outside cut off; then perhaps (value - mean) / deviation.

    The official programs round to 8 bits between; here nothing is rounded.

    Args:
        wavelengths, names: see ``BandScale``.
        low, high: ends of the range, in physical units.
        mean, deviation: of the values in 0..1.
    """

    low: Tensor
    high: Tensor
    mean: Tensor
    deviation: Tensor

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
        super().__init__(wavelengths, names)
        parts = {"low": low, "high": high, "mean": mean or [0.0] * len(low), "deviation": deviation or [1.0] * len(low)}
        for name, numbers in parts.items():
            self.register_buffer(name, torch.tensor(numbers)[:, None, None], persistent=False)

    def scaled(self, batch: SensorBatch) -> Tensor:
        share = ((batch.values - self.low) / (self.high - self.low)).clamp(0, 1)
        return (share - self.mean) / self.deviation


class StretchScale(BandScale):
    """Each band of each image from its least to its greatest valid value to 0..1: a tile's numbers depend on what is in it."""

    def scaled(self, batch: SensorBatch) -> Tensor:
        low = batch.values.masked_fill(~batch.valid, torch.inf).amin((2, 3), keepdim=True)
        high = batch.values.masked_fill(~batch.valid, -torch.inf).amax((2, 3), keepdim=True)
        return (batch.values - low) / (high - low + 1e-10)
