"""What the ground reflects between 400 and 2500 nm, put together from what shapes real spectra.

Chlorophyll and the red edge, liquid water at 970, 1200, 1450 and 1940 nm, iron oxide near 870 nm, clay at 2200 nm, cellulose at
2100 nm, carbonate at 2330 nm (positions: Clark 1999, Spectroscopy of Rocks and Minerals; Jacquemoud and Baret 1990, PROSPECT).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .classes import Color

_Array = NDArray[np.float64]


def bump(w: _Array, centre: float, width: float) -> _Array:
    return np.exp(-0.5 * ((w - centre) / width) ** 2)


def _dips(w: _Array, *dips: tuple[float, float, float]) -> _Array:
    """Product of absorption bands given as (centre nm, width nm, depth)."""
    product = np.ones_like(w)
    for centre, width, depth in dips:
        product *= 1 - depth * bump(w, centre, width)
    return product


def _rise(w: _Array, centre: float, width: float) -> _Array:
    return 1 / (1 + np.exp(-(w - centre) / width))


def _water(w: _Array, t: float) -> _Array:
    return 0.008 + (0.05 + 0.05 * t) * bump(w, 480 + 90 * t, 110) + 0.04 * t * bump(w, 705, 40)


def _leaves(w: _Array, nir: float, green: float, water: float) -> _Array:
    plateau = nir * np.exp(-np.clip(w - 1300, 0, None) / 1300)
    dips = _dips(w, (970, 35, 0.12 * water), (1190, 45, 0.22 * water), (1450, 75, 0.75 * water), (1940, 95, 0.85 * water))
    return (0.03 + green * bump(w, 552, 32)) * (1 - 0.6 * _rise(w, 1300, 90)) + plateau * _rise(w, 717, 14) * dips


def _trees(w: _Array, t: float) -> _Array:
    return _leaves(w, nir=0.34 + 0.10 * t, green=0.045 + 0.02 * t, water=0.85)


def _meadow(w: _Array, t: float) -> _Array:
    return (1 - 0.35 * t) * _leaves(w, nir=0.46, green=0.065, water=0.75) + 0.35 * t * _straw(w, 0.5)


def _straw(w: _Array, t: float) -> _Array:
    base = 0.06 + (0.30 + 0.08 * t) * (1 - np.exp(-(w - 400) / 420))
    return base * _dips(w, (1450, 60, 0.15), (1930, 70, 0.25), (2100, 55, 0.18), (2310, 45, 0.14), (670, 25, 0.15 * (1 - t)))


def _soil(w: _Array, t: float) -> _Array:
    base = (0.42 - 0.16 * t) * (1 - np.exp(-(w - 250) / 620))
    return base * _dips(w, (870, 90, 0.10), (1420, 40, 0.05 + 0.2 * t), (1920, 60, 0.08 + 0.3 * t), (2205, 25, 0.14))


def _asphalt(w: _Array, t: float) -> _Array:
    return (0.07 + 0.06 * t) * (1 + 0.45 * (w - 400) / 2000) * _dips(w, (2310, 40, 0.05))


def _concrete(w: _Array, t: float) -> _Array:
    base = (0.20 + 0.14 * t) * (1 - 0.45 * np.exp(-(w - 380) / 180))
    return base * _dips(w, (1430, 45, 0.06), (1930, 60, 0.14), (2335, 35, 0.12))


def _tiles(w: _Array, t: float) -> _Array:
    return (0.06 + (0.22 + 0.10 * t) * _rise(w, 590, 28)) * _dips(w, (870, 80, 0.16), (1920, 60, 0.08), (2205, 30, 0.07))


def _snow(w: _Array, t: float) -> _Array:
    visible = 0.95 - 0.15 * t
    return 0.04 + visible * (1 - _rise(w, 1270 - 120 * t, 90)) * _dips(w, (1030, 45, 0.12)) + 0.09 * bump(w, 1800, 90)


class Material(NamedTuple):
    """What covers the ground: its name, its colour on maps, and ``spectrum``.

    The latter returns reflectance at wavelengths in nm, for a state in 0..1: moisture, density, age or wear.
    """

    name: str
    color: Color
    spectrum: Callable[[_Array, float], _Array]


MATERIALS = (
    Material("water", (31, 111, 180), _water),
    Material("trees", (21, 92, 44), _trees),
    Material("meadow", (141, 199, 84), _meadow),
    Material("bare soil", (166, 118, 72), _soil),
    Material("asphalt", (70, 70, 78), _asphalt),
    Material("concrete", (196, 196, 190), _concrete),
    Material("dry grass", (226, 201, 110), _straw),
    Material("tile roof", (190, 74, 52), _tiles),
)

# Old or wet snow reflects less, in the near infrared above all (Wiscombe and Warren 1980).
SNOW = Material("snow", (240, 244, 250), _snow)
