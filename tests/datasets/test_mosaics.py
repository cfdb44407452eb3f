"""Several files as one source: mosaics, and bands of one place in files of their own."""

import json
import os
import pickle
import tracemalloc

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.windows import Window

from geovit.datasets import open_scene
from geovit.datasets.collections.rasters import open_layer
from geovit.datasets.grid import Grid
from geovit.datasets.identity import files_of
from geovit.datasets.sensors import sensor
from geovit.datasets.several import stem_of


def tags(*centres):
    return [{"wavelength": str(c), "wavelength_units": "nm", "fwhm": "10"} for c in centres]


def windows(grid, count=12, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        row, column = int(rng.integers(grid.height)), int(rng.integers(grid.width))
        yield Window(column, row, int(rng.integers(1, grid.width - column + 1)), int(rng.integers(1, grid.height - row + 1)))


def agrees_with_its_crops(scene):
    whole = scene.read()
    for window in windows(scene.grid):
        np.testing.assert_array_equal(scene.read(window), whole[(slice(None), *window.toslices())])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(scene)).read(), whole)
    return whole


@pytest.fixture
def tiles(write_raster, grid, cube):
    """The scene of 24 x 30 in four overlapping files, written so that names are not in the order of places."""
    for name, (row, column) in {"d": (0, 0), "b": (0, 14), "c": (12, 0), "a": (12, 14)}.items():
        height, width = min(14, 24 - row), 16
        write_raster(f"t_{name}.tif", cube[:, row : row + height, column : column + width],
                     tags=tags(500, 400, 700, 600, 800), on=grid.part(column, row, width, height))  # fmt: skip
    return "t_?.tif"


def test_tiles_become_the_scene_that_they_were_cut_from(tiles, tmp_path, cube, grid):
    scene = open_scene(str(tmp_path / tiles))
    np.testing.assert_array_equal(agrees_with_its_crops(scene), cube[[1, 0, 3, 2, 4]])
    assert scene.grid.matches(grid)
    np.testing.assert_array_equal(scene.wavelengths, [400, 500, 600, 700, 800])


def test_what_no_file_covers_is_nodata(tiles, tmp_path, cube):
    (tmp_path / "t_a.tif").unlink()
    whole = agrees_with_its_crops(open_scene(tmp_path / tiles))
    assert np.isnan(whole[:, 14:, 16:]).all()
    np.testing.assert_array_equal(whole[:, :14], cube[[1, 0, 3, 2, 4], :14])


def test_later_files_fill_what_earlier_ones_leave(write_raster, cube, tmp_path):
    first, second = cube.copy(), cube + 100
    first[:, 5:9], first[2, 0, 0] = -1, -1
    one = write_raster("z.tif", first, nodata=-1)
    two = write_raster("y.tif", second)
    expected = cube.copy()
    expected[:, 5:9], expected[2, 0, 0] = second[:, 5:9], second[2, 0, 0]
    np.testing.assert_array_equal(open_scene(f"{one},{two}").read(), expected)  # as they are named, not sorted
    np.testing.assert_array_equal(open_scene(str(tmp_path / "?.tif")).read(), second)  # sorted: y comes first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crs": "EPSG:32632"}, "CRS EPSG:32632, that of .*a.tif is EPSG:32633"),
        ({"shift": 3.0}, "lies 0.3 pixels beside the grid"),
        ({"pitch": 20.0}, "pixels of 20 x 20, those of .*a.tif are 10 x 10"),
        ({"count": 4}, "4 bands, .*a.tif has 5"),
        ({"dtype": "float64"}, "data type float64, that of .*a.tif is float32"),
        ({"centres": (400, 500, 600, 700, 805)}, "band 5 at 805 nm, in .*a.tif at 800 nm"),
        ({"centres": ()}, "only one of it and .*a.tif has wavelengths"),
        ({"scales": 0.5}, r"scale and offset \(\(0.5, 0.0\),\), that of"),
    ],
)
def test_files_that_do_not_agree_are_told_apart(write_raster, cube, grid, tmp_path, change, message):
    write_raster("a.tif", cube, tags=tags(400, 500, 600, 700, 800))
    pitch, shift = change.get("pitch", 10.0), change.get("shift", 0.0)
    other = Grid(24, 30, rasterio.CRS.from_user_input(change.get("crs", "EPSG:32633")),
                 Affine(pitch, 0, grid.transform.c + 300 + shift, 0, -pitch, grid.transform.f))  # fmt: skip
    array = cube[: change.get("count", 5)].astype(change.get("dtype", "float32"))
    path = write_raster("b.tif", array, tags=tags(*change.get("centres", (400, 500, 600, 700, 800)))[: len(array)], on=other)
    if "scales" in change:
        with rasterio.open(path, "r+") as dst:
            dst.scales = [change["scales"]] * 5
    with pytest.raises(ValueError, match=message) as caught:
        open_scene(tmp_path / "?.tif")
    assert "b.tif" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pattern_without_files_and_a_missing_file_are_named(tmp_path, tiles):
    with pytest.raises(FileNotFoundError, match=r"x\*\.tif: no such files"):
        open_scene(tmp_path / "x*.tif")
    with pytest.raises(FileNotFoundError, match=r"no such file as .*gone\.tif"):
        open_scene(f"{tmp_path}/t_a.tif,{tmp_path}/gone.tif")


