import logging
import os
import pickle
import shutil

import h5py
import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from geovit.datasets import open_scene


def wavelengths(*values, unit="nm"):
    return [{"wavelength": str(value), "wavelength_units": unit} for value in values]


def test_bands_come_in_order_of_wavelength_with_their_pixels(write_raster, cube):
    scene = open_scene(write_raster("a.tif", cube, tags=wavelengths(500, 900, 700, 600, 700)))
    assert scene.bands == (1, 4, 3, 5, 2)  # 3 before 5: equal wavelengths keep the file's order
    np.testing.assert_array_equal(scene.wavelengths, [500, 600, 700, 700, 900])
    np.testing.assert_array_equal(scene.read(), cube[[0, 3, 2, 4, 1]])


def test_a_scene_without_wavelengths_has_none_and_keeps_its_order(write_raster, cube):
    scene = open_scene(write_raster("a.tif", cube))
    assert scene.wavelengths is None
    assert scene.fwhm is None
    assert scene.bands == (1, 2, 3, 4, 5)


def test_windows_agree_with_the_whole(write_raster, cube):
    scene = open_scene(
        write_raster("a.tif", cube, tags=wavelengths(5, 4, 3, 2, 1, unit="um"), tiled=True, blockxsize=16, blockysize=16)
    )
    whole = scene.read()
    for row in range(0, 24, 7):
        for column in range(0, 30, 11):
            height, width = min(7, 24 - row), min(11, 30 - column)
            part = scene.read(Window(column, row, width, height))
            np.testing.assert_array_equal(part, whole[:, row : row + height, column : column + width])


@pytest.mark.parametrize("window", [Window(25, 0, 10, 5), Window(-1, 0, 5, 5), Window(0, 0, 0, 5), Window(0.5, 0, 5, 5)])
def test_a_window_outside_is_refused(write_raster, cube, window):
    with pytest.raises(ValueError, match="expected whole pixels within the scene of 24 x 30"):
        open_scene(write_raster("a.tif", cube)).read(window)


def test_every_kind_of_invalid_value_becomes_nan(write_raster, cube):
    cube[0, 0, 0], cube[1, 1, 1], cube[2, 2, 2] = -9999, np.nan, np.inf
    pixels = open_scene(write_raster("a.tif", cube, nodata=-9999)).read()
    assert [tuple(at) for at in np.argwhere(np.isnan(pixels))] == [(0, 0, 0), (1, 1, 1), (2, 2, 2)]
    assert np.isfinite(pixels[~np.isnan(pixels)]).all()


def test_a_value_that_float32_rounds_onto_nodata_stays(write_raster):
    values = np.array([[2**24, 2**24 + 1]], dtype=np.int32)  # equal in float32, different in the file
    pixels = open_scene(write_raster("a.tif", values, on=None, nodata=2**24 + 1)).read()
    np.testing.assert_array_equal(np.isnan(pixels), [[[False, True]]])


def test_mask_and_alpha_hide_pixels(write_raster, cube):
    masked = write_raster("mask.tif", cube)
    hidden = np.zeros((24, 30), dtype=bool)
    hidden[3:6] = True
    with rasterio.open(masked, "r+") as dst:
        dst.write_mask(~hidden)
    alpha = write_raster("alpha.tif", np.concatenate([cube[:2], (~hidden * 255.0)[None].astype(np.float32)]))
    with rasterio.open(alpha, "r+") as dst:
        dst.colorinterp = [ColorInterp.gray, ColorInterp.undefined, ColorInterp.alpha]
    for path, count in (masked, 5), (alpha, 2):
        scene = open_scene(path)
        assert scene.num_bands == count
        np.testing.assert_array_equal(np.isnan(scene.read()), np.broadcast_to(hidden, (count, 24, 30)))
    assert open_scene(alpha).dropped == {3: "alpha"}


def test_bad_and_empty_bands_are_dropped_and_named(write_raster, cube):
    cube[3] = -1
    tags = [tag | {"bbl": str(int(i != 1))} for i, tag in enumerate(wavelengths(1, 2, 3, 4, 5, unit="um"))]
    scene = open_scene(write_raster("a.tif", cube, tags=tags, nodata=-1))
    assert scene.dropped == {2: "bad band list", 4: "no data"}
    assert scene.bands == (1, 3, 5)
    np.testing.assert_array_equal(scene.wavelengths, [1000, 3000, 5000])


