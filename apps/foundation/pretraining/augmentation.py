"""How crops are altered before an auto-encoder sees them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ....core.sensors.batch import SensorBatch


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """How crops are altered. All sensors of a place are turned alike.

    Args:
        turn: quarter turns and mirror images.
        bands: how likely a stream loses bands; then as many are left as a uniform draw from 1 on says, and which is drawn too
            (hierarchical channel sampling: Bao et al. 2024, ChannelViT, section 3.3).
        least: bands left at least, where there are so many.
        gain: standard deviation of a factor on the values of an image, the same for all its bands.
        band_gain: the same of a factor for each band.
        offset: standard deviation of what is added to each band, in standard deviations of the training images' values.
    """

    turn: bool = True
    bands: float = 0.0
    least: int = 3
    gain: float = 0.0
    band_gain: float = 0.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if not 0 <= self.bands <= 1 or self.least < 1 or min(self.gain, self.band_gain, self.offset) < 0:
            raise ValueError(
                f"bands {self.bands}, least {self.least}, gain {self.gain}, band_gain {self.band_gain}, offset {self.offset}: "
                "allowed are a share of 0..1, 1 or more bands, and deviations from 0 on"
            )


def augmented(
    batches: tuple[SensorBatch, ...],
    config: AugmentationConfig,
    common: np.random.Generator,
    each: Sequence[np.random.Generator],
) -> tuple[SensorBatch, ...]:
    """Alter the normalised crops of some places, but for turns, which crops are drawn with.

    Args:
        batches: a sensor each, of the same places.
        config: how.
        common: draws what is alike for all places, which bands are left out.
        each: draws what a place has for itself; one for each.
    """
    altered = []
    for batch in batches:
        fewer = _fewer_bands(batch, config.least, common) if common.random() < config.bands else batch
        jitter = config.gain or config.band_gain or config.offset
        altered.append(_jittered(fewer, config, each) if jitter else fewer)
    return tuple(altered)


def _fewer_bands(batch: SensorBatch, least: int, rng: np.random.Generator) -> SensorBatch:
    """Leave out random bands; those that stay keep their order."""
    bands = len(batch.wavelengths)
    count = int(rng.integers(min(least, bands), bands + 1))
    kept = torch.from_numpy(np.sort(rng.permutation(bands)[:count]))
    return replace(batch, values=batch.values[:, kept], valid=batch.valid[:, kept], wavelengths=batch.wavelengths[kept])


def _jittered(batch: SensorBatch, config: AugmentationConfig, each: Sequence[np.random.Generator]) -> SensorBatch:
    """Scale and shift normalised values; what is no data stays 0."""
    bands = len(batch.wavelengths)
    draws = torch.from_numpy(np.stack([rng.standard_normal(2 * bands + 1) for rng in each]).astype(np.float32))[..., None, None]
    gain = 1 + config.gain * draws[:, :1] + config.band_gain * draws[:, 1 : bands + 1]
    values = batch.values * gain + config.offset * draws[:, bands + 1 :]
    return replace(batch, values=values.where(batch.valid, 0.0))