def test_a_file_of_that_very_name_is_one_file(write_raster, cube):
    for name in ("a,b.tif", "a+b.tif", "a[1].tif"):
        path = write_raster(name, cube)
        assert open_scene(path).num_bands == 5
        assert files_of(str(path)) == [str(path)]


def test_results_are_named_after_folder_or_first_file(tmp_path, tiles):
    assert stem_of(str(tmp_path / tiles)) == "t"
    assert stem_of("/data/berlin/*.tif") == "berlin"
    assert stem_of(f"{tmp_path}/t_b.tif,{tmp_path}/t_a.tif") == "t_b"
    assert stem_of("scene.mat:cube") == "scene"
    assert len(files_of(str(tmp_path / tiles))) == 4


def test_memory_and_open_files_do_not_follow_the_number_of_files(tmp_path, write_raster, grid):
    def many(folder, count):
        (tmp_path / folder).mkdir()
        for i in range(count):
            at = Grid(16, 16, grid.crs, grid.transform @ Affine.translation(16 * i, 0))
            write_raster(f"{folder}/{i:04d}.tif", np.full((2, 16, 16), i + 1, np.int16), on=at)
        scene = open_scene(tmp_path / folder / "*.tif")
        tracemalloc.start()
        for i in range(0, count, 3):
            assert scene.read(Window(16 * i + 8, 0, 8, 16))[0, 0, 0] == i + 1
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        opened = sum(f"/{folder}/" in os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd"))
        return peak, opened

    few, many_ = many("few", 20), many("many", 200)
    assert many_[0] < 1.5 * few[0] + 20_000
    assert few[1] <= 8
    assert many_[1] <= 8


def test_bands_of_different_pixels_come_on_the_finest_grid(write_raster, grid, tmp_path):
    rng = np.random.default_rng(0)
    fine, coarse = (rng.integers(1, 9000, (n, 24 // k, 30 // k)).astype(np.uint16) for n, k in ((2, 1), (3, 2)))
    sixty = rng.integers(1, 9000, (1, 4, 5)).astype(np.uint16)
    write_raster("B10m.tif", fine, tags=tags(665, 490), nodata=0)
    write_raster("B20m.tif", coarse, tags=tags(705, 740, 783), on=grid.resized(12, 15))
    write_raster("B60m.tif", sixty, tags=tags(443), on=grid.resized(4, 5))
    scene = open_scene("+".join(str(tmp_path / f"B{size}m.tif") for size in (20, 60, 10)))
    whole = agrees_with_its_crops(scene)
    assert scene.grid.matches(grid)
    np.testing.assert_array_equal(scene.wavelengths, [443, 490, 665, 705, 740, 783])
    np.testing.assert_array_equal(whole[0], sixty[0].repeat(6, 0).repeat(6, 1))
    np.testing.assert_array_equal(whole[1:3], fine[::-1])
    np.testing.assert_array_equal(whole[3:], coarse.repeat(2, 1).repeat(2, 2))
    np.testing.assert_array_equal(open_scene(f"{tmp_path}/B10m.tif+{tmp_path}/B*0m.tif").read(), whole)


def test_a_pixel_takes_the_value_that_its_centre_lies_in(write_raster, grid, cube):
    # 3 coarse pixels over 8 fine ones, whose centres lie at 0.1875, 0.5625, ... of a coarse pixel.
    fine, coarse = np.ones((1, 8, 8), np.float32), np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3)
    one = write_raster("one.tif", fine, on=Grid(8, 8, grid.crs, Affine(3, 0, 0, 0, -3, 0)))
    two = write_raster("two.tif", coarse, on=Grid(3, 3, grid.crs, Affine(8, 0, 0, 0, -8, 0)))
    expected = [0, 0, 0, 1, 1, 2, 2, 2]
    np.testing.assert_array_equal(open_scene(f"{one}+{two}").read()[1], coarse[0][expected][:, expected])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda g: g.part(10, 0, 30, 24), "its corners lie up to 10 of its pixels from"),
        (lambda g: Grid(24, 30, rasterio.CRS.from_epsg(32632), g.transform), "CRS EPSG:32632"),
    ],
)
def test_bands_of_other_ground_are_refused(write_raster, cube, grid, other, message):
    one, two = write_raster("one.tif", cube), write_raster("two.tif", cube, on=other(grid))
    with pytest.raises(ValueError, match=message):
        open_scene(f"{one}+{two}")