def test_a_band_with_a_single_valid_pixel_is_kept(write_raster):
    cube = np.full((2, 600, 700), -1, dtype=np.int16)
    cube[0], cube[1, 599, 699] = 5, 7
    assert open_scene(write_raster("a.tif", cube, nodata=-1, tiled=True, blockxsize=64, blockysize=64)).bands == (1, 2)


@pytest.mark.parametrize(
    "unit", ["nm", "Nanometers", "NANOMETRES", "um", "\N{MICRO SIGN}m", "\N{GREEK SMALL LETTER MU}m", "Micrometers", "microns"]
)
def test_units_become_nanometres(write_raster, cube, unit):
    scale = 1 if unit.lower().startswith("n") else 1000
    tags = [{"Wavelength": str(w / scale), "wavelength_unit": unit, "fwhm": str(10 / scale)} for w in (500, 600, 700, 800, 900)]
    scene = open_scene(write_raster("a.tif", cube, tags=tags))
    np.testing.assert_allclose(scene.wavelengths, [500, 600, 700, 800, 900])
    np.testing.assert_allclose(scene.fwhm, 10)


@pytest.mark.parametrize(("values", "scale"), [((400, 500, 600, 700, 2500), 1), ((0.4, 0.5, 0.6, 0.7, 12), 1000)])
@pytest.mark.parametrize("unit", ["Unknown", None])
def test_a_missing_unit_is_guessed_from_the_range_with_a_warning(write_raster, cube, caplog, values, scale, unit):
    tags = [{"wavelength": str(value)} | ({"wavelength_units": unit} if unit else {}) for value in values]
    scene = open_scene(write_raster("a.tif", cube, tags=tags))
    np.testing.assert_allclose(scene.wavelengths, np.array(values) * scale)
    assert "no unit" in caplog.text


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (wavelengths(1, 2, 3, 4, 5, unit="Wavenumber"), "'Wavenumber' is not supported"),
        (wavelengths(1, 40, 90, 200, 500, unit="unknown"), "fit neither"),
        (wavelengths(1, 2, 3, 4) + wavelengths(5, unit="um"), "different wavelength units"),
    ],
)
def test_a_unit_that_cannot_be_right_is_an_error(write_raster, cube, tags, message):
    with pytest.raises(ValueError, match=message):
        open_scene(write_raster("a.tif", cube, tags=tags))


def test_imagery_domain_gives_wavelengths(write_raster, cube):
    imagery = [{"CENTRAL_WAVELENGTH_UM": str(w), "FWHM_UM": "0.01"} for w in (0.5, 0.9, 0.7, 0.6, 0.8)]
    scene = open_scene(write_raster("a.tif", cube, imagery=imagery))
    np.testing.assert_allclose(scene.wavelengths, [500, 600, 700, 800, 900])
    np.testing.assert_allclose(scene.fwhm, 10)


def test_wavelengths_of_some_bands_only_count_as_none(write_raster, cube, caplog):
    scene = open_scene(write_raster("a.tif", cube, tags=[*wavelengths(900, 800, 700, 600), {}]))
    assert scene.wavelengths is None
    assert scene.bands == (1, 2, 3, 4, 5)
    assert "1 of 5 bands have no wavelength" in caplog.text


def write_envi(folder, cube, name="scene", header=()):
    (folder / name).write_bytes(cube.astype("<f4").tobytes())
    count, height, width = cube.shape
    lines = [f"samples = {width}", f"lines = {height}", f"bands = {count}", "header offset = 0", "data type = 4"]
    lines += ["interleave = bsq", "byte order = 0", *header]
    stem = folder / name
    (stem.with_suffix(".hdr") if stem.suffix else folder / f"{name}.hdr").write_text("\n".join(["ENVI", *lines]))
    return stem


