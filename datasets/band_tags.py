"""What the tags of a raster say of its bands: wavelengths, widths, which are bad and which are alpha."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader

from .wavelengths import parse_numbers, to_nm

logger = logging.getLogger(__name__)


def alpha_bands(src: DatasetReader) -> tuple[int, ...]:
    """Bands that say where the others are transparent."""
    return tuple(band for band, use in zip(src.indexes, src.colorinterp, strict=True) if use is ColorInterp.alpha)


@dataclass(frozen=True)
class BandTags:
    """What the file says about its bands, in file order; None where it says nothing."""

    wavelengths: NDArray[np.float64] | None  # nm, NaN for bands without
    fwhm: NDArray[np.float64] | None  # nm
    good: NDArray[np.bool_] | None
    alpha: tuple[int, ...] = ()


def band_tags(src: DatasetReader) -> BandTags:
    """Wavelengths, widths and bad-band list of a dataset.

    Looked for in the band tags, the GDAL ``IMAGERY`` domain of the bands, the ENVI header and the dataset tags; the first
    that has wavelengths wins. Band tags come before ``IMAGERY`` because GDAL rounds the latter when it reads ENVI headers.
    """
    good = _per_band(src, "bbl")
    wavelengths, fwhm = _wavelengths(src)
    return BandTags(wavelengths, fwhm, None if good is None else np.asarray(good) != 0, alpha_bands(src))


def _wavelengths(src: DatasetReader) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    imagery = [lower_keys(src.tags(band, ns="IMAGERY")) for band in src.indexes]
    found: list[tuple[list[float] | None, list[float] | None, str | None]] = [
        (_per_band(src, "wavelength"), _per_band(src, "fwhm"), _unit(src)),
        (_column(imagery, "central_wavelength_um"), _column(imagery, "fwhm_um"), "um"),
    ]
    for centres, widths, unit in found:
        if centres is None or not any(centre > 0 for centre in centres):
            continue
        if unit is not None and unit.strip().lower() == "index":
            logger.warning("%s: the wavelengths are band indices, ignored", src.name)
            continue
        return to_nm(centres, widths, unit, src.name)
    return None, None


def lower_keys(tags: dict[str, str]) -> dict[str, str]:
    """Return tags with keys that are spelled alike: programs differ in case and in spaces."""
    return {key.strip().lower().replace(" ", "_"): value for key, value in tags.items()}


def _column(tags: Sequence[dict[str, str]], key: str) -> list[float] | None:
    if not any(key in band for band in tags):
        return None
    return [(parse_numbers(band.get(key, "")) or [float("nan")])[0] for band in tags]


def _per_band(src: DatasetReader, key: str) -> list[float] | None:
    column = _column([lower_keys(src.tags(band)) for band in src.indexes], key)
    if column is not None:
        return column
    text = _dataset_tag(src, lambda tags: tags.get(key))
    if text is None:
        return None
    values = parse_numbers(text)
    if len(values) != src.count:
        logger.warning("%s: %d values of %r for %d bands, ignored", src.name, len(values), key, src.count)
        return None
    return values


def _unit(src: DatasetReader) -> str | None:
    def find(tags: dict[str, str]) -> str | None:
        return tags.get("wavelength_units", tags.get("wavelength_unit"))

    units = {unit for band in src.indexes if (unit := find(lower_keys(src.tags(band)))) is not None}
    if len(units) > 1:
        raise ValueError(f"{src.name}: bands have different wavelength units {sorted(units)}")
    return units.pop() if units else _dataset_tag(src, find)


def _dataset_tag(src: DatasetReader, find: Callable[[dict[str, str]], str | None]) -> str | None:
    for namespace in ("ENVI", None):
        value = find(lower_keys(src.tags(ns=namespace)))
        if value is not None:
            return value
    return None