def test_a_mosaic_is_an_image_of_a_sensor(write_raster, grid, tmp_path):
    numbers = np.random.default_rng(0).integers(1010, 6000, (2, 24, 30)).astype(np.uint16)
    for name, column in (("l", 0), ("r", 15)):
        write_raster(f"{name}.tif", numbers[:, :, column : column + 15], on=grid.part(column, 0, 15, 24), tags=tags(842, 665))
    by_wavelength = open_layer(tmp_path / "?.tif", sensor("sentinel-2-l2a"))
    by_name = open_layer(tmp_path / "?.tif", sensor("sentinel-2-l2a"), bands=["B08", "B04"])
    assert {band.name for band in by_wavelength.bands} == {"B04", "B08"}
    for layer in (by_wavelength, by_name):
        found = dict(zip((band.name for band in layer.bands), layer.source.read(layer.indices, None), strict=True))
        np.testing.assert_array_equal(found["B08"], numbers[0])
        np.testing.assert_array_equal(found["B04"], numbers[1])
        assert layer.whole


class TestItems:
    @pytest.fixture
    def item(self, write_raster, grid, tmp_path):
        """Sentinel-2 as catalogues tell it: bands of 10 and 20 m in files of their own, wavelengths in um."""
        rng = np.random.default_rng(1)
        (tmp_path / "R20m").mkdir()
        arrays = {"B04": rng.integers(1000, 9000, (1, 24, 30)), "R20m/B05": rng.integers(1000, 9000, (1, 12, 15))}
        for name, array in arrays.items():
            write_raster(f"{name}.tif", array.astype(np.uint16), on=grid.resized(*array.shape[1:]), nodata=0)
        write_raster("TCI.tif", np.ones((3, 24, 30), np.uint8))

        def asset(name, wavelength, **fields):
            band = {"name": name, "center_wavelength": wavelength, "full_width_half_max": 0.03}
            numbers = [{"scale": 1e-4, "offset": -0.1, "nodata": 0}]
            return {"href": f"{name}.tif", "type": "image/tiff", "eo:bands": [band], "raster:bands": numbers} | fields

        content = {
            "type": "Feature", "stac_version": "1.0.0", "id": "S2A", "collection": "sentinel-2-l2a", "geometry": None,
            "properties": {"datetime": "2023-06-10T07:46:21Z", "s2:processing_baseline": "05.09"}, "links": [],
            "assets": {
                "edge": asset("R20m/B05", 0.7039), "red": asset("B04", 0.6649),
                "visual": {"href": "TCI.tif", "type": "image/tiff", "roles": ["visual"]},
            },
        }  # fmt: skip

        def save(**assets):
            path = tmp_path / "item.json"
            for key, fields in assets.items():
                content["assets"][key] |= fields
            path.write_text(json.dumps(content), encoding="utf-8")
            return path

        save.arrays = arrays
        return save

    def test_assets_are_bands_with_wavelengths_in_nm(self, item):
        scene = open_scene(item())
        whole = agrees_with_its_crops(scene)
        np.testing.assert_allclose(scene.wavelengths, [664.9, 703.9])
        np.testing.assert_allclose(scene.fwhm, [30, 30])
        np.testing.assert_array_equal(whole[0], item.arrays["B04"][0])
        np.testing.assert_array_equal(whole[1], item.arrays["R20m/B05"][0].repeat(2, 0).repeat(2, 1))
        assert scene.numbers.scaling("item") == (1e-4, -0.1)  # told, not applied
        assert scene.numbers.tags["s2:processing_baseline"] == "05.09"

    def test_wavelengths_that_only_the_file_tells_are_taken(self, item, write_raster, tmp_path):
        cube = np.stack([np.full((24, 30), 7), np.arange(720).reshape(24, 30), np.full((24, 30), 9)]).astype(np.uint16)
        tags = [
            {"wavelength": str(nm), "wavelength_units": "nm", "bbl": str(good)} for nm, good in ((900, 1), (500, 1), (1400, 0))
        ]
        write_raster("cube.tif", cube, tags=tags)
        path = item()
        content = json.loads(path.read_text())
        fields = {"href": "cube.tif", "type": "image/tiff", "nodata": 7, "raster:scale": 1e-4}
        content["assets"] = {"cube": fields, "quality": {"href": "B04.tif", "type": "image/tiff"}}
        path.write_text(json.dumps(content))
        scene = open_scene(path)
        np.testing.assert_array_equal(scene.wavelengths, [500])  # 900 nm is no data, 1400 nm is marked bad
        expected = cube[1].astype(np.float32)
        expected[expected == 7] = np.nan
        np.testing.assert_array_equal(scene.read()[0], expected)
        assert scene.numbers.scaling("item") == (1e-4, 0)
        assert scene.numbers.marked
        assert scene.numbers.tags["s2:processing_baseline"] == "05.09"

    @pytest.mark.parametrize(
        "href", ["../elsewhere.tif", "/etc/hostname.tif", "/vsimem/a.tif", "file:///etc/hostname.tif", "B04.vrt"]
    )
    def test_an_item_reads_nothing_outside_of_its_folder(self, item, href):
        with pytest.raises(ValueError, match=r"item\.json: names .*(expected a file|outside of its folder|a VRT)") as caught:
            open_scene(item(red={"href": href}))
        assert "\n" not in str(caught.value)

    def test_a_missing_asset_is_named(self, item):
        with pytest.raises(FileNotFoundError, match="asset red at .*gone.tif: no such file"):
            open_scene(item(red={"href": "gone.tif"}))

    def test_nanometres_where_stac_has_micrometres_are_noticed(self, item):
        with pytest.raises(ValueError, match=r"664\.9, expected 0\.2\.\.20 um"):
            open_scene(item(red={"eo:bands": [{"name": "B04", "center_wavelength": 664.9}]}))

    @pytest.mark.parametrize("text", ['{"stac_version": 1', '{"stac_version": "1.0.0"}', '["stac_version"]',
                                      '{"type": "FeatureCollection", "stac_version": "1.0.0", "features": []}'])  # fmt: skip
    def test_other_json_is_no_item(self, tmp_path, text):
        path = tmp_path / "item.json"
        path.write_text(text + ' "stac_version"' if "stac_version" not in text else text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"item\.json"):
            open_scene(path)