@pytest.mark.parametrize("name", ["scene", "scene.dat", "scene.bsq", "scene.IMG"])
def test_envi_opens_by_data_file_and_by_header(tmp_path, cube, name):
    header = [
        "wavelength units = Micrometers",
        "wavelength = {0.9, 0.8,\n 0.7, 0.6, 0.5}",
        "fwhm = {0.01, 0.02, 0.03, 0.04, 0.05}",
        "bbl = {1, 1, 0, 1, 1}",
        "data ignore value = -1",
    ]
    cube[:, 2, 3] = -1
    data = write_envi(tmp_path, cube, name, header)
    for path in (data, tmp_path / "scene.hdr"):
        scene = open_scene(path)
        assert scene.bands == (5, 4, 2, 1)
        np.testing.assert_allclose(scene.wavelengths, [500, 600, 800, 900])
        np.testing.assert_allclose(scene.fwhm, [50, 40, 20, 10])
        assert scene.dropped == {3: "bad band list"}
        assert np.isnan(scene.read()[:, 2, 3]).all()
        assert not scene.grid.georeferenced


def test_a_header_without_data_file_is_named(tmp_path):
    (tmp_path / "a.hdr").write_text("ENVI\n")
    with pytest.raises(FileNotFoundError, match="no data file beside the ENVI header"):
        open_scene(tmp_path / "a.hdr")


def test_bad_band_list_of_another_length_is_ignored_with_a_warning(tmp_path, cube, caplog):
    assert open_scene(write_envi(tmp_path, cube, header=["bbl = {1, 0}"])).num_bands == 5
    assert "2 values of 'bbl' for 5 bands" in caplog.text


def test_a_scene_is_read_the_same_in_another_process(write_raster, cube):
    scene = pickle.loads(pickle.dumps(open_scene(write_raster("a.tif", cube))))
    np.testing.assert_array_equal(scene.read(), cube)


@pytest.mark.parametrize("points", [False, True])
def test_odd_georeference_is_welcome(write_raster, cube, points, caplog):
    caplog.set_level(logging.INFO)
    path = write_raster("a.tif", cube, on=None)
    if points:
        gcps = [rasterio.control.GroundControlPoint(row=r, col=c, x=c, y=-r) for r, c in ((0, 0), (0, 29), (23, 0))]
        path = write_raster("b.tif", cube, on=None, gcps=gcps, crs="EPSG:4326")
    assert open_scene(path).read().shape == (5, 24, 30)
    assert "no coordinate reference system" in caplog.text
    assert ("ground control points" in caplog.text) == points


