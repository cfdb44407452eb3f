"""Pieces of a scene hold what the scene reads, whatever was read before, and read no pixel twice."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.windows import Window

from geovit.datasets import open_scene
from geovit.datasets.pieces import PieceReader

SHAPE = (3, 96, 80)


@pytest.fixture
def written(tmp_path):
    """Returns a function that writes numbers with some nodata and opens the scene."""

    def write(dtype="int16", nodata=-5, **profile):
        numbers = np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype)
        if nodata is not None:
            numbers[1, 10:20, 5:40] = nodata
        options = {"driver": "GTiff", "dtype": dtype, "nodata": nodata, "transform": Affine(10, 0, 5e5, 0, -10, 5e6)} | profile
        path = tmp_path / "scene.tif"
        with rasterio.open(path, "w", count=3, height=96, width=80, tiled=True, blockxsize=32, blockysize=32, **options) as dst:
            dst.write(numbers)
        return open_scene(path)

    return write


def expected(scene, row, column, height, width):
    """What a scene reads, NaN around it."""
    whole = np.pad(scene.read(), [(0, 0), (50, 50), (50, 50)], constant_values=np.nan)
    return whole[:, row + 50 : row + 50 + height, column + 50 : column + 50 + width]


@pytest.mark.parametrize(
    ("dtype", "nodata", "kept"),
    [
        ("int16", -5, "int16"),
        ("uint8", 255, "uint8"),
        ("uint16", None, "uint16"),
        ("float32", -9999.0, "float32"),
        ("int32", -5, "float32"),
    ],
)
def test_a_piece_holds_what_the_scene_reads(written, dtype, nodata, kept):
    scene = written(dtype, nodata)
    reader = PieceReader(scene, 8)
    for row, column in ((-8, -8), (-8, 24), (24, -8), (24, 24), (50, 40), (0, 0)):
        piece = reader.read(row, column, 48, 48)
        assert piece.numbers.dtype == kept
        for inner in ((row, column, 48, 48), (row + 5, column + 3, 20, 31), (row - 3, column + 30, 60, 30)):
            inside = np.full((3, inner[2], inner[3]), np.nan, np.float32)
            rows, columns = (np.arange(inner[i], inner[i] + inner[i + 2]) - (row, column)[i] for i in (0, 1))
            seen = np.ix_(range(3), (rows >= 0) & (rows < 48), (columns >= 0) & (columns < 48))
            inside[seen] = expected(scene, *inner)[seen]
            np.testing.assert_array_equal(piece.read(*inner), inside)


def test_bands_of_different_nodata_are_hidden_each_by_its_own(tmp_path):
    numbers = np.tile(np.arange(6, dtype=np.uint8).reshape(2, 3), (2, 1, 1))
    for band, nodata in enumerate((1, 4)):
        with rasterio.open(tmp_path / f"{band}.tif", "w", driver="GTiff", dtype="uint8", count=1, height=2, width=3,
                           nodata=nodata, transform=Affine(10, 0, 5e5, 0, -10, 5e6)) as dst:  # fmt: skip
            dst.write(numbers[band], 1)
    vrt = f"""<VRTDataset rasterXSize="3" rasterYSize="2"><GeoTransform>5e5, 10, 0, 5e6, 0, -10</GeoTransform>{
        "".join(
            f'<VRTRasterBand dataType="Byte" band="{band + 1}"><NoDataValue>{nodata}</NoDataValue><SimpleSource><SourceFilename '
            f'relativeToVRT="1">{band}.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>'
            for band, nodata in enumerate((1, 4))
        )
    }</VRTDataset>"""
    (tmp_path / "both.vrt").write_text(vrt)
    scene = open_scene(tmp_path / "both.vrt")
    assert scene.stored.nodata == (1, 4)
    np.testing.assert_array_equal(PieceReader(scene, 0).read(0, 0, 2, 3).read(0, 0, 2, 3), scene.read())
    assert np.isnan(scene.read()).sum() == 2


def test_what_a_mask_hides_is_hidden(written):
    """Numbers alone do not tell it, so that the piece holds float32."""
    scene = written(nodata=None)
    with rasterio.open(scene.path, "r+") as dst:
        mask = np.full(SHAPE[1:], 255, np.uint8)
        mask[30:50] = 0
        dst.write_mask(mask)
    scene = open_scene(scene.path)
    piece = PieceReader(scene, 4).read(0, 0, 96, 80)
    assert piece.numbers.dtype == np.float32
    assert np.isnan(piece.read(0, 0, 96, 80)[:, 30:50]).all()


def test_in_raster_order_no_pixel_is_read_twice_and_blocks_are_read_whole(written, monkeypatch):
    """Pieces that begin 16 pixels before a block and end with one, as parts of a plan do."""
    scene, windows = written(), []
    read_numbers = type(scene).read_numbers

    def noted(self, window: Window, out):
        windows.append(tuple(map(int, window.flatten())))
        read_numbers(self, window, out)

    monkeypatch.setattr(type(scene), "read_numbers", noted)
    reader = PieceReader(scene, 16)
    for row in (-16, 16, 48):
        for column in (-16, 16, 48):
            reader.read(row, column, 48, 48)
    assert sum(width * height for _, _, width, height in windows) == 96 * 80
    assert all(value % 32 == 0 for column, row, *_ in windows for value in (column, row))
