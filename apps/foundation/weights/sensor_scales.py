"""Scales of systems that take any bands: tables of the sensors that they were trained on, as functions of wavelength."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ....core.sensors.batch import SensorBatch
from ....core.sensors.normalization import Normalization

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RangeTable:
    """How the bands of a product became numbers around 0: a range to 0..1, what is outside cut off, then mean and deviation.

    Args:
        wavelengths: nm, or codes of radar, rising.
        low, high: ends of the range, in physical units.
        mean, deviation: of what is in 0..1 then.
    """

    wavelengths: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


class SensorScale(Normalization):
    """Bands of any sensor by the table of the nearest product that a system was trained on, interpolated over wavelength.

    Args:
        tables: of products, by the beginning of the names of their sensors.
        default: which of them serves all other sensors; a note tells that it does.
    """

    def __init__(self, tables: Mapping[str, RangeTable], default: str) -> None:
        table = tables[default]
        super().__init__(len(table.wavelengths))
        self.default = default
        self.parts = torch.nn.ModuleDict()
        for name, each in tables.items():
            self.parts[f"{name}: range"] = _knots(each.wavelengths, each.low, each.high)
            self.parts[f"{name}: values"] = _knots(each.wavelengths, each.mean, each.deviation)
        low, high, mean, deviation = (torch.tensor(n) for n in (table.low, table.high, table.mean, table.deviation))
        self.wavelengths = torch.tensor(table.wavelengths)
        self.mean, self.deviation = low + mean * (high - low), deviation * (high - low)
        self._names, self._told = tuple(tables), set[str]()

    def forward(self, batch: SensorBatch) -> SensorBatch:
        """Scale a batch; what is not valid is 0.

        Raises:
            ValueError: radar of a system that was trained on optical bands alone.
        """
        name = next((name for name in self._names if batch.sensor.startswith(name)), self.default)
        if not batch.sensor.startswith(name) and batch.sensor not in self._told:
            self._told.add(batch.sensor)
            logger.info("%s is scaled like %s, interpolated over wavelength", batch.sensor, name)
        low, high = self._at(f"{name}: range", batch)
        mean, deviation = self._at(f"{name}: values", batch)
        share = ((batch.values - low) / (high - low)).clamp(0, 1)
        return replace(batch, values=((share - mean) / deviation).where(batch.valid, 0.0))

    def _at(self, part: str, batch: SensorBatch) -> tuple[Tensor, Tensor]:
        knots = self.parts[part]
        assert isinstance(knots, Normalization)
        first, second = (t.to(batch.values.device)[:, None, None] for t in knots.at(batch.wavelengths))
        return first, second


def _knots(wavelengths: tuple[float, ...], first: tuple[float, ...], second: tuple[float, ...]) -> Normalization:
    """Return two functions of wavelength, as ``Normalization`` interpolates them."""
    knots = Normalization(len(wavelengths))
    knots.wavelengths, knots.mean, knots.deviation = (torch.tensor(n) for n in (wavelengths, first, second))
    return knots
