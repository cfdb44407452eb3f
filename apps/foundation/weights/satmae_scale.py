"""The scale of SatMAE and SatMAE++ on Sentinel-2: two deviations around the mean of each band are 0..1, the rest is cut off.

Facts of sustainlab-group/SatMAE, util/datasets.py: fMoW-Sentinel in 1e-4 of reflectance at the top of the atmosphere.
"""

from .scales import RangeScale

WAVELENGTHS = (490.0, 560.0, 665.0, 705.0, 740.0, 783.0, 842.0, 865.0, 1610.0, 2190.0)
_NAMES = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
_MEAN = (1184.3824625, 1120.77120066, 1136.26026392, 1263.73947144, 1645.40315151, 1846.87040806, 1762.59530783, 1972.62420416,
         1732.16362238, 1247.91870117)  # fmt: skip
_DEVIATION = (650.2842772, 712.12507725, 965.23119807, 948.9819932, 1108.06650639, 1258.36394548, 1233.1492281, 1364.38688993,
              1310.36996126, 1087.6020813)  # fmt: skip


def satmae_scale() -> RangeScale:
    """Return the scale."""
    low = [(m - 2 * d) / 1e4 for m, d in zip(_MEAN, _DEVIATION, strict=True)]
    high = [(m + 2 * d) / 1e4 for m, d in zip(_MEAN, _DEVIATION, strict=True)]
    return RangeScale(WAVELENGTHS, _NAMES, low, high)
