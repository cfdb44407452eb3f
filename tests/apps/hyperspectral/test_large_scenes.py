"""Scenes of any size: plans, pieces, runs that are cut off and gone on with, bounded memory."""

import dataclasses
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import torch
from rasterio.features import geometry_mask
from rasterio.windows import Window

from geovit.apps.hyperspectral import approaches, clustering, map_runs, training, working
from geovit.apps.hyperspectral.classification import classify
from geovit.apps.hyperspectral.model import load_classifier
from geovit.apps.hyperspectral.working import part_bytes
from geovit.datasets import open_scene
from geovit.datasets.growing import UnfinishedRunError

UNFINISHED = ".scene_classes.tif.unfinished"


def read(path, window=None):
    with rasterio.open(path) as src:
        return src.read(window=window)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def small_cells(module_patch, tiny):
    """Cells and parts of 16 pixels, so that a small scene has many."""
    cost = approaches.cost_of

    def of(*arguments, **options):
        return dataclasses.replace(cost(*arguments, **options), cell=16, largest=32, bytes=1e5)

    module_patch.setattr(approaches, "cost_of", of)


@pytest.fixture(scope="module")
def module_patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def whole(files, tiny, small_cells, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return classify(str(files.scene), labels=str(files.labels), out=out, probabilities=True, recipe=tiny, device="cpu")


@pytest.fixture
def again(files, whole, tmp_path):
    """Map with the model of the whole map."""

    def run(**options):
        return classify(
            str(files.scene), **{"model": whole.files["model"], "out": tmp_path, "probabilities": True, "device": "cpu"} | options
        )

    return run


def test_the_map_of_bounds_is_cut_out_of_the_map_of_the_scene(files, whole, again):
    with rasterio.open(files.scene) as src:
        left, top = src.transform @ (11, 7)
        right, bottom = src.transform @ (52.5, 39)
    piece = again(bounds=f"{left},{bottom},{right},{top}")
    window = Window(11, 7, 42, 32)
    for kind in ("map", "probabilities"):
        np.testing.assert_array_equal(read(piece.files[kind]), read(whole.files[kind], window))
    grid = open_scene(files.scene).grid.part(11, 7, 42, 32)
    with rasterio.open(piece.files["map"]) as mapped:
        assert (mapped.transform, mapped.crs, mapped.shape) == (grid.transform, grid.crs, grid.shape)
    assert sum(row["pixels"] for row in piece.report["classes"]) == (read(piece.files["map"]) > 0).sum()


def test_bounds_beside_the_scene_are_refused(again, tmp_path):
    with pytest.raises(ValueError, match="bounds"):
        again(bounds="0,0,10,10", out=tmp_path / "new")
    assert names(tmp_path) == []


def test_beside_the_polygons_of_a_mask_there_is_no_data(files, whole, again, tmp_path):
    with rasterio.open(files.scene) as src:
        corners = [src.transform @ place for place in ((10, 5), (60, 20), (20, 45))]
        crs = src.crs.to_string()
    pyogrio.raw.write(
        tmp_path / "m.gpkg", np.array([shapely.Polygon(corners).wkb], object), [], [], geometry_type="Polygon", crs=crs
    )
    masked = again(mask=str(tmp_path / "m.gpkg"), quicklook=True)
    with rasterio.open(files.scene) as src:
        inside = geometry_mask([shapely.Polygon(corners)], src.shape, src.transform, invert=True)
    for kind, nothing in (("map", 0), ("probabilities", np.nan)):
        np.testing.assert_array_equal(read(masked.files[kind]), np.where(inside, read(whole.files[kind]), nothing))
    assert masked.report["mask"] == str(tmp_path / "m.gpkg")


@pytest.mark.parametrize("given", ["labels", "model", "neither"])
def test_a_plan_writes_nothing(files, whole, tiny, tmp_path, given, capsys):
    ways = {"labels": {"labels": str(files.labels), "recipe": tiny}, "model": {"model": whole.files["model"]}, "neither": {}}
    told = classify(str(files.scene), plan=True, out=tmp_path / "new", device="cpu", **ways[given])
    assert names(tmp_path) == []
    assert told.files == {}
    assert told.forecast.parts == (1 if given == "neither" else 6)
    assert told.forecast.seconds > 0
    assert ("spectral_swin is fitted to" in told.report["first"]) == (given == "labels")


def test_less_memory_makes_smaller_parts_and_the_same_map(files, whole, again, monkeypatch):
    model = load_classifier(whole.files["model"])
    cost = approaches.cost_of(model, device=torch.device("cpu"), precision=torch.float32)
    scene = open_scene(files.scene)
    pixel = model.info.bands * scene.stored.dtype.itemsize
    all_of_it = scene.grid.height * scene.grid.width * pixel
    least = (all_of_it + part_bytes(16, 1, cost, width=scene.grid.width, pixel=pixel, channels=3, halo=model.halo)) / 1e9
    sides = []
    carried_out = map_runs.carried_out

    def noted(plan, *arguments, **options):
        sides.append(plan.side)
        return carried_out(plan, *arguments, **options)

    monkeypatch.setattr(map_runs, "carried_out", noted)
    monkeypatch.setattr("geovit.apps.streaming.used_bytes", lambda _: 0)
    again()
    found = again(max_memory=1.05 * least, overwrite=True)
    assert sides == [32, 16]
    for kind in ("map", "probabilities"):
        assert found.files[kind].read_bytes() == whole.files[kind].read_bytes()
    with pytest.raises(ValueError, match="parts of 16 pixels, the smallest possible, need"):
        again(max_memory=0.9 * least, overwrite=True)


def test_processes_write_the_bytes_that_threads_write(whole, again, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = again(dask="local:2", out=tmp_path / "there")
    for kind in ("map", "probabilities"):
        assert there.files[kind].read_bytes() == whole.files[kind].read_bytes()
    assert there.report["classes"] == whole.report["classes"]
    assert names(tmp_path) == ["there"]


class Stopped(BaseException):
    """As a kill, but for this test to live on."""


def stop_after(monkeypatch, parts):
    finish, done = working.SceneWorker.finish, []

    def stopping(self, *arguments):
        if len(done) == parts:
            raise Stopped
        done.append(None)
        return finish(self, *arguments)

    monkeypatch.setattr(working.SceneWorker, "finish", stopping)


@pytest.mark.parametrize("parts", [0, 1, 4])
def test_a_run_that_was_stopped_goes_on_without_fitting_again(files, tiny, tmp_path, whole, small_cells, parts):
    options = {"labels": str(files.labels), "probabilities": True, "recipe": tiny, "device": "cpu", "out": tmp_path}
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, parts)
        with pytest.raises(Stopped):
            classify(str(files.scene), **options)
    assert names(tmp_path) == [UNFINISHED]
    with pytest.raises(UnfinishedRunError, match="pass --resume"):
        classify(str(files.scene), **options)
    with pytest.raises(UnfinishedRunError, match="of another job .*seed: 0, now 1"):
        classify(str(files.scene), **options, seed=1, resume=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "fit", lambda *_, **__: pytest.fail("fitted again"))
        ended = classify(str(files.scene), **options, resume=True)
    for kind in ("map", "probabilities"):
        assert ended.files[kind].read_bytes() == whole.files[kind].read_bytes()
    assert ended.report["validation"]["accuracy"] == whole.report["validation"]["accuracy"]
    assert ended.report["classes"] == whole.report["classes"]
    assert names(tmp_path) == names(whole.files["map"].parent)


def test_a_fit_that_was_stopped_leaves_nothing(files, tiny, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise Stopped

    monkeypatch.setattr(training, "fit", stopped)
    with pytest.raises(Stopped):
        classify(str(files.scene), labels=str(files.labels), recipe=tiny, out=tmp_path, device="cpu")
    assert names(tmp_path) == []


_KILLED = """
import os, signal
from pathlib import Path
from geovit.apps.hyperspectral import working
from geovit.apps.hyperspectral.classification import classify
finish, done = working.SceneWorker.finish, []
def killed(self, *arguments):
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(None)
    return finish(self, *arguments)
working.SceneWorker.finish = killed
classify({scene!r}, clusters=3, out=Path({out!r}), max_memory=4.0)
"""


@pytest.fixture
def write_scene(tmp_path):
    """Write three bands of noise, tiled."""

    def write(name, side):
        profile = {"driver": "GTiff", "count": 3, "height": side, "width": side, "dtype": "uint8", "nodata": 0, "tiled": True}
        random = np.random.default_rng(0)
        with rasterio.open(
            tmp_path / name, "w", crs="EPSG:32633", transform=rasterio.Affine(10, 0, 4e5, 0, -10, 5e6), **profile
        ) as dst:
            for _, window in dst.block_windows(1):
                shape = 3, int(window.height), int(window.width)
                dst.write(random.integers(0, 256, shape, dtype=np.uint8), window=window)
        return str(tmp_path / name)

    return write


def test_a_killed_process_s_run_ends_in_the_same_bytes(write_scene, tmp_path):
    scene, out = write_scene("scene.tif", 1100), tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", _KILLED.format(scene=scene, out=str(out))], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert names(out) == [UNFINISHED]
    resumed = classify(scene, clusters=3, out=out, resume=True, max_memory=4.0)
    once = classify(scene, clusters=3, out=tmp_path / "once", max_memory=4.0)
    assert resumed.files["map"].read_bytes() == once.files["map"].read_bytes()


def test_memory_does_not_grow_with_the_scene(write_scene, tmp_path, monkeypatch):
    monkeypatch.setattr(clustering, "LARGEST_SIDE", 128)
    monkeypatch.setattr("geovit.datasets.scene._SCAN_VALUES", 2**16)  # read at once at the start, of which this scene has few
    peaks = []
    for side in (256, 640, 640, 1280):  # the first pays for what is made once; how far threads overlap differs from run to run
        scene = write_scene(f"{side}.tif", side)
        tracemalloc.start()
        classify(scene, clusters=3, out=tmp_path, overwrite=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[3] / max(peaks[1:3]) < 1.1, peaks
