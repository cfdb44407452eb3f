"""Exported models in the commands of the applications, from the file to the map."""

import json

import nibabel as nib
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine

import geovit
from geovit.apps.cli import main
from geovit.apps.export import export
from geovit.apps.hyperspectral.model import Classifier, ModelInfo
from geovit.apps.hyperspectral.recipe import Recipe, TrainingConfig
from geovit.apps.hyperspectral.spectral_swin import SpectralSwinConfig
from geovit.apps.medical.model import new_segmenter, save_segmenter
from geovit.apps.medical.models import open_segmenter
from geovit.apps.medical.networks import NetworkConfig
from geovit.apps.medical.plan import Channel, Plan, Target
from geovit.datasets import ClassInfo

BANDS = 6
UNET = NetworkConfig(name="monai_unet", arguments={"channels": [4, 8], "strides": [2]})
PLAN = Plan(
    channels=(Channel(name="CT", scheme="range", low=-1000.0, high=1000.0),),
    targets=(Target(name="soft", values=(1,), output=1), Target(name="bone", values=(2,), output=5)),
    spacing=None,
    roi=(16, 16, 16),
)


@pytest.fixture(scope="module")
def land(tmp_path_factory):
    """A scene, and a classifier of its bands: as it was saved, and exported."""
    folder = tmp_path_factory.mktemp("land")
    cube = np.random.default_rng(0).normal(size=(BANDS, 24, 31)).astype(np.float32)
    profile = {"driver": "GTiff", "count": BANDS, "height": 24, "width": 31, "dtype": "float32", "nodata": np.nan}
    with rasterio.open(
        folder / "scene.tif", "w", crs="EPSG:32633", transform=Affine(30, 0, 4e5, 0, -30, 5.8e6), **profile
    ) as file:
        file.write(cube)
    torch.manual_seed(0)
    swin = SpectralSwinConfig(dim=8, depth=1, heads=2, channels=(2, 4))
    classes = tuple(ClassInfo(value, f"class {value}", (value, 0, 0)) for value in (3, 7, 9))
    model = Classifier(ModelInfo("0", BANDS, None, classes, Recipe(training=TrainingConfig(members=1), spectral_swin=swin), {}))
    model.members[0].transform.fit(torch.from_numpy(cube).flatten(1).T)
    model.save(folder / "land.safetensors")
    export(str(folder / "land.safetensors"), out=folder / "land.onnx")
    return folder


@pytest.fixture(scope="module")
def organs(tmp_path_factory):
    """A volume, and a segmenter: as it was saved, and exported."""
    folder = tmp_path_factory.mktemp("organs")
    voxels = np.random.default_rng(0).integers(-900, 900, (20, 18, 17)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([1, 1, 2.0, 1])), folder / "ct.nii.gz")
    torch.manual_seed(0)
    save_segmenter(folder / "organs.safetensors", new_segmenter(UNET, PLAN))
    export(str(folder / "organs.safetensors"), out=folder / "organs.onnx")
    return folder


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_classify_maps_the_same_classes(land, tmp_path, engine):
    maps = {}
    for name, model, more in (("own", "land.safetensors", []), ("engine", "land.onnx", ["--engine", engine])):
        out = tmp_path / name
        arguments = ["classify", str(land / "scene.tif"), "--model", str(land / model), "--out", str(out), "--device", "cpu"]
        assert main([*arguments, "--probabilities", *more]) == 0
        with rasterio.open(out / "scene_classes.tif") as classes:
            maps[name] = classes.read(1)
    assert set(np.unique(maps["own"])) <= {3, 7, 9}
    assert (maps["engine"] == maps["own"]).mean() > 0.99  # but for ties, which fall the other way
    told = json.loads((tmp_path / "engine" / "scene_run.json").read_text())
    assert engine in json.dumps(told)


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_segment_finds_the_same_labels(organs, tmp_path, engine):
    labels = {}
    for name, model, more in (("own", "organs.safetensors", []), ("engine", "organs.onnx", ["--engine", engine])):
        out = tmp_path / name
        arguments = ["segment", str(organs / "ct.nii.gz"), "--model", str(organs / model), "--out", str(out), "--device", "cpu"]
        assert main([*arguments, *more]) == 0
        labels[name] = np.asarray(nib.load(next(out.glob("*_seg.nii.gz"))).dataobj)
    assert labels["own"].shape == (20, 18, 17)
    assert (labels["engine"] == labels["own"]).mean() > 0.99


def test_segment_of_python_takes_an_engine(organs):
    own = geovit.segment(organs / "ct.nii.gz", model=organs / "organs.safetensors", device="cpu")
    for engine in (None, "onnx", "openvino"):
        made = geovit.segment(organs / "ct.nii.gz", model=organs / "organs.onnx", engine=engine, device="cpu")
        assert (made == own).mean() > 0.99
    with pytest.raises(ValueError, match="is not exported: engine onnx runs"):
        geovit.segment(organs / "ct.nii.gz", model=organs / "organs.safetensors", engine="onnx")
    with pytest.raises(ValueError, match="leave them out"):
        geovit.segment(organs / "ct.nii.gz", model=open_segmenter(organs / "organs.onnx"), engine="onnx")
