"""What the numbers of a file mean: its tags and a sample of it against what its sensor measures."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .sensor import Band, Sensor, Unit

logger = logging.getLogger(__name__)

S2_OFFSET = -0.1  # of reflectance: -1000 in numbers, since processing baseline 04.00
_S2_BASELINE = 4.0
# Reflectance is hardly ever below -0.04 (beside tags that say so: -0.05), and few images have no pixel below 0.03 in any of their
# bands. A desert without + 1000 looks like one of the others: there only tags help.
_S2_ABSENT, _S2_IMPOSSIBLE, _S2_PRESENT = 600.0, 500.0, (800.0, 1300.0)
_S2_CIRRUS = 800.0  # where the cirrus band begins if it measures 0, less its noise
_DARKEST, _BRIGHTEST = 0.001, 0.99  # quantiles: some pixels may be broken


@dataclass(frozen=True)
class Radiometry:
    """How numbers of a file become values: number * scale + offset, then to dB if they are linear power.

    Args:
        scale, offset: as above.
        unit: of the result.
        reason: in words, why these.
        decibel: whether the logarithm is taken: 10 log10 of it, no data where it is not above 0.
        corrected: whether they differ from those of the sensor's table.
    """

    scale: float
    offset: float
    unit: Unit
    reason: str
    decibel: bool = False
    corrected: bool = False

    def __call__(self, numbers: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 values of numbers; NaN stays NaN."""
        values: NDArray[np.float32] = numbers * np.float32(self.scale) + np.float32(self.offset)
        if self.decibel:
            values = 10 * np.log10(np.where(values > 0, values, np.float32(np.nan)))
        return values


@dataclass(frozen=True, eq=False)
class Sample:
    """What is known of a file's numbers.

    Args:
        numbers: (bands, pixels), NaN where there is no data.
        bands: one for each.
        whole: whether the file holds whole numbers.
        bits: of each.
        tags: of the file and of its STAC item, keys in lower case.
        scaling: (scale, offset) that the file tells for all of its bands; None if it tells none.
        where: its name, for messages.
    """

    numbers: NDArray[np.float32]
    bands: Sequence[Band]
    whole: bool
    bits: int
    where: str
    tags: Mapping[str, str] = field(default_factory=dict)
    scaling: tuple[float, float] | None = None


def decide_radiometry(sensor: Sensor, samples: Sequence[Sample]) -> Radiometry:
    """Find out what the numbers of a file mean. Once for each file, never for each tile, so that tiles of a scene agree.

    What the file's tags tell comes first, then the sensor's table; where the numbers fit neither, the usual other scales are
    tried: reflectance as a fraction, in percent, or times 10000; radar as linear power.

    Args:
        sensor: of the file.
        samples: of the file, or of several images in it, which must agree.

    Raises:
        ValueError: the numbers fit none, contradict the tags, or differ between the samples.
    """
    samples = [sample for sample in samples if np.isfinite(sample.numbers).any()] or list(samples[:1])
    sample = samples[0]
    if len(samples) > 1:
        sample = replace(sample, numbers=np.concatenate([each.numbers for each in samples], 1))
    if not np.isfinite(sample.numbers).any():
        raise ValueError(f"{sample.where}: no valid pixel in the sample that tells its radiometry")
    low, high = _extent(sample.numbers)
    if sensor.unit == "dB":
        return _radar(sensor, sample, low, high)
    if sensor.name.startswith("sentinel-2") and high > 255 and (sample.scaling is None or sample.scaling[0] == sensor.scale):
        found = _sentinel2(sensor, sample, low)
        _check_agreement(found, samples)
        return _within(sensor, sample, found, low, high)
    if sample.scaling is not None:
        scale, offset = sample.scaling
        told = Radiometry(scale, offset, sensor.unit, f"scale {scale:g} and offset {offset:g} as the file tells")
        return _within(sensor, sample, told, low, high)
    if sensor.unit == "relative":
        return _camera(sensor, sample, high)
    return _reflectance(sensor, sample, low, high)


def _check_agreement(found: Radiometry, samples: Sequence[Sample]) -> None:
    """Images of one array may be of products before and after baseline 04.00."""
    if found.offset or len(samples) == 1 or _s2_tags(samples[0])[0] is not None:
        return
    for sample in samples:
        seen, evidence = _s2_numbers(sample, _extent(sample.numbers)[0], None)
        if seen:
            raise ValueError(
                f"{sample.where}: some images are without + 1000 ({found.reason}), others seem to be with it ({evidence}); "
                "tell its radiometry"
            )


def _extent(numbers: NDArray[np.float32]) -> tuple[float, float]:
    """Of the darkest band its darkest pixels, of the brightest band its brightest ones."""
    kept = [band[np.isfinite(band)] for band in numbers]
    lows, highs = zip(*(np.quantile(band, (_DARKEST, _BRIGHTEST)) for band in kept if len(band)), strict=True)
    return float(min(lows)), float(max(highs))


def _within(sensor: Sensor, sample: Sample, found: Radiometry, low: float, high: float) -> Radiometry:
    values = low * found.scale + found.offset, high * found.scale + found.offset
    if not (values[0] >= sensor.expected[0] and values[1] <= sensor.expected[1]):
        raise ValueError(
            f"{sample.where}: values {values[0]:.4g}..{values[1]:.4g} {sensor.unit} ({found.reason}) are not what {sensor.name} "
            f"measures, {sensor.expected[0]:g}..{sensor.expected[1]:g}; tell its radiometry if it is right"
        )
    return found


