"""The sensors that are known: bands, scale and range of their products.

Wavelengths are centres in nm. Sources:

- Sentinel-1: ESA, Sentinel-1 Product Specification (C band, 5.405 GHz); analysis-ready products are in linear power or dB.
- Sentinel-2: ESA SentiWiki, S2 Mission, spectral bands of Sentinel-2A (2B and 2C differ by up to 17 nm, in B12). Numbers are
  10000 * reflectance, since processing baseline 04.00 (25 January 2022) + 1000: S2 Products, "radiometric offset".
- Landsat 8 and 9: Barsi et al. 2014, The spectral response of the Landsat-8 Operational Land Imager, table 1. Landsat 5 and 7:
  the middle of the band limits of USGS, "What are the band designations for the Landsat satellites?". Collection 2 Level-2: USGS,
  "How do I use a scale factor with Landsat Level-2 science products?" (2.75e-5, -0.2, fill 0, valid 7273..43636).
- EnMAP: DLR, EnMAP Product Specification EN-PCV-ICD-2009-2: 224 bands, L2A reflectance * 10000, background -32768.
- PRISMA: ASI, PRISMA Products Specification Document: L2D numbers 0..65535 between L2ScaleMin and L2ScaleMax, mostly 0 and 1.
- EMIT: NASA LP DAAC, EMIT L2A user guide: 285 bands, 381..2493 nm, float reflectance, fill -9999.
- PlanetScope: Planet, PlanetScope Product Specification (SuperDove, PSB.SD): surface reflectance * 10000, fill 0.
- NAIP: USDA APFO; cameras vary, the bands are those of the Leica ADS100. 8-bit numbers, not calibrated.
"""

from difflib import get_close_matches

from .sensor import Band, Sensor, plain


def _optical(name: str, wavelength: float, *common: str, gsd: float | None = None) -> Band:
    return Band(name, wavelength, gsd=gsd, common=common)


_S2 = (
    _optical("B01", 442.7, "coastal", gsd=60.0),
    _optical("B02", 492.7, "blue"),
    _optical("B03", 559.8, "green"),
    _optical("B04", 664.6, "red"),
    _optical("B05", 704.1, "rededge1", "rededge071", gsd=20.0),
    _optical("B06", 740.5, "rededge2", "rededge075", gsd=20.0),
    _optical("B07", 782.8, "rededge3", "rededge078", gsd=20.0),
    _optical("B08", 832.8, "nir"),
    _optical("B8A", 864.7, "nir08", gsd=20.0),
    _optical("B09", 945.1, "nir09", gsd=60.0),
    _optical("B10", 1373.5, "cirrus", gsd=60.0),
    _optical("B11", 1613.7, "swir16", gsd=20.0),
    _optical("B12", 2202.4, "swir22", gsd=20.0),
)

_RADAR = (Band("VV", polarization="VV"), Band("VH", polarization="VH"))
_RADAR_H = (Band("HH", polarization="HH"), Band("HV", polarization="HV"))

_TM5 = (
    _optical("B1", 485.0, "SR_B1", "blue"),
    _optical("B2", 560.0, "SR_B2", "green"),
    _optical("B3", 660.0, "SR_B3", "red"),
    _optical("B4", 830.0, "SR_B4", "nir08", "nir"),
    _optical("B5", 1650.0, "SR_B5", "swir16"),
    _optical("B7", 2215.0, "SR_B7", "swir22"),
)

_ETM7 = (
    _optical("B1", 485.0, "SR_B1", "blue"),
    _optical("B2", 560.0, "SR_B2", "green"),
    _optical("B3", 660.0, "SR_B3", "red"),
    _optical("B4", 835.0, "SR_B4", "nir08", "nir"),
    _optical("B5", 1650.0, "SR_B5", "swir16"),
    _optical("B7", 2220.0, "SR_B7", "swir22"),
)

_OLI = (
    _optical("B1", 442.96, "SR_B1", "coastal"),
    _optical("B2", 482.04, "SR_B2", "blue"),
    _optical("B3", 561.41, "SR_B3", "green"),
    _optical("B4", 654.59, "SR_B4", "red"),
    _optical("B5", 864.67, "SR_B5", "nir08", "nir"),
    _optical("B6", 1608.86, "SR_B6", "swir16"),
    _optical("B7", 2200.73, "SR_B7", "swir22"),
)

_DOVE = (
    _optical("coastal_blue", 443.0, "coastal"),
    _optical("blue", 490.0),
    _optical("green_i", 531.0, "green1"),
    _optical("green", 565.0),
    _optical("yellow", 610.0),
    _optical("red", 665.0),
    _optical("rededge", 705.0, "rededge1"),
    _optical("nir", 865.0),
)

_NAIP = (_optical("R", 635.0, "red"), _optical("G", 555.0, "green"), _optical("B", 465.0, "blue"), _optical("N", 845.0, "nir"))

