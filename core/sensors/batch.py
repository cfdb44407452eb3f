"""Images of one sensor, as networks take them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SensorBatch:
    """Images of one sensor and size.

    Args:
        values: (batch, bands, height, width), float32; 0 where ``valid`` is False.
        valid: bool, like ``values``.
        wavelengths: (bands,), nm or a code of ``RADAR``.
        gsd: (batch,), metres.
        sensor: its name.
    """

    values: Tensor
    valid: Tensor
    wavelengths: Tensor
    gsd: Tensor
    sensor: str

    def to(self, device: torch.device) -> "SensorBatch":
        """Return the batch on a device."""
        parts = {name: getattr(self, name).to(device) for name in ("values", "valid", "wavelengths", "gsd")}
        return replace(self, **parts)