def _radar(sensor: Sensor, sample: Sample, low: float, high: float) -> Radiometry:
    scale, offset = sample.scaling or (1.0, 0.0)
    if low * scale + offset < 0:
        return _within(sensor, sample, Radiometry(scale, offset, "dB", "in dB, as some are below 0"), low, high)
    if sample.whole and sample.scaling is None:
        raise ValueError(
            f"{sample.where}: whole numbers {low:g}..{high:g} are amplitudes that are not calibrated, expected {sensor.name} "
            "as backscatter in dB or linear power"
        )
    # Amplitudes would be the roots, which cannot be told apart: in products for analysis they are not usual.
    found = Radiometry(scale, offset, "dB", "linear power, as nothing is below 0", decibel=True, corrected=True)
    if high * scale + offset > 10 ** (sensor.expected[1] / 10):
        raise ValueError(
            f"{sample.where}: values up to {high:.4g} are neither dB nor linear power that {sensor.name} measures, "
            f"up to {sensor.expected[1]:g} dB; tell its radiometry if it is right"
        )
    return found


def _camera(sensor: Sensor, sample: Sample, high: float) -> Radiometry:
    if high <= 1 and not sample.whole:
        return Radiometry(1.0, 0.0, sensor.unit, "fractions of the peak", corrected=True)
    if high <= 255 and sample.bits == 8:
        return Radiometry(sensor.scale, sensor.offset, sensor.unit, "8 bits, as the table tells")
    raise ValueError(f"{sample.where}: numbers up to {high:g}, expected 8 bits or fractions of {sensor.name}")


def _reflectance(sensor: Sensor, sample: Sample, low: float, high: float) -> Radiometry:
    if high <= 2 and not sample.whole:
        found = Radiometry(1.0, 0.0, sensor.unit, "reflectance as a fraction", corrected=sensor.scale != 1)
        return _within(sensor, sample, found, low, high)
    if sample.bits == 8 or (sample.whole and high <= 255):
        raise ValueError(
            f"{sample.where}: numbers {low:.0f}..{high:.0f} are an 8-bit picture, of which reflectance cannot be made; "
            f"expected {sensor.name} as reflectance, or tell its radiometry"
        )
    if high <= 160 and not sample.whole:
        found = Radiometry(0.01, 0.0, sensor.unit, "reflectance in percent", corrected=True)
        return _within(sensor, sample, found, low, high)
    for scale, offset, reason in (
        (sensor.scale, sensor.offset, f"scale {sensor.scale:.4g} and offset {sensor.offset:g} of the table"),
        (1e-4, 0.0, "reflectance times 10000"),
    ):
        if low * scale + offset >= sensor.expected[0] and high * scale + offset <= sensor.expected[1]:
            differs = (scale, offset) != (sensor.scale, sensor.offset)
            return Radiometry(scale, offset, sensor.unit, reason, corrected=differs)
    table = Radiometry(sensor.scale, sensor.offset, sensor.unit, "scale and offset of the table")
    return _within(sensor, sample, table, low, high)


def _sentinel2(sensor: Sensor, sample: Sample, low: float) -> Radiometry:
    """Whether 1000 is to be subtracted: by the tags, by the cirrus band, by the darkest pixels."""
    told, why = _s2_tags(sample)
    seen, evidence = _s2_numbers(sample, low, told)
    if told is not None and seen is not None and told != seen:
        raise ValueError(
            f"{sample.where}: {why}, so its numbers should be {'with' if told else 'without'} + 1000, but {evidence}; "
            "tell its radiometry"
        )
    if told is None and seen is None:
        logger.warning(
            "%s: cannot tell whether 1000 is to be subtracted (no tag, and the darkest pixels are at %.0f); subtracted",
            sample.where,
            low,
        )
        told, why = True, "nothing tells, so as the table"
    present = bool(seen) if told is None else told
    return Radiometry(
        sensor.scale, S2_OFFSET if present else 0.0, sensor.unit,
        f"{'1000 subtracted' if present else 'nothing subtracted'}: {why or evidence}",
        corrected=(S2_OFFSET if present else 0.0) != sensor.offset,
    )  # fmt: skip


def _s2_tags(sample: Sample) -> tuple[bool | None, str]:
    tags = sample.tags
    applied = tags.get("earthsearch:boa_offset_applied")
    if applied is not None and applied.lower() in ("true", "1"):
        return False, "earthsearch:boa_offset_applied"
    for key in ("boa_add_offset", "radio_add_offset", "boa_add_offset_values_list"):
        if key in tags:
            number = float(tags[key].replace(",", " ").split()[0])
            return number != 0, f"{key.upper()} is {number:g}"
    if sample.scaling is not None:
        return sample.scaling[1] != 0, f"its offset is {sample.scaling[1]:g}"
    for key in ("processing_baseline", "s2:processing_baseline", "processing:version"):
        try:
            baseline = float(tags[key])
        except (KeyError, ValueError):
            continue
        return baseline >= _S2_BASELINE, f"processing baseline {tags[key]}"
    return None, ""


def _s2_numbers(sample: Sample, low: float, told: bool | None) -> tuple[bool | None, str]:
    """What the numbers show, where they do: beside tags only what is beyond doubt."""
    cirrus = [i for i, band in enumerate(sample.bands) if band.name == "B10"]
    if cirrus:  # sees the ground nowhere: without a high cloud it measures 0
        band = sample.numbers[cirrus[0]]
        band = band[np.isfinite(band)]
        if len(band):
            dark = float(np.quantile(band, _DARKEST))
            return dark >= _S2_CIRRUS, f"the cirrus band begins at {dark:.0f}"
    evidence = f"the darkest pixels are at {low:.0f}"
    if low < (_S2_ABSENT if told is None else _S2_IMPOSSIBLE):
        return False, evidence
    if told is None and _S2_PRESENT[0] <= low < _S2_PRESENT[1]:
        return True, evidence
    return None, ""
