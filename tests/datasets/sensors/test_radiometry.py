import numpy as np
import pytest

from geovit.datasets.sensors import Sample, decide_radiometry, sensor


def sample(name, low, high, *, whole=True, bits=16, tags=None, scaling=None, bands=None):
    """Bands whose numbers run from low to high."""
    known = sensor(name)
    bands = bands or known.bands or sensor("planetscope-8").bands
    numbers = np.tile(np.linspace(low, high, 1000, dtype=np.float32), (len(bands), 1))
    return Sample(numbers.round() if whole else numbers, bands, whole, bits, "a.tif", tags or {}, scaling)


def decide(name, *args, **options):
    return decide_radiometry(sensor(name), [sample(name, *args, **options)])


@pytest.mark.parametrize(
    ("numbers", "tags", "offset"),
    [
        ((1020, 6000), {}, -0.1),
        ((1, 6000), {}, 0.0),
        ((1020, 6000), {"processing_baseline": "02.14"}, 0.0),
        ((2500, 9000), {"s2:processing_baseline": "05.10"}, -0.1),
        ((2500, 9000), {"s2:processing_baseline": "05.10", "earthsearch:boa_offset_applied": "True"}, 0.0),
        ((2500, 9000), {"boa_add_offset": "-1000"}, -0.1),
        ((900, 9000), {"boa_add_offset_values_list": "-1000, -1000"}, -0.1),
    ],
)
def test_sentinel2_offset_follows_tags_then_dark_pixels(numbers, tags, offset):
    found = decide("sentinel-2-l2a", *numbers, tags=tags)
    assert (found.scale, found.offset, found.unit) == (1e-4, offset, "reflectance")
    assert found.corrected == (offset == 0)
    assert found.reason


def test_sentinel2_cirrus_band_tells_the_offset_of_bright_scenes():
    snow = sample("sentinel-2-l1c", 3000, 9000)
    cirrus = [band.name for band in snow.bands].index("B10")
    snow.numbers[cirrus] = 1010
    assert decide_radiometry(sensor("sentinel-2-l1c"), [snow]).offset == -0.1
    snow.numbers[cirrus] = 12
    assert decide_radiometry(sensor("sentinel-2-l1c"), [snow]).offset == 0


def test_sentinel2_tag_and_numbers_that_contradict_are_refused():
    with pytest.raises(ValueError, match="processing baseline 05.10, so its numbers should be with .* darkest pixels are at"):
        decide("sentinel-2-l2a", 1, 6000, tags={"s2:processing_baseline": "05.10"})


@pytest.mark.parametrize("darkest", [700, 5000])
def test_sentinel2_scene_that_tells_nothing_is_read_as_the_table_says_with_a_warning(darkest, caplog):
    assert decide("sentinel-2-l2a", darkest, 9000).offset == -0.1
    assert "cannot tell whether 1000 is to be subtracted" in caplog.text


def test_images_of_both_baselines_in_one_array_are_refused():
    both = [sample("sentinel-2-l2a", 1, 6000), sample("sentinel-2-l2a", 1020, 6000)]
    with pytest.raises(ValueError, match="some images are without"):
        decide_radiometry(sensor("sentinel-2-l2a"), both)


@pytest.mark.parametrize(
    ("name", "numbers", "options", "scale", "offset", "corrected"),
    [
        ("landsat-8-9-l2", (7300, 30000), {}, 2.75e-5, -0.2, False),
        ("landsat-7-l2", (150, 5000), {}, 1e-4, 0.0, True),  # Collection 1
        ("landsat-8-9-toa", (0.02, 0.7), {"whole": False}, 1.0, 0.0, False),
        ("sentinel-2-l2a", (0.01, 0.6), {"whole": False}, 1.0, 0.0, True),
        ("sentinel-2-l2a", (1.0, 60.0), {"whole": False}, 0.01, 0.0, True),
        ("enmap", (10, 6000), {}, 1e-4, 0.0, False),
        ("emit", (0.01, 0.6), {"whole": False}, 1.0, 0.0, False),
        ("planetscope-8", (150, 6000), {"scaling": (2e-5, 0.0)}, 2e-5, 0.0, False),
        ("naip", (0, 255), {"bits": 8}, 1 / 255, 0.0, False),
    ],
)
def test_scales_are_told_apart(name, numbers, options, scale, offset, corrected):
    found = decide(name, *numbers, **options)
    assert (found.scale, found.offset, found.corrected) == (scale, offset, corrected)


def test_linear_radar_becomes_decibel():
    found = decide("sentinel-1-rtc", 0.001, 1.0, whole=False)
    assert found.decibel
    assert found.corrected
    np.testing.assert_allclose(found(np.float32([0.01, 1.0, 0.0])), [-20, 0, np.nan], atol=1e-5)
    assert not decide("sentinel-1-rtc", -25.0, 3.0, whole=False).decibel


@pytest.mark.parametrize(
    ("name", "numbers", "options", "message"),
    [
        ("sentinel-2-l2a", (0, 255), {"bits": 8}, "0..252 are an 8-bit picture"),
        ("enmap", (0, 255), {}, "8-bit picture"),
        ("sentinel-1-grd", (20, 900), {}, "amplitudes that are not calibrated"),
        ("sentinel-1-rtc", (-300, 900), {"whole": False}, "are not what sentinel-1-rtc measures, -50..30"),
        ("sentinel-2-l2a", (1, 65000), {}, "values .*..6.4.* are not what sentinel-2-l2a measures"),
        ("landsat-8-9-l2", (10, 65000), {}, "are not what landsat-8-9-l2 measures, -0.1..1.6"),
        ("naip", (0, 4000), {}, "numbers up to 39.*, expected 8 bits"),
        ("enmap", (np.nan, np.nan), {"whole": False}, "no valid pixel"),
    ],
)
def test_numbers_that_are_not_the_sensors_are_refused(name, numbers, options, message):
    with pytest.raises(ValueError, match=f"^a.tif: .*{message}"):
        decide(name, *numbers, **options)


def test_values_are_number_times_scale_plus_offset_and_no_data_stays():
    found = decide("landsat-8-9-l2", 7300, 30000)
    np.testing.assert_allclose(found(np.float32([18639, np.nan])), [0.312573, np.nan], atol=1e-6)  # the USGS' own example
