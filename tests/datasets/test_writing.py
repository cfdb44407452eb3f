import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rio_cogeo import cog_validate

from geovit.datasets import (
    ClassInfo,
    Grid,
    atomic,
    check_writable,
    open_scene,
    read_labels,
    write_class_map,
    write_text_atomic,
)

CLASSES = (ClassInfo(2, "Bäume & <Büsche>", (10, 100, 20)), ClassInfo(9, "soil", (200, 150, 90)))


@pytest.fixture
def big() -> Grid:
    """Larger than two COG tiles a side."""
    return Grid(1100, 1300, rasterio.CRS.from_epsg(32633), Affine(10.0, 0.0, 4e5, 0.0, -10.0, 5.8e6))


def class_values(grid, classes=CLASSES):
    return np.random.default_rng(0).choice([0, *(info.value for info in classes)], grid.shape)


def kinds_of(grid):
    return {
        "utm": grid,
        "no crs": replace(grid, crs=None),
        "bare": replace(grid, crs=None, transform=Affine.identity()),
        "rotated": replace(grid, transform=Affine(8.0, 3.0, 4e5, 3.0, -8.0, 5.8e6)),
    }


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # rasterio.open of the test itself
@pytest.mark.parametrize("kind", ["utm", "no crs", "bare", "rotated"])
def test_a_class_map_comes_back_with_grid_names_and_colours(tmp_path, big, kind):
    grid = kinds_of(big)[kind]
    values = class_values(grid)
    write_class_map(tmp_path / "m.tif", values, grid, CLASSES)
    valid, errors, warnings = cog_validate(tmp_path / "m.tif", strict=True)
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(tmp_path / "m.tif") as src:
        assert (src.crs, src.transform, src.shape) == (grid.crs, grid.transform, grid.shape)
        assert (src.dtypes, src.nodata) == (("uint8",), 0)
        np.testing.assert_array_equal(src.read(1), values)
        for _, window in src.block_windows(1):
            np.testing.assert_array_equal(src.read(1, window=window), values[window.toslices()])
        overview = src.overviews(1)[0]
        half = src.read(1, out_shape=(grid.height // overview, grid.width // overview))
        assert set(np.unique(half)) <= {0, 2, 9}  # nearest: no class in between
        assert src.colormap(1)[9] == (200, 150, 90, 255)
    labels = read_labels(tmp_path / "m.tif", grid)
    assert labels.classes == CLASSES
    np.testing.assert_array_equal(np.array([0, 2, 9])[labels.index + 1], values)


def test_large_class_values_make_uint16(tmp_path, grid):
    classes = (*CLASSES, ClassInfo(65535, "last", (1, 2, 3)))
    values = class_values(grid, classes)
    write_class_map(tmp_path / "m.tif", values, grid, classes)
    with rasterio.open(tmp_path / "m.tif") as src:
        assert src.dtypes == ("uint16",)
        np.testing.assert_array_equal(src.read(1), values)
    assert read_labels(tmp_path / "m.tif", grid).classes == classes


def test_a_map_of_a_real_scene_has_its_grid(tmp_path, data_dir):
    scene = open_scene(data_dir / "hyperspectral/enmap_potsdam/scene.tif")
    write_class_map(tmp_path / "m.tif", class_values(scene.grid), scene.grid, CLASSES)
    with rasterio.open(scene.path) as src, rasterio.open(tmp_path / "m.tif") as dst:
        assert (dst.crs, dst.transform, dst.shape) == (src.crs, src.transform, src.shape)


def test_wrong_values_are_refused(tmp_path, grid):
    with pytest.raises(ValueError, match="values such as 5 are not among the classes"):
        write_class_map(tmp_path / "m.tif", np.full(grid.shape, 5), grid, CLASSES)
    with pytest.raises(ValueError, match=r"shape \(3, 3\) for a grid of \(24, 30\)"):
        write_class_map(tmp_path / "m.tif", np.zeros((3, 3), int), grid, CLASSES)
    assert os.listdir(tmp_path) == []


def test_only_the_result_and_its_sidecar_remain(tmp_path, grid):
    write_class_map(tmp_path / "m.tif", class_values(grid), grid, CLASSES)
    assert sorted(os.listdir(tmp_path)) == ["m.tif", "m.tif.aux.xml"]


def test_an_existing_result_needs_overwrite(tmp_path, grid):
    path = tmp_path / "m.tif"
    path.write_text("old")
    for attempt in (
        lambda: write_class_map(path, class_values(grid), grid, CLASSES),
        lambda: write_text_atomic(path, "new"),
        lambda: check_writable([path]),
    ):
        with pytest.raises(FileExistsError, match=r"m\.tif exists: pass --overwrite"):
            attempt()
    assert path.read_text() == "old"
    write_class_map(path, class_values(grid), grid, CLASSES, overwrite=True)
    assert read_labels(path, grid).classes == CLASSES


def test_overwriting_leaves_no_names_of_the_old_map(tmp_path, grid):
    write_class_map(tmp_path / "m.tif", class_values(grid), grid, CLASSES)
    with atomic(tmp_path / "m.tif", overwrite=True) as temporary:
        temporary.write_text("no map")
    assert os.listdir(tmp_path) == ["m.tif"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError, SystemExit])
@pytest.mark.parametrize("existing", [True, False])
def test_any_failure_leaves_the_folder_as_it_was(tmp_path, error, existing):
    path = tmp_path / "r.json"
    if existing:
        path.write_text("old")

    def fail():
        with atomic(path, overwrite=True) as temporary:
            assert temporary.parent.parent == tmp_path
            temporary.write_text("half")
            temporary.with_name("r.json.aux.xml").write_text("half")
            raise error("stop")

    with pytest.raises(error, match="stop"):
        fail()
    assert os.listdir(tmp_path) == (["r.json"] if existing else [])
    assert not existing or path.read_text() == "old"


def test_an_interrupt_while_it_cleans_up_leaves_nothing_either(tmp_path, monkeypatch):
    removing, remove = iter([True, False]), shutil.rmtree

    def interrupted(*args, **options):
        if next(removing):
            raise KeyboardInterrupt
        remove(*args, **options)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text_atomic(tmp_path / "r.txt", "whole")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["r.txt"]


def test_the_result_appears_only_at_the_end(tmp_path):
    with atomic(tmp_path / "r.txt") as temporary:
        temporary.write_text("half")
        assert not (tmp_path / "r.txt").exists()
    assert (tmp_path / "r.txt").read_text() == "half"


def test_places_that_cannot_be_written_are_named_in_one_line(tmp_path, grid):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.tif").mkdir()
    cases = {
        tmp_path / "file/m.tif": "is not a folder",
        tmp_path / "none/m.tif": "is not a folder",
        tmp_path / "folder.tif": "it is a folder",
    }
    if Path("/proc").is_dir():
        cases[Path("/proc/m.tif")] = "No such file"  # refuses even root
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        cases[tmp_path / "locked/m.tif"] = "Permission denied"
    for path, why in cases.items():
        for attempt in (
            lambda path=path: check_writable([path]),
            lambda path=path: write_class_map(path, class_values(grid), grid, CLASSES),
        ):
            with pytest.raises(OSError, match=f"cannot write {path}: .*{why}") as caught:
                attempt()
            assert "\n" not in str(caught.value)


def test_check_writable_leaves_nothing(tmp_path):
    check_writable([tmp_path / "a.tif", tmp_path / "b.json"])
    assert os.listdir(tmp_path) == []


# A limit on file size stands in for the full disk: the system refuses to write on in the same places.
_FULL = """
import resource, sys
import numpy as np
from affine import Affine
from geovit.datasets import ClassInfo, Grid, write_class_map, write_text_atomic
kind, path, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
grid = Grid(600, 700, None, Affine(1.0, 0.0, 5.0, 0.0, -1.0, 5.0))
values = np.random.default_rng(0).integers(0, 201, grid.shape)
classes = [ClassInfo(v, str(v), (v, v, v)) for v in range(1, 201)]
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    if kind == "map":
        write_class_map(path, values, grid, classes)
    else:
        write_text_atomic(path, "x" * 10**6)
except OSError as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes")
@pytest.mark.parametrize(("kind", "limit"), [("map", 1000), ("map", 200_000), ("map", 430_000), ("text", 5000)])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, kind, limit):
    done = subprocess.run(
        [sys.executable, "-c", _FULL, kind, str(tmp_path / "out.tif"), str(limit)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith(f"cannot write {tmp_path / 'out.tif'}: ")
    assert done.stdout.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_errno_is_kept(tmp_path):
    def fail():
        with atomic(tmp_path / "x"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="x: No space left on device") as caught:
        fail()
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value) == f"cannot write {tmp_path / 'x'}: No space left on device"