class TestBadInput:
    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"x\.tif: no such file"):
            open_scene(tmp_path / "x.tif")

    def test_not_a_raster(self, tmp_path):
        (tmp_path / "x.tif").write_text("hello")
        for path in (tmp_path / "x.tif", tmp_path):
            with pytest.raises(ValueError, match="not a raster that GDAL can open"):
                open_scene(path)

    @pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
    @pytest.mark.parametrize("profile", [{}, {"compress": "deflate", "interleave": "pixel"}, {"interleave": "band"}])
    def test_truncated_tiff(self, write_raster, cube, keep, profile):
        path = write_raster("a.tif", cube, **profile)
        os.truncate(path, int(path.stat().st_size * keep))
        with pytest.raises(ValueError, match=r"a\.tif: .*(truncated|not a raster)"):
            open_scene(path)

    def test_truncated_envi(self, tmp_path, cube):
        path = write_envi(tmp_path, cube)
        os.truncate(path, path.stat().st_size - 100)
        with pytest.raises(ValueError, match=r"scene: .*(truncated|not a raster)"):
            open_scene(path)

    def test_damage_in_the_middle_is_found_when_read(self, write_raster, cube):
        path = write_raster("a.tif", cube, compress="deflate", blockysize=4)
        scene = open_scene(path)
        data = bytearray(path.read_bytes())
        with rasterio.open(path) as src:
            offset = int(src.get_tag_item("BLOCK_OFFSET_0_3", "TIFF", bidx=1))
        data[offset : offset + 40] = bytes(40)
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"a\.tif: cannot be read, truncated or damaged"):
            scene.read()

    def test_zero_bands(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["one"] = file["two"] = np.ones((5, 6))
        with pytest.raises(ValueError, match=r"a\.h5: no raster bands; it holds HDF5:.*one.*: name one"):
            open_scene(tmp_path / "a.h5")

    def test_all_nodata(self, write_raster):
        with pytest.raises(ValueError, match="every pixel is nodata"):
            open_scene(write_raster("a.tif", np.full((3, 24, 30), 7, np.uint8), nodata=7))

    def test_complex_values(self, write_raster, cube):
        with pytest.raises(ValueError, match="data type complex64, expected real numbers"):
            open_scene(write_raster("a.tif", cube.astype(np.complex64)))

    def test_all_bands_bad(self, write_raster, cube):
        with pytest.raises(ValueError, match="all 5 bands are marked bad"):
            open_scene(write_raster("a.tif", cube, tags=[{"bbl": "0"}] * 5))

    def test_every_message_is_one_line(self, tmp_path):
        (tmp_path / "x.tif").write_text("hello\nworld")
        with pytest.raises(ValueError, match=r"x\.tif") as caught:
            open_scene(tmp_path / "x.tif")
        assert "\n" not in str(caught.value)


class TestRealData:
    def test_enmap(self, data_dir):
        scene = open_scene(data_dir / "hyperspectral/enmap_potsdam/scene.tif")
        assert scene.grid.shape == (192, 160)
        assert set(scene.dropped) == {130, 131, 132, 133, 134, 135}
        assert scene.num_bands == 218
        assert (np.diff(scene.wavelengths) >= 0).all()
        assert list(scene.bands) != sorted(scene.bands)  # the detectors overlap
        assert (scene.wavelengths[0], scene.fwhm[0]) == (418.24, 6.99561)
        pixels = scene.read()
        valid = np.isfinite(pixels).all(0)
        assert valid.mean() == pytest.approx(0.6, abs=0.01)
        np.testing.assert_array_equal(np.isfinite(pixels).any(0), valid)
        with rasterio.open(scene.path) as src:
            np.testing.assert_array_equal(pixels[100][valid], src.read(scene.bands[100])[valid])

    def test_gamsberg_envi_without_extension(self, data_dir, caplog):
        data = data_dir / "hyperspectral/gamsberg_envi/cubus_gamsberg_subset"
        scene, same = open_scene(data), open_scene(f"{data}.hdr")
        assert scene.num_bands == same.num_bands == 189
        assert scene.wavelengths[0] == pytest.approx(426.82)
        np.testing.assert_allclose(scene.fwhm[0], 11.3871)
        assert "taken as nanometers" in caplog.text
        np.testing.assert_array_equal(scene.read(), same.read())

    @pytest.mark.parametrize(
        ("name", "bands", "valid"), [("RGB.byte", 3, 0.673), ("RGBA.uint16", 3, 0.489), ("cogeo", 3, 1), ("rotated", 1, 1)]
    )
    def test_masks_and_odd_georeference(self, data_dir, name, bands, valid):
        scene = open_scene(data_dir / f"satellite/rasterio_tests/{name}.tif")
        assert scene.num_bands == bands
        assert np.isfinite(scene.read()).all(0).mean() == pytest.approx(valid, abs=1e-3)

    def test_terramesh_grids_match_across_sensors(self, data_dir):
        folder = data_dir / "satellite/terramesh"
        for dem in sorted((folder / "DEM").glob("*.tif")):
            scene = open_scene(next((folder / "S2L2A").glob(f"{dem.stem}*")))
            assert scene.grid.matches(open_scene(dem).grid)


def test_a_vrt_reads_as_its_source(write_raster, tmp_path, cube):
    path = write_raster("a.tif", cube, tags=wavelengths(5, 4, 3, 2, 1, unit="um"))
    rasterio.shutil.copy(path, tmp_path / "a.vrt", driver="VRT")
    scene = open_scene(tmp_path / "a.vrt")
    np.testing.assert_array_equal(scene.read(), cube[::-1])
    shutil.move(path, tmp_path / "b.tif")
    with pytest.raises(ValueError, match=r"a\.vrt: cannot be read"):
        open_scene(tmp_path / "a.vrt")
