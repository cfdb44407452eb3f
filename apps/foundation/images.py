"""Images of one sensor to what networks take."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...core.layers.tokenizers import RADAR
from ...core.sensors.batch import SensorBatch
from ...datasets.sensors import Band, SensorImage


def codes(bands: Sequence[Band]) -> Tensor:
    """Return what tokenisers call wavelengths, (bands,) float32.

    Raises:
        ValueError: a band that has neither a wavelength nor a polarisation.
    """
    found = []
    for band in bands:
        code = RADAR.get(band.polarization or "") if band.wavelength is None else band.wavelength
        if code is None:
            raise ValueError(f"band {band.name} has neither a wavelength nor one of the polarisations {', '.join(RADAR)}")
        found.append(code)
    return torch.tensor(found, dtype=torch.float32)


def collate(images: Sequence[SensorImage]) -> SensorBatch:
    """Join images of one sensor, bands and size, in their physical units."""
    values = torch.from_numpy(np.stack([image.values for image in images]))
    valid = values.isfinite()
    gsd = torch.tensor([image.gsd for image in images], dtype=torch.float32)
    return SensorBatch(values.where(valid, 0.0), valid, codes(images[0].bands), gsd, images[0].sensor)
