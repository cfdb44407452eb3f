"""Band positions in nanometres from the spellings that raster files use."""

import logging
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_NM_PER = {"nm": 1.0, "nanometer": 1.0, "nanometre": 1.0} | dict.fromkeys(
    ("um", "\N{MICRO SIGN}m", "\N{GREEK SMALL LETTER MU}m", "micrometer", "micrometre", "micron"), 1000.0
)
_MISSING = ("", "unknown", "none")


def parse_numbers(text: str) -> list[float]:
    """Numbers of an ENVI list such as ``{0.4, 0.5}``; what is no number becomes NaN."""
    return [_number(word) for word in re.split(r"[,;\s]+", text.strip("{} \t\r\n")) if word]


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return float("nan")


def is_length(unit: str) -> bool:
    """Whether a unit is one that wavelengths come in."""
    spelled = unit.strip().lower()
    return spelled in _NM_PER or spelled.removesuffix("s") in _NM_PER


def nm_per_unit(unit: str | None, values: NDArray[np.float64], where: str) -> float:
    """Nanometres in one unit of ``values``.

    Args:
        unit: as spelled in the file, case ignored. Absent or "unknown": guessed from the range, with a warning.
        values: band positions, used for the guess only; NaN ignored.
        where: file name for messages.

    Raises:
        ValueError: for a unit that is not a length (wavenumbers, GHz), or a range that fits neither nm nor micrometres.
    """
    spelled = (unit or "").strip().lower()
    if spelled not in _MISSING:
        factor = _NM_PER.get(spelled, _NM_PER.get(spelled.removesuffix("s")))
        if factor is None:
            raise ValueError(f"{where}: wavelength unit {unit!r} is not supported, expected nanometers or micrometers")
        return factor
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low > 100:
        guess, factor = "nanometers", 1.0
    elif low >= 0.2 and high <= 50:
        guess, factor = "micrometers", 1000.0
    else:
        raise ValueError(f"{where}: wavelengths {low:g}..{high:g} without a unit fit neither nanometers nor micrometers")
    logger.warning("%s: wavelengths %g..%g have no unit, taken as %s", where, low, high, guess)
    return factor


def to_nm(
    values: Sequence[float], fwhm: Sequence[float] | None, unit: str | None, where: str
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Convert band centres and widths, which share one unit, to nanometres. Centres not above 0 become NaN; one must be."""
    centres = np.asarray(values, dtype=np.float64)
    centres = np.where(centres > 0, centres, np.nan)
    factor = nm_per_unit(unit, centres, where)
    widths = None if fwhm is None else np.asarray(fwhm, dtype=np.float64) * factor
    return centres * factor, widths
