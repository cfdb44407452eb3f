import os
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio._env import get_gdal_config
from rasterio.crs import CRS
from rio_cogeo import cog_validate

from geovit.datasets import Grid
from geovit.datasets.growing import GrowingRaster, Layer, growing_cog, small_cache
from geovit.datasets.growing import cog as module
from geovit.datasets.growing.cog import cog_block, make_cog

GRID = Grid(600, 700, CRS.from_epsg(32633), Affine(10.0, 0.0, 4e5, 0.0, -10.0, 5.8e6))
LAYERS = {
    "classes": {"bands": 1, "dtype": "uint8", "nodata": 0},
    "numbers": {"bands": 3, "dtype": "int8", "nodata": -128, "overviews": "average", "scales": [0.5, 1.0, 2.0]},
    "halves": {"bands": 5, "dtype": "float16", "nodata": float("nan"), "overviews": "average"},
    "colours": {"bands": 4, "dtype": "uint8", "interpretations": ["red", "green", "blue", "alpha"]},
}


def grown(folder, name, values=None):
    layer = Layer(path=folder / f"{name}.tif", grid=GRID, **LAYERS[name])
    raster = GrowingRaster.make(folder / f"plain_{name}.tif", layer)
    if values is None:
        values = np.random.default_rng(0).integers(0, 100, (layer.bands, *GRID.shape))
    raster.write(values, 0, 0)
    return raster


@pytest.mark.parametrize("name", LAYERS)
def test_a_cog_holds_the_pixels_and_depends_on_nothing_else(tmp_path, name, monkeypatch):
    raster = grown(tmp_path, name)
    told = []
    make_cog(raster, tmp_path / "a.tif", told.append)
    assert told[-1] == pytest.approx(1)
    assert cog_validate(tmp_path / "a.tif", strict=True) == (True, [], [])
    with rasterio.open(tmp_path / "a.tif") as src:
        np.testing.assert_array_equal(src.read().astype(raster.layer.dtype), raster.read(0, 0, *GRID.shape))
        assert [use.name for use in src.colorinterp] == LAYERS[name].get("interpretations", [use.name for use in src.colorinterp])
        assert src.scales == tuple(LAYERS[name].get("scales", src.scales))
    monkeypatch.setenv("GDAL_NUM_THREADS", "1")
    make_cog(raster, tmp_path / "b.tif", told.append)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    raster.close()


def test_no_byte_is_what_memory_happened_to_hold(tmp_path):
    """GDAL leaves what it does not set as it finds it; glibc can be told what it shall find."""
    raster = grown(tmp_path, "halves")
    raster.close()
    made = []
    for fill in ("85", "170"):
        target = tmp_path / f"{fill}.tif"
        told = (raster.layer, raster.file, target)
        script = "import sys; from pathlib import Path; from rasterio.crs import CRS; from affine import Affine\n"
        script += "from geovit.datasets import Grid\nfrom geovit.datasets.growing import GrowingRaster, Layer\n"
        script += "from geovit.datasets.growing.cog import make_cog\nnan = float('nan')\n"
        script += f"grid = Grid({GRID.height}, {GRID.width}, CRS.from_epsg(32633), Affine{tuple(GRID.transform)[:6]})\n"
        script += f"layer = Layer(path=Path('x'), grid=grid, **{LAYERS['halves']})\n"
        script += f"make_cog(GrowingRaster(Path({str(told[1])!r}), layer), Path({str(target)!r}), lambda done: None)\n"
        environment = {**os.environ, "MALLOC_PERTURB_": fill, "MALLOC_MMAP_THRESHOLD_": "1000000000"}
        subprocess.run([sys.executable, "-c", script], check=True, env=environment, cwd=tmp_path)
        made.append(target.read_bytes())
    assert made[0] == made[1]


def test_tiles_of_many_bands_stay_small():
    sizes = {bands: cog_block(Layer(path=None, grid=GRID, bands=bands, dtype="float32")) for bands in (1, 16, 17, 200, 768)}
    assert sizes == {1: 512, 16: 512, 17: 256, 200: 128, 768: 64}


def test_pixels_that_do_not_read_back_are_noticed(tmp_path, monkeypatch):
    raster = grown(tmp_path, "classes")
    copy = module.rasterio.shutil.copy

    def wrong(source, target, **options):
        copy(source, target, **options)
        with rasterio.open(target, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dst:
            dst.write(np.full((1, 600, 700), 7, np.uint8))

    monkeypatch.setattr(module.rasterio.shutil, "copy", wrong)
    with pytest.raises(OSError, match="does not read back|no valid"):
        make_cog(raster, tmp_path / "a.tif", lambda done: None)
    raster.close()


def test_gdal_keeps_little_unless_the_user_said_how_much(monkeypatch):
    before = get_gdal_config("GDAL_CACHEMAX")
    with small_cache():
        assert get_gdal_config("GDAL_CACHEMAX") == 256 * 2**20
    assert get_gdal_config("GDAL_CACHEMAX") == before
    monkeypatch.setenv("GDAL_CACHEMAX", "77")
    with small_cache():
        assert get_gdal_config("GDAL_CACHEMAX") == before


def test_a_raster_of_its_own_appears_whole_or_not_at_all(tmp_path):
    layer = Layer(
        path=tmp_path / "p.tif", grid=GRID, bands=2, dtype="float32", nodata=float("nan"), descriptions=["most", "entropy (bits)"]
    )
    values = np.random.default_rng(0).random((2, *GRID.shape), dtype=np.float32)
    values[:, :40] = np.nan

    def interrupted():
        with growing_cog(layer.path, layer) as raster:
            raster.write(values, 0, 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == []
    with growing_cog(layer.path, layer) as raster:
        for row in range(0, GRID.height, 250):
            raster.write(values[:, row : row + 250], row, 0)
    assert os.listdir(tmp_path) == ["p.tif"]
    assert cog_validate(layer.path, strict=True) == (True, [], [])
    with rasterio.open(layer.path) as src:
        assert (src.descriptions, np.isnan(src.nodata)) == (("most", "entropy (bits)"), True)
        np.testing.assert_array_equal(src.read(), values)
    with pytest.raises(FileExistsError), growing_cog(layer.path, layer):
        pass
