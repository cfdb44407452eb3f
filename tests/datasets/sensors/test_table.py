import pytest

from geovit.datasets.sensors import SENSORS, find_sensor, sensor


def test_sentinel2_products_differ_by_the_cirrus_band_and_have_b8a_after_b08():
    l1c, l2a = ([band.name for band in sensor(name).bands] for name in ("sentinel-2-l1c", "sentinel-2-l2a"))
    assert len(l1c) == 13
    assert [name for name in l1c if name != "B10"] == l2a
    assert l2a[l2a.index("B08") + 1] == "B8A"


@pytest.mark.parametrize("known", SENSORS.values(), ids=SENSORS)
def test_every_band_is_told(known):
    for band in (*known.bands, *known.others):
        assert (band.wavelength is None) == (known.unit == "dB")
        assert band.polarization is not None or 400 < band.wavelength < 2500
        assert known.band(band.name) == band
    assert known.bands or known.name in ("enmap", "prisma", "emit", "hyperspectral")
    assert len({band.name for band in known.bands}) == len(known.bands)
    if known.optical and known.bands and known.name not in ("sentinel-2-l1c", "landsat-8-9-toa", "naip"):
        centres = [band.wavelength for band in known.bands]
        assert centres == sorted(centres)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("S2L2A", "sentinel-2-l2a"),
        ("S2_L1C", "sentinel-2-l1c"),
        ("s1-rtc", "sentinel-1-rtc"),
        ("Sentinel-1 GRD", "sentinel-1-grd"),
        ("LC08_L2", "landsat-8-9-l2"),
        ("landsat9-l2", "landsat-8-9-l2"),
        ("LT05_L2", "landsat-5-l2"),
        ("L7TOA", "landsat-7-toa"),
        ("SuperDove", "planetscope-8"),
        ("EnMAP", "enmap"),
    ],
)
def test_sensors_are_found_by_the_names_that_folders_have(spelling, name):
    assert sensor(spelling).name == name


@pytest.mark.parametrize(("spelling", "name"), [("B8", "B08"), ("b08", "B08"), ("nir", "B08"), ("B8A", "B8A"), ("swir22", "B12")])
def test_bands_are_found_in_any_spelling(spelling, name):
    assert sensor("sentinel-2-l2a").band(spelling).name == name


def test_unknown_sensor_tells_the_near_ones():
    with pytest.raises(ValueError, match="'S2L2B': did you mean sentinel-2-l2a or .*allowed are sentinel-1-grd, "):
        sensor("S2L2B")
    assert find_sensor("DEM") is None
