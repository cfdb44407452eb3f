import numpy as np
import pytest

from geovit.datasets.collections import open_collection
from geovit.datasets.synthetic_places import COVERS, synthesize_places, synthetic_place

SENSORS = ("sentinel-2-l2a", "sentinel-2-l1c", "sentinel-1-rtc")


@pytest.fixture(scope="module")
def place():
    return synthetic_place(22, size=96, sensors=SENSORS)


def over(place, sensor, band, cover):
    image = place.images[sensor]
    index = [b.name for b in image.bands].index(band)
    return float(np.median(image.values[index][place.cover == cover]))


def test_covers_look_as_they_do(place):
    number = {info.name: info.value for info in COVERS}
    assert {number["water"], number["trees"], number["crops"]} <= set(np.unique(place.cover).tolist())
    optical, radar = "sentinel-2-l2a", "sentinel-1-rtc"
    red, infrared = (over(place, optical, band, number["trees"]) for band in ("B04", "B08"))
    assert infrared > 4 * red, "the red edge"
    assert over(place, optical, "B11", number["water"]) < 0.03 < over(place, optical, "B11", number["bare"])
    assert over(place, radar, "VH", number["trees"]) > over(place, radar, "VH", number["water"]) + 8
    air = [over(place, "sentinel-2-l1c", band, number["water"]) for band in ("B01", "B8A")]
    assert air[0] > over(place, optical, "B01", number["water"]) + 0.03, "air scatters blue light"
    assert over(place, "sentinel-2-l1c", "B10", number["bare"]) < 0.05, "water vapour swallows 1375 nm"


def test_seeds_decide_and_sensors_do_not_depend_on_each_other(place):
    again = synthetic_place(22, size=96, sensors=SENSORS[::-1])
    assert np.array_equal(again.cover, place.cover)
    for name, image in place.images.items():
        assert np.array_equal(again.images[name].values, image.values)
        assert image.values.dtype == np.float32
        assert np.isfinite(image.values).all()
    assert not np.array_equal(synthetic_place(4, size=96).cover, place.cover)


def test_coarse_sensors_see_the_same_ground():
    place = synthetic_place(0, size=96, sensors=("landsat-8-l2", "sentinel-2-l2a"))
    coarse, fine = place.images.values()
    assert coarse.values.shape[1:] == (32, 32)
    assert coarse.grid.to_map(32, 32).tolist() == fine.grid.to_map(96, 96).tolist()
    red = [image.values[np.argmin([abs(b.wavelength - 660) for b in image.bands])] for image in (coarse, fine)]
    assert np.corrcoef(red[0].ravel(), red[1].reshape(32, 3, 32, 3).mean((1, 3)).ravel())[0, 1] > 0.9


def test_files_open_as_a_collection_with_labels(tmp_path, caplog):
    synthesize_places(tmp_path, places=2, size=32, sensors=SENSORS)
    collection = open_collection(tmp_path)
    assert collection.places == ("place0", "place1")
    assert set(collection.sensors) == set(SENSORS)
    made = synthetic_place(1, size=32, sensors=SENSORS)
    read = collection.read("place1")
    for name, image in made.images.items():
        np.testing.assert_allclose(read[name].values, image.values, atol=1e-4)
        assert read[name].bands == image.bands
    assert np.array_equal(collection.labels("place1"), made.cover)
    assert not [record for record in caplog.records if record.levelname == "WARNING"], "the files tell their offset"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 16}, "16 pixels"),
        ({"sensors": ["sentinel-3"]}, "sentinel-3"),
        ({"sensors": ["landsat-8-l2"], "size": 40}, "30 m"),
    ],
)
def test_what_cannot_be_made_is_told(options, message):
    with pytest.raises(ValueError, match=message):
        synthetic_place(0, **options)


def test_landscapes_differ_in_their_spectra_and_seasons():
    def infrared_of_trees(seed):
        place = synthetic_place(seed, size=32, sensors=["sentinel-2-l2a"])
        return over(place, "sentinel-2-l2a", "B08", 2) if (place.cover == 2).sum() > 50 else np.nan

    assert np.nanstd([infrared_of_trees(seed) for seed in range(12)]) > 0.02
    places = [synthetic_place(seed, size=32, sensors=["sentinel-2-l2a"]) for seed in range(15)]
    snowy = [place for place in places if (place.cover == 7).mean() > 0.3]
    assert snowy
    assert all(over(place, "sentinel-2-l2a", "B03", 7) > 2 * over(place, "sentinel-2-l2a", "B11", 7) for place in snowy)


def test_bands_have_the_pixels_that_the_sensor_has(place):
    image = place.images["sentinel-2-l2a"]
    names = [band.name for band in image.bands]
    coarse, fine = (image.values[names.index(name)].reshape(48, 2, 48, 2) for name in ("B11", "B08"))
    assert np.ptp(coarse, axis=(1, 3)).max() == 0 < np.ptp(fine, axis=(1, 3)).min()
