from dataclasses import replace

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.crs import CRS

from geovit.datasets import Grid, open_scene, read_labels
from geovit.datasets import labels as module


@pytest.fixture
def truth(grid):
    """Non-contiguous class values 3, 7 and 300 around unlabelled pixels."""
    values = np.zeros(grid.shape, dtype=np.uint16)
    values[2:9, 3:12], values[10:15, 5:25], values[20, 28] = 7, 3, 300
    return values


def values_of(labels):
    return np.array([0] + [info.value for info in labels.classes])[labels.index + 1]


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32", "float64"])
def test_labels_on_the_grid_keep_values_and_places(write_raster, grid, truth, dtype):
    labels = read_labels(write_raster("l.tif", truth.astype(dtype)), grid)
    assert [info.value for info in labels.classes] == [3, 7, 300]
    assert [info.name for info in labels.classes] == ["class 3", "class 7", "class 300"]
    assert len({info.color for info in labels.classes}) == 3
    assert labels.index.dtype == np.int32
    np.testing.assert_array_equal(values_of(labels), truth)
    np.testing.assert_array_equal(labels.counts(), [100, 63, 1])


def test_nodata_and_nan_are_unlabelled(write_raster, grid, truth):
    values = truth.astype(np.float32)
    values[0, :5] = np.nan
    labels = read_labels(write_raster("l.tif", values, nodata=7), grid)
    assert [info.value for info in labels.classes] == [3, 300]
    assert (labels.index[0] == -1).all()


@pytest.mark.parametrize("wrong", [-1, 2.5, 70000])
def test_values_that_are_no_classes_are_named(write_raster, grid, truth, wrong):
    values = truth.astype(np.float32)
    values[0, 0] = wrong
    with pytest.raises(ValueError, match=rf"1 pixels with values such as {wrong}.*1\.\.65535"):
        read_labels(write_raster("l.tif", values), grid)


def test_a_finer_grid_is_resampled_with_a_message(write_raster, grid, truth, caplog):
    fine = replace(grid, height=72, width=90, transform=Affine(10 / 3, 0, grid.transform.c, 0, -10 / 3, grid.transform.f))
    labels = read_labels(write_raster("l.tif", truth.repeat(3, 0).repeat(3, 1), on=fine), grid)
    np.testing.assert_array_equal(values_of(labels), truth)
    assert "nearest neighbour" in caplog.text


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # calculate_default_transform of rasterio 1.4
def test_another_crs_lands_within_a_pixel(write_raster, grid, truth):
    wide = replace(grid, crs=CRS.from_epsg(3857))
    transform, width, height = rasterio.warp.calculate_default_transform(
        grid.crs, wide.crs, grid.width, grid.height, *grid.bounds
    )
    there = np.zeros((height, width), np.uint16)
    rasterio.warp.reproject(
        truth, there, src_crs=grid.crs, src_transform=grid.transform, dst_crs=wide.crs, dst_transform=transform,
    )  # fmt: skip
    path = write_raster("l.tif", there, on=replace(wide, height=height, width=width, transform=transform))
    assert (values_of(read_labels(path, grid)) == truth).mean() > 0.95


def test_labels_do_not_depend_on_the_parts_that_they_are_read_in(write_raster, grid, truth, monkeypatch):
    """Neither those of the scene's grid, nor those of other pixels or another CRS."""
    fine = replace(grid, height=72, width=90, transform=Affine(10 / 3, 0, grid.transform.c, 0, -10 / 3, grid.transform.f))
    degrees = CRS.from_epsg(4326)
    (x,), (y,) = rasterio.warp.transform(grid.crs, degrees, [grid.transform.c], [grid.transform.f])
    there = Grid(400, 400, degrees, Affine(2e-5, 0, x - 1e-3, 0, -2e-5, y + 1e-3))
    files = [
        write_raster("own.tif", truth),
        write_raster("fine.tif", truth.repeat(3, 0).repeat(3, 1), on=fine),
        write_raster("there.tif", np.random.default_rng(0).integers(0, 4, (400, 400), np.uint8), on=there),
    ]
    whole = [values_of(read_labels(file, grid)) for file in files]
    assert all(len(np.unique(values)) == 4 for values in whole)
    monkeypatch.setattr(module, "_SQUARE", 7)
    monkeypatch.setattr(module, "_READ_PIXELS", 100)
    for file, values in zip(files, whole, strict=True):
        np.testing.assert_array_equal(values_of(read_labels(file, grid)), values)


def test_memory_follows_the_labels_and_not_the_scene(tmp_path):
    grid = Grid(200_000, 200_000, CRS.from_epsg(32633), Affine(1, 0, 4e5, 0, -1, 5.8e6))  # 160 GB as an array
    places = [shapely.box(x, y, x + 30, y + 20) for x, y in ((400_010, 5_799_000), (500_000, 5_700_000), (599_960, 5_600_005))]
    pyogrio.raw.write(
        tmp_path / "l.gpkg", shapely.to_wkb(places), [np.array([1, 2, 2])], fields=["class"], geometry_type="Polygon",
        crs="EPSG:32633",
    )  # fmt: skip
    labels = read_labels(tmp_path / "l.gpkg", grid)
    np.testing.assert_array_equal(labels.counts(), [600, 1200])
    rows, columns = np.divmod(labels.pixels, grid.width)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (980, 199_994, 10, 199_989)


def test_a_shifted_crop_covers_its_own_pixels_only(write_raster, grid, truth):
    labels = read_labels(write_raster("l.tif", truth[1:12, 2:20], on=grid.part(2, 1, 18, 11)), grid)
    expected = np.zeros_like(truth)
    expected[1:12, 2:20] = truth[1:12, 2:20]
    np.testing.assert_array_equal(values_of(labels), expected)


