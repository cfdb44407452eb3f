import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window

from geovit.datasets import Grid
from geovit.datasets.growing import GrowingRaster, Layer
from geovit.datasets.growing.plain import plain_bytes

GRID = Grid(300, 530, CRS.from_epsg(32633), Affine(10.0, 0.0, 4e5, 0.0, -10.0, 5.8e6))
TYPES = {"uint8": 0, "int8": -128, "uint16": 0, "int16": -9999, "float16": float("nan"), "float32": float("nan")}


def layer_of(folder, dtype="int16", bands=2, **more):
    return Layer(path=folder / "result.tif", grid=GRID, bands=bands, dtype=dtype, nodata=TYPES[dtype], **more)


@pytest.mark.parametrize("dtype", TYPES)
def test_gdal_reads_what_was_written_and_nodata_elsewhere(tmp_path, dtype):
    layer = layer_of(tmp_path, dtype)
    grown = GrowingRaster.make(tmp_path / "plain.tif", layer)
    size = (tmp_path / "plain.tif").stat().st_size
    head = grown.head_checksum()
    expected = np.full((2, *GRID.shape), TYPES[dtype], dtype)
    rng = np.random.default_rng(0)
    for row, column, height, width in [(0, 0, 1, 1), (250, 500, 50, 30), (3, 255, 256, 2), (0, 256, 256, 256), (100, 0, 20, 530)]:
        values = rng.integers(0, 100, (2, height, width)).astype(dtype)
        place = (slice(None), slice(row, row + height), slice(column, column + width))
        expected[place] = values
        grown.write(values, row, column)
        np.testing.assert_array_equal(grown.read(row, column, height, width), values)
    with rasterio.open(tmp_path / "plain.tif") as src:
        np.testing.assert_array_equal(src.read().astype(dtype), expected)
        assert src.get_tag_item("BLOCK_OFFSET_2_1", "TIFF", bidx=2) == str(grown._offsets[1, 1, 2])
    np.testing.assert_array_equal(grown.read(0, 0, *GRID.shape), expected)
    assert (tmp_path / "plain.tif").stat().st_size == size
    assert grown.head_checksum() == head
    assert (tmp_path / "plain.tif").stat().st_blocks * 512 >= plain_bytes(layer)
    grown.close()


def test_the_checksum_is_of_the_pixels_whatever_their_bits(tmp_path):
    grown = GrowingRaster.make(tmp_path / "plain.tif", layer_of(tmp_path, "float32", bands=1))
    odd = np.array([[[-0.0, 1.5]], [[0.0, 2.0]]], np.float32)[:1]
    odd[0, 0, 1] = np.frombuffer(np.uint32(0xFFC00001).tobytes(), np.float32)[0]  # another NaN
    same = np.array([[[0.0, np.nan]]], np.float32)
    assert grown.write(odd, 5, 6) == grown.write(same, 8, 9) == grown.checksum(5, 6, 1, 2)
    assert grown.checksum(5, 6, 1, 3) != grown.checksum(5, 6, 1, 2)
    grown.close()


def test_small_rasters_of_many_bands_stay_small(tmp_path):
    layer = Layer(path=tmp_path / "e.tif", grid=Grid(20, 30, None, Affine.identity()), bands=100, dtype="float16", nodata=np.nan)
    GrowingRaster.make(tmp_path / "plain.tif", layer).close()
    assert (tmp_path / "plain.tif").stat().st_size < 100 * 32 * 32 * 2 * 1.2


def test_a_file_of_another_raster_is_refused(tmp_path):
    GrowingRaster.make(tmp_path / "plain.tif", layer_of(tmp_path)).close()
    for other in (layer_of(tmp_path, bands=3), layer_of(tmp_path, "uint8")):
        with pytest.raises(ValueError, match="of another raster"):
            GrowingRaster(tmp_path / "plain.tif", other)
    with rasterio.open(tmp_path / "plain.tif", "r+") as dst:
        dst.write(np.ones((2, 5, 5), np.int16), window=Window(0, 0, 5, 5))
    GrowingRaster(tmp_path / "plain.tif", layer_of(tmp_path)).close()


def test_descriptions_are_one_for_each_band(tmp_path):
    with pytest.raises(ValueError, match="2 bands with 1 descriptions"):
        layer_of(tmp_path, descriptions=["one"])
