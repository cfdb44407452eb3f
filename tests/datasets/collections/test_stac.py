import json

import numpy as np
import pytest

from geovit.datasets.collections import open_collection


def item(name, collection, assets, **properties):
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": collection,
        "geometry": None,
        "properties": {"datetime": "2023-06-10T07:46:21Z"} | properties,
        "links": [],
        "assets": assets,
    }


def asset(path, *bands, numbers=None, **fields):
    more = {"raster:bands": [numbers] * len(bands)} if numbers else {}
    return {"href": path.name, "type": "image/tiff", "roles": ["data"], "eo:bands": list(bands)} | more | fields


@pytest.fixture
def save(tmp_path):
    def write_json(*items, name="items.json"):
        path = tmp_path / name
        content = items[0] if len(items) == 1 else {"type": "FeatureCollection", "features": list(items)}
        path.write_text(json.dumps(content))
        return path

    return write_json


@pytest.fixture
def assets(write, numbers):
    """Three bands in files of their own, one of 20 m, as STAC tells them: by name, by common name, by wavelength in um."""
    red, edge, nir = (write(f"{name}.tif", array, pitch=p) for name, array, p in zip(
        ("x", "y", "z"), (numbers(1), numbers(1, 16, 1), numbers(1, seed=2)), (10.0, 20.0, 10.0), strict=True
    ))  # fmt: skip
    picture = write("TCI.tif", np.zeros((3, 32, 32), np.uint8))
    return {
        "visual": asset(picture, {"name": "red"}, {"name": "green"}, {"name": "blue"}, roles=["visual"]),
        "first": asset(red, {"name": "B04", "common_name": "red", "center_wavelength": 0.665}),
        "second": asset(edge, {"name": "edge", "common_name": "rededge", "center_wavelength": 0.704}),
        "third": asset(nir, {"name": "image", "common_name": "nir", "center_wavelength": 0.842}),
    }


def test_assets_become_bands_in_the_order_of_the_sensor(save, assets, numbers):
    found = open_collection(save(item("tile", "sentinel-2-l2a", assets)))
    image = found.read("tile")["sentinel-2-l2a"]
    assert [band.name for band in image.bands] == ["B04", "B05", "B08"]
    np.testing.assert_allclose(image.values[0], numbers(1)[0] * 1e-4 - 0.1, atol=1e-6)
    coarse = numbers(1, 16, 1)[0] * 1e-4 - 0.1
    np.testing.assert_allclose(image.values[1], coarse.repeat(2, 0).repeat(2, 1), atol=1e-6)  # repeated, not mixed


def test_windows_of_coarse_bands_are_the_same_ground(save, assets):
    from rasterio.windows import Window

    found = open_collection(save(item("tile", "sentinel-2-l2a", assets)), keep_mib=0)
    whole = found.read("tile")["sentinel-2-l2a"].values
    np.testing.assert_array_equal(found.read("tile", window=Window(4, 10, 8, 6))["sentinel-2-l2a"].values, whole[:, 10:16, 4:12])


@pytest.mark.parametrize(
    ("properties", "numbers_tag", "offset"),
    [
        ({"s2:processing_baseline": "05.10"}, None, -0.1),
        ({"s2:processing_baseline": "05.10", "earthsearch:boa_offset_applied": True}, {"scale": 1e-4, "offset": -0.1}, 0.0),
        ({"s2:processing_baseline": "05.10"}, {"scale": 1e-4, "offset": -0.1}, -0.1),
        ({"s2:processing_baseline": "02.14"}, None, 0.0),
    ],
)
def test_baseline_and_offset_of_the_item_rule(save, assets, properties, numbers_tag, offset):
    if numbers_tag:
        assets = {key: value | {"raster:bands": [numbers_tag] * len(value["eo:bands"])} for key, value in assets.items()}
    found = open_collection(save(item("tile", "sentinel-2-l2a", assets, **properties)))
    assert found.radiometry("tile", "sentinel-2-l2a").offset == offset


def test_items_of_one_id_are_one_place(save, assets, write):
    radar = write("vv.tif", np.full((1, 16, 16), 0.1, np.float32), pitch=20.0)
    both = save(item("a", "sentinel-2-l2a", assets), item("a", "sentinel-1-rtc", {"vv": asset(radar)}))
    found = open_collection(both)
    assert found.places == ("a",)
    assert set(found.sensors) == {"sentinel-2-l2a", "sentinel-1-rtc"}
    np.testing.assert_allclose(found.read("a")["sentinel-1-rtc"].values, -10, rtol=1e-6)


def test_scene_classification_hides_clouds(save, assets, write):
    codes = np.full((1, 16, 16), 4, np.uint8)
    codes[0, :8] = 9
    path = write("SCL.tif", codes, pitch=20.0)
    found = open_collection(save(item("tile", "sentinel-2-l2a", assets | {"scl": asset(path, {"name": "scl"})})))
    values = found.read("tile")["sentinel-2-l2a"].values
    assert np.isnan(values[:, :16]).all()
    assert np.isfinite(values[:, 16:]).all()


def test_landsat_is_told_by_its_platform(save, write):
    red = write("red.tif", np.random.default_rng(0).integers(7500, 20000, (1, 8, 8)).astype(np.uint16), pitch=30.0)
    tile = item("tile", "landsat-c2-l2", {"red": asset(red, {"name": "OLI_B4", "common_name": "red"})}, platform="landsat-8")
    found = open_collection(save(tile))
    assert found.sensors == ("landsat-8-9-l2",)
    assert found.read("tile")["landsat-8-9-l2"].bands[0].wavelength == 654.59


def test_mistakes_in_items_are_named(save, assets, write, numbers, tmp_path):
    with pytest.raises(ValueError, match="no sensor is known for collection 'dem'; tell it"):
        open_collection(save(item("tile", "dem", assets)))
    wrong = assets | {"first": assets["first"] | {"eo:bands": [{"name": "B04", "center_wavelength": 665}]}}
    with pytest.raises(ValueError, match="centre wavelength 665, expected 0.2..20 um as in STAC, 665 nm would be 0.665"):
        open_collection(save(item("tile", "sentinel-2-l2a", wrong)))
    wrong = assets | {"first": assets["first"] | {"eo:bands": [{"name": "B04", "center_wavelength": 0.842}]}}
    with pytest.raises(ValueError, match="is named B04, but at 842 nm"):
        open_collection(save(item("tile", "sentinel-2-l2a", wrong)))
    shifted = asset(write("s.tif", numbers(1), shift=30.0), {"name": "B03"})
    with pytest.raises(ValueError, match="band B0. is not of the same ground as the others"):
        open_collection(save(item("tile", "sentinel-2-l2a", assets | {"last": shifted})))
    (tmp_path / "empty.json").write_text("{}")
    with pytest.raises(ValueError, match="empty.json: no STAC item"):
        open_collection(tmp_path / "empty.json")
    with pytest.raises(FileNotFoundError, match="nowhere.json"):
        open_collection(tmp_path / "nowhere.json")