def test_without_georeference_equal_shapes_are_paired(write_raster, grid, truth):
    labels = read_labels(write_raster("l.tif", truth, on=None), grid)
    np.testing.assert_array_equal(values_of(labels), truth)


def test_equal_shapes_with_half_a_georeference_are_paired_with_a_message(write_raster, grid, truth, caplog):
    labels = read_labels(write_raster("l.tif", truth, on=replace(grid, crs=None)), grid)
    np.testing.assert_array_equal(values_of(labels), truth)
    assert "paired by position" in caplog.text


def test_another_shape_without_crs_is_an_error(write_raster, grid, truth):
    with pytest.raises(ValueError, match=r"shape \(10, 10\) for a scene of \(24, 30\), and no CRS in the labels"):
        read_labels(write_raster("l.tif", truth[:10, :10], on=None), grid)


def test_labels_elsewhere_are_an_error_that_shows_both_places(write_raster, grid, truth):
    with pytest.raises(ValueError, match=r"no overlap of labels in \(401000, .* with the scene in \(400000, .*EPSG:32633"):
        read_labels(write_raster("l.tif", truth, on=grid.part(100, 0, 30, 24)), grid)


@pytest.mark.parametrize("count", [1, 3])
def test_nothing_labelled_or_several_bands(write_raster, grid, count):
    message = "no labelled pixel" if count == 1 else "3 bands, expected labels of one band"
    with pytest.raises(ValueError, match=message):
        read_labels(write_raster("l.tif", np.zeros((count, *grid.shape), np.uint8)), grid)


def test_names_and_colours_of_an_envi_classification(tmp_path, grid):
    values = np.zeros(grid.shape, np.uint8)
    values[:5], values[10:] = 1, 2
    (tmp_path / "gt").write_bytes(values.tobytes())
    (tmp_path / "gt.hdr").write_text(
        "ENVI\nsamples = 30\nlines = 24\nbands = 1\nheader offset = 0\nfile type = ENVI Classification\ndata type = 1\n"
        "interleave = bsq\nbyte order = 0\nclasses = 3\nclass names = {Unclassified, oak, dry grass}\n"
        "class lookup = {0, 0, 0, 10, 20, 30, 40, 50, 60}\n"
    )
    labels = read_labels(tmp_path / "gt.hdr", grid)
    assert [(info.name, info.color) for info in labels.classes] == [("oak", (10, 20, 30)), ("dry grass", (40, 50, 60))]


class TestClassFile:
    @pytest.fixture
    def labels_file(self, write_raster, truth):
        return write_raster("l.tif", truth)

    def read(self, tmp_path, labels_file, grid, text):
        (tmp_path / "c.csv").write_text(text, encoding="utf-8")
        return read_labels(labels_file, grid, classes=tmp_path / "c.csv").classes

    @pytest.mark.parametrize(
        "text",
        [
            "7,Bäume,#0a0b0c\n3,soil\n",
            "\ufeffcolour,Name,VALUE,note\n#0a0b0c,Bäume,7,x\n,soil,3,\n\n",
            "value,name,color\n 7 , Bäume,#0A0B0C\n3,soil,\n",
        ],
    )
    def test_names_and_colours_come_from_the_file(self, tmp_path, labels_file, grid, text):
        soil, trees, other = self.read(tmp_path, labels_file, grid, text)
        assert (soil.value, soil.name) == (3, "soil")
        assert (trees.value, trees.name, trees.color) == (7, "Bäume", (10, 11, 12))
        assert other.name == "class 300"

    def test_a_wider_legend_is_fine_with_a_warning(self, tmp_path, labels_file, grid, caplog):
        assert len(self.read(tmp_path, labels_file, grid, "3,a\n7,b\n300,c\n8,d\n")) == 3
        assert "no labelled pixel has value 8" in caplog.text

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "no classes"),
            ("1,a\n2,b\n", "values 1, 2, but the labels hold 3, 7, 300"),
            ("3,a\n3,b\n", "value '3', expected different integers"),
            ("0,a\n", "value '0'"),
            ("3,a\nx,b\n", "value 'x'"),
            ("id,label\n3,a\n", "expected value,name"),
            ("3,a,red\n", "class 3: colour 'red', expected #rrggbb"),
        ],
    )
    def test_a_wrong_file_is_explained(self, tmp_path, labels_file, grid, text, message):
        with pytest.raises(ValueError, match=message):
            self.read(tmp_path, labels_file, grid, text)

    def test_a_missing_file(self, tmp_path, labels_file, grid):
        with pytest.raises(FileNotFoundError, match=r"c\.csv: no such file"):
            read_labels(labels_file, grid, classes=tmp_path / "c.csv")


def test_missing_and_unreadable_files(tmp_path, grid):
    for name in "x.tif", "x.gpkg", "x.shp:layer":
        with pytest.raises(FileNotFoundError, match="no such file"):
            read_labels(tmp_path / name, grid)
    (tmp_path / "x.tif").write_text("hello")
    with pytest.raises(ValueError, match="neither a raster nor a vector file"):
        read_labels(tmp_path / "x.tif", grid)


def test_enmap(data_dir):
    folder = data_dir / "hyperspectral/enmap_potsdam"
    labels = read_labels(folder / "labels.tif", open_scene(folder / "scene.tif").grid)
    assert labels.counts().tolist() == [505, 953, 1694, 2070, 91, 359]
