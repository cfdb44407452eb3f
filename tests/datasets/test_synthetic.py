import subprocess
import sys

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from geovit.datasets import open_scene, read_labels, synthesize_scene


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return synthesize_scene(tmp_path_factory.mktemp("scene"))


def test_the_scene_shows_what_real_scenes_have(files):
    scene = open_scene(files.scene)
    assert scene.grid.crs.to_epsg() == 32633
    assert (scene.grid.height, scene.grid.width) == (120, 150)
    assert set(scene.dropped.values()) == {"bad band list", "no data"}
    assert (np.diff(scene.wavelengths) >= 0).all()
    assert list(scene.bands) != sorted(scene.bands)
    assert (scene.fwhm > 0).all()
    valid = np.isfinite(scene.read()).all(0)
    assert 0.8 < valid.mean() < 0.97


def test_labels_are_sparse_and_right(files):
    scene = open_scene(files.scene)
    labels, truth = read_labels(files.labels, scene.grid), read_labels(files.truth, scene.grid)
    assert labels.classes == truth.classes
    assert {"water", "trees", "bare soil"} <= {info.name for info in labels.classes}
    given = labels.index >= 0
    assert 0.03 < given.mean() < 0.1
    np.testing.assert_array_equal(labels.index[given], truth.index[given])
    np.testing.assert_array_equal(truth.index >= 0, np.isfinite(scene.read()).all(0))


def test_vegetation_has_a_red_edge_and_water_is_dark(files):
    scene = open_scene(files.scene)
    truth = read_labels(files.truth, scene.grid)
    names = [info.name for info in truth.classes]
    pixels = scene.read()
    red, infrared = (np.abs(scene.wavelengths - w).argmin() for w in (670, 850))
    means = {name: pixels[:, truth.index == i].mean(1) for i, name in enumerate(names)}
    assert means["trees"][infrared] > 4 * means["trees"][red]
    assert means["water"][infrared] < 0.2 * means["trees"][infrared]


def test_spectra_separate_the_classes_but_not_fully(files):
    scene = open_scene(files.scene)
    labels, truth = read_labels(files.labels, scene.grid), read_labels(files.truth, scene.grid)
    train = labels.index >= 0
    test = (truth.index >= 0) & ~train
    pixels = scene.read()
    svm = make_pipeline(StandardScaler(), SVC(C=100)).fit(pixels[:, train].T, labels.index[train])
    assert 0.85 < svm.score(pixels[:, test].T, truth.index[test]) < 0.96


def test_the_seed_fixes_the_files(tmp_path):
    for name, seed in ("a", 1), ("b", 1), ("c", 2):
        (tmp_path / name).mkdir()
        synthesize_scene(tmp_path / name, height=20, width=24, bands=16, classes=3, seed=seed)
    a, b, c = ([(tmp_path / name / f"{kind}.tif").read_bytes() for kind in ("scene", "labels", "truth")] for name in "abc")
    assert a == b
    assert a[0] != c[0]


def test_impossible_sizes_and_existing_files(tmp_path):
    with pytest.raises(ValueError, match=r"9 classes: needs 16 a side, 2\.\.8"):
        synthesize_scene(tmp_path, classes=9)
    (tmp_path / "scene.tif").write_text("mine")
    with pytest.raises(FileExistsError, match="pass --overwrite"):
        synthesize_scene(tmp_path, height=16, width=16, bands=16)


def test_importing_datasets_loads_nothing_heavy():
    heavy = ["torch", "scipy", "h5py", "pyogrio", "shapely", "sklearn"]
    code = f"import sys, geovit.datasets; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
