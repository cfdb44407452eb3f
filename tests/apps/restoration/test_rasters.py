"""GeoTIFFs of any size: as in memory, in parts of any size, cut off and gone on with."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rio_cogeo import cog_validate

from geovit.apps.cli import main
from geovit.apps.restoration.models import open_restorer
from geovit.apps.restoration.restoration import Restoration
from geovit.datasets.images import open_image

TRANSFORM = Affine(10.0, 0.0, 4e5, 0.0, -10.0, 5.8e6)


@pytest.fixture(autouse=True)
def allocator_as_before(monkeypatch):
    """With a limit the command takes over the allocator of its process."""
    monkeypatch.setattr("geovit.apps.restoration.files.keep_no_freed_memory", lambda: True)


@pytest.fixture
def run(capsys, tmp_path):
    def run(*arguments, code=0):
        done = main(["restore", "--device=cpu", "--out", str(tmp_path / "out"), *map(str, arguments)])
        told, errors = capsys.readouterr()
        assert done == code, errors
        return told, errors

    return run


def write(path, pixels, *, mask=None, describe=None, **profile):
    """A GeoTIFF of (C, H, W)."""
    shape = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
    where = {"crs": "EPSG:32633", "transform": TRANSFORM}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", driver="GTiff", **(where | shape | profile)) as dst:
        dst.write(pixels)
        if mask is not None:
            dst.write_mask(mask)
        if describe is not None:
            describe(dst)
    return path


def landscape(bands, height, width, dtype="uint16"):
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / (9 + band)) * np.cos(columns / (13 - band)) for band in range(bands)]
    noise = np.random.default_rng(0).normal(0, 0.1, (bands, height, width))
    return (2000 + 900 * (np.stack(waves) + noise)).clip(1, 4000).astype(dtype)


def holes(height, width, count=9, side=20):
    """Squares that are smaller than what tiles look at around them."""
    hidden = np.zeros((height, width), bool)
    rng = np.random.default_rng(1)
    for row, column in zip(rng.integers(0, height, count), rng.integers(0, width, count), strict=True):
        hidden[row : row + side, column : column + side] = True
    return hidden


def in_memory(path, weights, **options):
    return Restoration(open_restorer(weights), device="cpu", **options)(open_image(path))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


KINDS = {
    "nodata": {"nodata": 7},
    "floats": {"dtype": "float32", "nodata": float("nan")},
    "mask": {"mask": True},
    "both": {"mask": True, "nodata": 7, "dtype": "int16"},
    "alpha": {"bands": 4, "photometric": "RGB", "alpha": "YES"},
    "five": {"bands": 5, "nodata": 7, "photometric": "MINISBLACK"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_parts_give_what_the_whole_image_gives(kind, make_weights, run, tmp_path):
    profile = {"bands": 3, "dtype": "uint16", **KINDS[kind]}
    bands, dtype, masked = profile.pop("bands"), profile.pop("dtype"), profile.pop("mask", False)
    pixels, hidden = landscape(bands, 150, 230, dtype), holes(150, 230)
    if "nodata" in profile:
        pixels[:, hidden] = profile["nodata"]
    if kind == "alpha":
        pixels[3] = np.where(hidden, 0, 65535)
    path = write(tmp_path / "a.tif", pixels, mask=~hidden if masked else None, **profile)
    weights = make_weights()
    whole = in_memory(path, weights)
    run(path, "--weights", weights, "--tile", 48)
    assert names(tmp_path / "out") == ["a_x2.tif", "a_x2_item.json", "a_x2_run.json"]
    made = open_image(tmp_path / "out" / "a_x2.tif")
    assert (made.grid, made.nodata is None or np.isnan(made.nodata) or made.nodata == whole.nodata) == (whole.grid, True)
    assert made.geo == whole.geo
    for one, other in ((made.alpha, whole.alpha), (made.mask, whole.mask)):
        assert (one is None) == (other is None)
        if one is not None:
            assert np.abs(one.astype(float) - other).max() <= 1, "rounding of sums in another order"
    off = np.abs(made.pixels.astype(np.float64) - whole.pixels)
    np.testing.assert_array_equal(np.isnan(made.pixels), np.isnan(whole.pixels))
    assert np.nanmax(off) <= (1 if dtype != "float32" else 1e-2), "of values up to 4000"
    assert (off > 0.01).mean() < 5e-3, "float32 has 0.4 % of a step of 16 bits"
    assert cog_validate(tmp_path / "out" / "a_x2.tif", strict=True)[0]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_what_the_file_says_follows_the_size_and_the_bounds(make_weights, run, tmp_path):
    corners = [(0, 0), (0, 60), (40, 0), (40, 60)]
    points = [GroundControlPoint(row=r, col=c, x=10 + c / 10, y=50 - r / 10, z=0, id=f"{r} {c}") for r, c in corners]

    def describe(dst):
        dst.set_band_description(1, "near infrared")
        dst.scales, dst.offsets = (0.1, 1.0, 1.0), (0.0, 5.0, 0.0)
        dst.update_tags(SENSOR="x")
        dst.update_tags(2, wavelength="842")

    where = {"crs": "EPSG:4326", "transform": None, "gcps": points}
    path = write(tmp_path / "a.tif", landscape(3, 40, 60), describe=describe, **where)
    run(path, "--weights", make_weights(), "--bounds", "10,4,50,34")  # of a grid without georeference, in pixels
    made = open_image(tmp_path / "out" / "a_x2.tif")
    assert made.shape == (60, 80)
    assert [(p.row, p.col, p.x, p.y) for p in made.geo.gcps] == [(2 * (p.row - 4), 2 * (p.col - 10), p.x, p.y) for p in points]
    assert (made.geo.descriptions[0], made.geo.scales[0], made.geo.offsets[1]) == ("near infrared", 0.1, 5.0)
    assert (made.geo.tags["SENSOR"], made.geo.band_tags[1]) == ("x", {"wavelength": "842"})


@pytest.mark.parametrize("tile", ["auto", 80])
def test_bounds_give_the_crop_of_the_whole(tile, make_weights, run, tmp_path):
    pixels = landscape(3, 300, 260)
    pixels[:, holes(300, 260)] = 0
    path = write(tmp_path / "a.tif", pixels, nodata=0)
    weights = make_weights()
    run(path, "--weights", weights, "--tile", tile)
    with rasterio.open(tmp_path / "out" / "a_x2.tif") as src:
        whole, grid = src.read(), src.transform
    box = (400_400, 5_797_700, 401_400, 5_799_310)  # columns 40 to 140, rows 69 to 230
    run(path, "--weights", weights, "--tile", tile, "--overwrite", f"--bounds={','.join(map(str, box))}")
    with rasterio.open(tmp_path / "out" / "a_x2.tif") as src:
        assert src.bounds == box
        assert src.transform == grid @ Affine.translation(80, 138)
        made = src.read()
    off = np.abs(made.astype(int) - whole[:, 138:460, 80:280])
    assert off.max() <= 1
    assert (off > 0).mean() < 1e-3, "rounding of sums in another order"


def test_a_plan_is_told_and_nothing_is_written(make_weights, run, tmp_path):
    path = write(tmp_path / "a.tif", landscape(3, 150, 230))
    told, _ = run(path, "--weights", make_weights(), "--tile", 48, "--plan")
    assert str(path) in told
    assert "parts" in told
    assert "GB at the peak" in told
    assert names(tmp_path) == ["a.tif"]


def test_what_is_for_geotiffs_is_refused_elsewhere(make_weights, run, tmp_path):
    from PIL import Image

    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    for option in (["--plan"], ["--bounds=0,0,1,1"], ["--dask=local:2"]):
        _, errors = run(tmp_path / "a.png", "--weights", make_weights(), *option, code=2)
        assert "a.png: --plan, --bounds and --dask are for GeoTIFFs" in errors


@pytest.mark.parametrize("option", ["--value-range=5,1", "--dask=local:0", "--bounds=0,0,1,1"])
def test_a_mistake_leaves_no_empty_folder(option, make_weights, run, tmp_path):
    path = write(tmp_path / "a.tif", landscape(3, 20, 20))
    run(path, "--weights", make_weights(), option, code=2)
    assert names(tmp_path) == ["a.tif"]


def started(*arguments):
    command = [sys.executable, "-m", "geovit", "restore", "--device=cpu", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})


def until_parts(process, journal, count):
    """Wait until a run has finished so many parts."""
    while not (journal.exists() and journal.read_bytes().count(b'"part"') >= count):
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)


def test_a_killed_run_goes_on_to_the_same_bytes(make_weights, run, tmp_path):
    pixels = landscape(3, 700, 600)
    pixels[:, holes(700, 600)] = 0
    path = write(tmp_path / "a.tif", pixels, nodata=0)
    weights = make_weights()
    run(path, "--weights", weights, "--tile", 48, "--out", tmp_path / "whole")
    process = started(path, "--weights", weights, "--tile", 48, "--out", tmp_path / "out")
    until_parts(process, tmp_path / "out" / ".a_x2.tif.unfinished" / "journal", 20)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert names(tmp_path / "out") == [".a_x2.tif.unfinished"]
    _, errors = run(path, "--weights", weights, "--tile", 48, code=2)
    assert "--resume" in errors
    run(path, "--weights", weights, "--tile", 48, "--resume")
    assert names(tmp_path / "out") == ["a_x2.tif", "a_x2_item.json", "a_x2_run.json"]
    assert (tmp_path / "out" / "a_x2.tif").read_bytes() == (tmp_path / "whole" / "a_x2.tif").read_bytes()
    before = (tmp_path / "out" / "a_x2.tif").stat().st_mtime_ns
    run(path, "--weights", weights, "--tile", 48, "--resume")
    assert (tmp_path / "out" / "a_x2.tif").stat().st_mtime_ns == before, "what is there is passed over"


_PEAK = """
import re, sys
from pathlib import Path
from geovit.apps.cli import main
assert main(sys.argv[1:]) == 0
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of a process is told by Linux")
def test_memory_does_not_grow_with_the_image(make_weights, tmp_path):
    peaks = []
    for side in (500, 1000):
        path = write(tmp_path / f"{side}.tif", landscape(3, side, side, "uint8"), tiled=True)
        command = ["restore", "--device=cpu", "--weights", make_weights(), "--tile", 128, path]
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, *map(str, command)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GDAL_CACHEMAX": "16"},
        )
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] < 1.1 * peaks[0]