# Sun glint, snow on slopes towards the sun, and clouds exceed a reflectance of 1; correction for the air goes below 0 in shadow.
_REFLECTANCE = (-0.1, 1.6)
_DECIBEL = (-50.0, 30.0)


def _landsat(number: str, bands: tuple[Band, ...], *aliases: str, cirrus: bool = False) -> tuple[Sensor, Sensor]:
    """Level 2 as in its files, and top-of-atmosphere reflectance as services compute it."""
    short = [f"{word}{number[0]}" for word in ("landsat", "l", "lc0", "le0", "lt0")]
    level2 = Sensor(
        f"landsat-{number}-l2", bands, 30.0, "reflectance", 2.75e-5, -0.2, _REFLECTANCE, 0.0,
        aliases=(*(f"{word}{end}" for word in short for end in ("l2", "sr", "c2l2")), *aliases),
    )  # fmt: skip
    toa = Sensor(
        f"landsat-{number}-toa", (*bands, _optical("B9", 1373.43, "cirrus")) if cirrus else bands, 30.0, "reflectance", 1.0, 0.0,
        _REFLECTANCE, aliases=tuple(f"{word}{end}" for word in short for end in ("toa", "l1toa")),
    )  # fmt: skip
    return level2, toa


_ALL = (
    Sensor(
        "sentinel-1-grd", _RADAR, 10.0, "dB", 1.0, 0.0, _DECIBEL, others=_RADAR_H,
        aliases=("s1grd",),
    ),
    Sensor(
        "sentinel-1-rtc", _RADAR, 10.0, "dB", 1.0, 0.0, _DECIBEL, others=_RADAR_H,
        aliases=("s1rtc",),
    ),
    Sensor(
        "sentinel-2-l1c", _S2, 10.0, "reflectance", 1e-4, -0.1, _REFLECTANCE, 0.0,
        aliases=("s2l1c", "s2toa", "s2msil1c"),
    ),
    Sensor(
        "sentinel-2-l2a", tuple(band for band in _S2 if band.name != "B10"), 10.0, "reflectance", 1e-4, -0.1, _REFLECTANCE, 0.0,
        aliases=("s2l2a", "s2sr", "s2boa", "s2msil2a", "sentinel2c1l2a"),
    ),
    *_landsat("5", _TM5),
    *_landsat("7", _ETM7),
    *_landsat("8-9", _OLI, "landsat9l2", "l9l2", "landsat9sr", "landsat89l2", "hlsl30", cirrus=True),
    Sensor(
        "enmap", (), 30.0, "reflectance", 1e-4, 0.0, _REFLECTANCE, -32768.0,
        aliases=("enmapl2a", "enmaphsi"), channels=224,
    ),
    Sensor(
        "prisma", (), 30.0, "reflectance", 1 / 65535, 0.0, _REFLECTANCE,
        aliases=("prismal2d", "prismal2c"),
    ),
    Sensor(
        "emit", (), 60.0, "reflectance", 1.0, 0.0, _REFLECTANCE, -9999.0,
        aliases=("emitl2a", "emitl2arfl"), channels=285,
    ),
    Sensor(
        "planetscope-8", _DOVE, 3.0, "reflectance", 1e-4, 0.0, _REFLECTANCE, 0.0,
        aliases=("superdove", "psbsd8", "psscene8b", "planetscope8b", "planet8"),
    ),
    Sensor(
        "planetscope-4", tuple(_DOVE[i] for i in (1, 3, 5, 7)), 3.0, "reflectance", 1e-4, 0.0, _REFLECTANCE, 0.0,
        aliases=("psbsd4", "psscene4b", "planetscope4b", "planet4"),
    ),
    Sensor("naip", _NAIP, 1.0, "relative", 1 / 255, 0.0, (0.0, 1.0)),
    # Any imaging spectrometer whose file tells its wavelengths, in the most usual of scales.
    Sensor("hyperspectral", (), 30.0, "reflectance", 1e-4, 0.0, _REFLECTANCE),
)  # fmt: skip

SENSORS = {sensor.name: sensor for sensor in _ALL}
_NAMES = {plain(name): sensor for sensor in _ALL for name in (sensor.name, *sensor.aliases)}


def find_sensor(name: str) -> Sensor | None:
    """Return a sensor by any of its names; None if there is none."""
    return _NAMES.get(plain(name))


def sensor(name: str) -> Sensor:
    """Return a sensor by any of its names, such as "sentinel-2-l2a" or "S2L2A".

    Raises:
        ValueError: if there is none; it tells the near ones.
    """
    if found := find_sensor(name):
        return found
    near = list(dict.fromkeys(_NAMES[match].name for match in get_close_matches(plain(name), _NAMES, n=4)))
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(f"unknown sensor {name!r}: {hint}allowed are {', '.join(SENSORS)}")


def with_count(count: int) -> list[str]:
    """Return the names of sensors whose files have so many bands."""
    return [sensor.name for sensor in _ALL if sensor.count == count]
