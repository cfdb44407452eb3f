import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

import geovit
from geovit.apps.cli import main
from geovit.apps.medical import files, segmentation
from geovit.apps.medical.model import Segmenter, new_segmenter, save_segmenter
from geovit.apps.medical.networks import NetworkConfig
from geovit.apps.medical.plan import Channel, Plan, Target
from geovit.datasets.volumes import Volume, open_volume

UNET = NetworkConfig(name="monai_unet", arguments={"channels": [4, 8], "strides": [2]})
CT = Channel(name="CT", scheme="range", low=-1000.0, high=1000.0)
PLAN = Plan(
    channels=(CT,),
    targets=(Target(name="soft", values=(1,), output=1), Target(name="bone", values=(2,), output=5)),
    spacing=None,
    roi=(32, 32, 32),
)
LPS = np.array([[-0.9, 0, 0, 40], [0, -1.1, 0, 30], [0, 0, 2.5, -70], [0, 0, 0, 1.0]])
SAGITTAL = np.array([[0, 0, 2.5, 5], [-0.9, 0, 0, 6], [0, 1.1, 0, 7], [0, 0, 0, 1.0]])  # slices lead to the right


class Thresholds(nn.Module):
    """Background below 0 HU, soft tissue from there on, bone from 500 HU."""

    def forward(self, x):
        x = x[:, :1] - 0.5  # 0 HU
        return torch.cat([torch.zeros_like(x), x, 2 * x - 0.25], 1)


class Nested(Thresholds):
    """Soft tissue with bone in it as a region, and bone."""

    def forward(self, x):
        return torch.cat([x[:, :1] - 0.5, x[:, :1] - 0.75], 1)


@pytest.fixture(autouse=True)
def allocator_as_before(monkeypatch):
    """With a limit the command takes over the allocator of its process."""
    monkeypatch.setattr(files, "keep_no_freed_memory", lambda: True)


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = main(["segment", "--device=cpu", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def thresholds():
    return Segmenter(network=Thresholds().eval(), config=UNET, plan=PLAN)


@pytest.fixture
def model(tmp_path):
    """A file with random weights, of as many channels as asked for."""

    def make(channels=("CT",), **changes):
        path = tmp_path / "model.safetensors"
        plan = replace(PLAN, channels=tuple(replace(CT, name=name) for name in channels), **changes)
        save_segmenter(path, new_segmenter(UNET, plan))
        return path

    return make


def body(size=(30, 26, 20)):
    """A smooth image in which no two directions are alike."""
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    return (900 * np.cos(2 * i) * np.cos(1.5 * j + 0.4) - 700 * (k - 0.3) ** 2 + 200 * i).astype(np.int16)


def truth(voxels):
    return np.where(voxels >= 500, 5, np.where(voxels >= 0, 1, 0)).astype(np.uint8)


def write(path, voxels, affine=LPS):
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


@pytest.mark.parametrize("affine", [LPS, SAGITTAL, np.diag([1, 1, 3.0, 1])])
def test_labels_lie_where_the_image_does(thresholds, affine):
    voxels = body()
    labels = geovit.segment(voxels, model=thresholds, affine=affine, device="cpu")
    at_limits = np.isin(voxels, (0, 500))
    assert (labels == truth(voxels))[~at_limits].all()


@pytest.mark.parametrize("affine", [LPS, SAGITTAL])
def test_labels_come_back_from_another_spacing(thresholds, affine):
    voxels = body((40, 36, 30))
    model = replace(thresholds, plan=replace(PLAN, spacing=(1.5, 1.2, 1.0)))
    labels = geovit.segment(voxels, model=model, affine=affine, device="cpu")
    for value in (1, 5):
        one, other = labels == value, truth(voxels) == value
        assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.93


def test_probabilities_come_back_too(thresholds):
    voxels = body()
    model = replace(thresholds, plan=replace(PLAN, spacing=(1.5, 1.2, 1.0)))
    labels, probabilities = geovit.segment(voxels, model=model, affine=LPS, probabilities=True, device="cpu")
    assert probabilities.shape == (3, *voxels.shape)
    np.testing.assert_allclose(probabilities.astype(np.float32).sum(0), 1, atol=3e-3)
    values = np.array([0, 1, 5])
    assert (values[probabilities.argmax(0)] == labels).mean() > 0.95


def test_paths_volumes_and_lists_are_images(thresholds, tmp_path):
    voxels = body()
    path = write(tmp_path / "a.nii.gz", voxels)
    out = tmp_path / "labels.nii.gz"
    labels = geovit.segment(path, model=thresholds, out=out, device="cpu")
    assert (labels == geovit.segment([path], model=thresholds, device="cpu")).all()
    assert (labels == geovit.segment(open_volume(path), model=thresholds, device="cpu")).all()
    assert (labels == np.asarray(nib.load(out).dataobj)).all()
    with pytest.raises(FileExistsError, match="--overwrite|exists"):
        geovit.segment(path, model=thresholds, out=out, device="cpu")


def test_wrong_arrays_are_told(thresholds):
    with pytest.raises(ValueError, match="an array needs affine"):
        geovit.segment(body(), model=thresholds)
    with pytest.raises(ValueError, match=r"an array of \(30, 26\) with an affine of \(4, 4\)"):
        geovit.segment(body()[..., 0], model=thresholds, affine=LPS)
    with pytest.raises(ValueError, match="affine is for arrays"):
        geovit.segment("a.nii", model=thresholds, affine=LPS)
    with pytest.raises(ValueError, match=r"is 4-D, with 2 channels or times; the model takes 3-D images of one channel"):
        geovit.segment(np.stack([body(), body()]), model=thresholds, affine=LPS)
    with pytest.raises(ValueError, match="max_memory is 0"):
        geovit.segment(body(), model=thresholds, affine=LPS, max_memory=0)
    with pytest.raises(ValueError, match="overlap is 1"):
        geovit.segment(body(), model=thresholds, affine=LPS, overlap=1)


def test_the_voxels_are_let_go_before_labels_are_mapped_back(thresholds, monkeypatch):
    seen = []
    kept = segmentation.labels_on
    monkeypatch.setattr(
        segmentation, "labels_on", lambda volume, labels, grid: seen.append(grid.voxels) or kept(volume, labels, grid)
    )
    geovit.segment(body(), model=thresholds, affine=LPS, device="cpu")
    assert seen[0].untyped_storage().nbytes() <= 4


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd"])
def test_a_label_map_has_the_grid_of_its_image(run, model, tmp_path, suffix):
    source = write(tmp_path / "a.nii.gz", body())
    if suffix == ".nrrd":
        import nrrd

        space = {"space": "left-posterior-superior", "space directions": (np.diag([-1, -1, 1]) @ LPS[:3, :3]).T}
        nrrd.write(str(tmp_path / "b.nrrd"), body(), {**space, "space origin": np.diag([-1, -1, 1]) @ LPS[:3, 3]})
    elif suffix == ".nii":
        write(tmp_path / "b.nii", body())
    source = source if suffix == ".nii.gz" else tmp_path / f"b{suffix}"
    code, printed, _ = run(source, "--model", model(), "--out", tmp_path / "new" / "out")
    assert code == 0
    name = f"{source.name.partition('.')[0]}_seg{'.nrrd' if suffix == '.nrrd' else '.nii.gz'}"
    found, image = open_volume(tmp_path / "new" / "out" / name), open_volume(source)
    np.testing.assert_allclose(found.affine, image.affine, atol=1e-6)
    assert found.size == image.size
    assert found.voxels.dtype.kind in "iu"
    assert set(np.unique(found.voxels)) <= {0, 1, 5}
    assert name in printed
    assert "soft ml" in printed


def test_real_ct_keeps_its_grid(run, model, data_dir, tmp_path):
    source = data_dir / "medical" / "totalsegmentator" / "example_ct.nii.gz"
    code, _, _ = run(source, "--model", model(spacing=(4.0, 4.0, 4.0)), "--out", tmp_path)
    assert code == 0
    found, image = nib.load(tmp_path / "example_ct_seg.nii.gz"), nib.load(source)
    assert (found.affine == image.affine).all()
    assert found.shape == image.shape
    assert nib.aff2axcodes(found.affine) == nib.aff2axcodes(image.affine)
    assert np.asarray(found.dataobj).dtype.kind in "iu"
    assert (tmp_path / "example_ct_seg.png").stat().st_size > 10_000


def test_a_dicom_series_keeps_its_grid(run, model, data_dir, tmp_path):
    source = data_dir / "medical" / "totalsegmentator_dicom_ct" / "series"
    code, _, errors = run(source, "--model", model(spacing=(4.0, 4.0, 4.0)), "--out", tmp_path)
    assert (code, errors) == (0, "")
    found, image = nib.load(tmp_path / "series_seg.nii.gz"), open_volume(source)
    assert found.shape == image.size == (512, 512, 20)
    np.testing.assert_allclose(found.affine, image.affine, atol=1e-4)
    truth = nib.load(source.parent / "example_seg_dicom.nii.gz")
    np.testing.assert_allclose(np.abs(found.affine[2, 2]), np.abs(truth.affine[2, 2]), atol=1e-4)  # 2 mm, not SliceThickness


def test_a_dicom_series_gives_a_dicom_seg_if_asked(run, model, data_dir, tmp_path):
    import pydicom

    source = data_dir / "medical" / "totalsegmentator_dicom_ct" / "series"
    options = ("--out", tmp_path / "out", "--format=dicom-seg", "--quicklook=false")
    code, printed, _ = run(source, "--model", model(spacing=(8.0, 8.0, 8.0)), *options)
    assert code == 0
    found = pydicom.dcmread(tmp_path / "out" / "series_seg.dcm", stop_before_pixels=True)
    assert found.Modality == "SEG"
    told = {segment.SegmentLabel for segment in found.SegmentSequence}
    assert told <= {"soft", "bone"}
    assert told
    assert "series_seg.dcm" in printed


def test_values_and_volumes_are_told(run, thresholds, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "open_segmenter", lambda *_: thresholds)
    monkeypatch.setattr(files, "model_file", lambda _: Path(__file__))  # a file, for the run card
    voxels = body()
    write(tmp_path / "a.nii.gz", voxels)
    code, printed, _ = run(tmp_path / "a.nii.gz", "--model=m", "--report", tmp_path / "r.json", "--quicklook=false")
    assert code == 0
    labels = np.asarray(nib.load(tmp_path / "a_seg.nii.gz").dataobj)
    millilitres = {"soft": (labels == 1).sum() * 0.9 * 1.1 * 2.5 / 1000, "bone": (labels == 5).sum() * 0.9 * 1.1 * 2.5 / 1000}
    report = json.loads((tmp_path / "r.json").read_text())
    (case,) = report["cases"]
    assert case["millilitres"] == pytest.approx(millilitres, abs=1e-3)
    assert f"{millilitres['soft']:.2f}" in printed
    assert case["status"] == "written"
    assert list(case["seconds"]) == ["read", "prepare", "network", "back", "write"]
    assert report["precision"] == "float32"
    assert report["peak_bytes"] > 0
    assert not (tmp_path / "a_seg.png").exists()


def test_the_volume_of_a_region_is_that_of_all_in_it(run, thresholds, tmp_path, monkeypatch):
    targets = Target(name="whole", values=(1, 2), output=1), Target(name="core", values=(2,), output=2)
    segmenter = replace(thresholds, network=Nested().eval(), plan=replace(PLAN, targets=targets, regions=True))
    monkeypatch.setattr(files, "open_segmenter", lambda *_: segmenter)
    monkeypatch.setattr(files, "model_file", lambda _: Path(__file__))  # a file, for the run card
    write(tmp_path / "a.nii.gz", body())
    assert run(tmp_path / "a.nii.gz", "--model=m", "--report", tmp_path / "r.json", "--quicklook=false")[0] == 0
    labels = np.asarray(nib.load(tmp_path / "a_seg.nii.gz").dataobj)
    (case,) = json.loads((tmp_path / "r.json").read_text())["cases"]
    each = 0.9 * 1.1 * 2.5 / 1000
    assert (labels == 1).any()
    assert (labels == 2).any()
    expected = {"whole": (labels > 0).sum() * each, "core": (labels == 2).sum() * each}
    assert case["millilitres"] == pytest.approx(expected, abs=1e-3)


def test_many_classes_are_lines(run, thresholds, tmp_path, monkeypatch):
    targets = (*PLAN.targets, *(Target(name=f"organ {n}", values=(n,), output=n) for n in range(10, 18)))

    class More(Thresholds):
        def forward(self, x):
            y = super().forward(x)
            return torch.cat([y, torch.full_like(y[:, :1], -9).expand(-1, 8, -1, -1, -1)], 1)

    wide = Segmenter(network=More().eval(), config=UNET, plan=replace(PLAN, targets=targets))
    monkeypatch.setattr(files, "open_segmenter", lambda *_: wide)
    monkeypatch.setattr(files, "model_file", lambda _: Path(__file__))  # a file, for the run card
    write(tmp_path / "a.nii.gz", body())
    _, printed, _ = run(tmp_path / "a.nii.gz", "--model=m", "--quicklook=false")
    assert "bone" in printed
    assert "organ 10" not in printed


def test_what_is_done_is_skipped_and_own_results_are_no_images(run, model, tmp_path):
    for name in "ab":
        write(tmp_path / f"{name}.nii.gz", body((20, 18, 16)))
    weights = model()
    assert run(tmp_path, "--model", weights, "--probabilities")[0] == 0
    made = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert {"a_seg.nii.gz", "a_prob.nii.gz", "a_seg.png", "b_seg.nii.gz"} <= set(made)
    write(tmp_path / "c.nii.gz", body((20, 18, 16)))
    code, printed, errors = run(tmp_path, "--model", weights)
    assert code == 0
    assert "2 of 3 exist and were skipped" in printed
    assert "a_seg.nii.gz exists and is skipped" in errors
    assert (tmp_path / "c_seg.nii.gz").exists()
    assert not (tmp_path / "a_seg_seg.nii.gz").exists()
    assert all((tmp_path / name).stat().st_mtime_ns == when for name, when in made.items())
    assert run(tmp_path, "--model", weights, "--overwrite")[0] == 0
    assert (tmp_path / "a_seg.nii.gz").stat().st_mtime_ns > made["a_seg.nii.gz"]
    # Of a single image nothing is left to do: that is an error.
    code, _, errors = run(tmp_path / "a.nii.gz", "--model", weights)
    assert code == 2
    assert "a_seg.nii.gz exists: pass --overwrite" in errors


def test_a_card_repeats_the_segmentation_of_its_image(run, model, tmp_path):
    for name in "ab":
        write(tmp_path / f"{name}.nii.gz", body((20, 18, 16)))
    weights = model()
    assert run(tmp_path, "--model", weights, "--overlap=0.25", "--report", tmp_path / "r.json")[0] == 0
    again = tmp_path / "again"
    code, _, errors = run("--from-card", tmp_path / "b_run.json", "--out", again)
    assert code == 0, errors
    assert {path.name for path in again.iterdir()} == {"b_seg.nii.gz", "b_seg.png", "b_run.json"}
    assert (nib.load(again / "b_seg.nii.gz").get_fdata() == nib.load(tmp_path / "b_seg.nii.gz").get_fdata()).all()
    # Where to write is never taken from a card, and other images than those of the card are told.
    card = json.loads((tmp_path / "b_run.json").read_text())
    card["parameters"]["report"] = str(tmp_path / "stolen.json")
    (tmp_path / "card.json").write_text(json.dumps(card))
    assert run("--from-card", tmp_path / "card.json", "--out", again, "--overwrite")[0] == 0
    assert not (tmp_path / "stolen.json").exists()
    write(tmp_path / "b.nii.gz", body((22, 18, 16)))
    code, _, errors = run("--from-card", tmp_path / "b_run.json", "--out", again, "--overwrite")
    assert code == 2
    assert "the run cannot be repeated" in errors


def test_a_bad_file_does_not_stop_the_others(run, model, tmp_path):
    whole = write(tmp_path / "a.nii.gz", body((20, 18, 16)))
    (tmp_path / "b.nii.gz").write_bytes(whole.read_bytes()[:-2000])
    nan = body((20, 18, 16)).astype(np.float32)
    nan[3, 4, 5] = np.nan
    write(tmp_path / "c.nii.gz", nan)
    write(tmp_path / "d.nii.gz", np.stack([body((20, 18, 16))] * 2, -1))
    write(tmp_path / "e.nii.gz", body((20, 18, 16)))
    code, printed, errors = run(tmp_path, "--model", model(), "--out", tmp_path / "out", "--report", tmp_path / "r.json")
    assert code == 2
    made = {f"{name}_{ending}" for name in "ae" for ending in ("seg.nii.gz", "seg.png", "run.json")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == made
    assert "3 of 5 failed:" in printed
    assert "1 voxels are NaN" in printed
    assert "is 4-D, with 2 channels or times" in printed
    assert errors.count("error: ") == 3
    statuses = [case["status"] for case in json.loads((tmp_path / "r.json").read_text())["cases"]]
    assert statuses == ["written", "failed", "failed", "failed", "written"]


class _Evil:
    def __reduce__(self):
        return os.system, ("touch owned",)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (
            lambda d: write(d / "x.nii", np.stack([body()] * 2, -1)),
            "is 4-D, with 2 channels or times; the model takes 3-D images",
        ),
        (lambda d: write(d / "x.nii", np.full((9, 9, 9), np.inf, np.float32)), "729 infinite"),
        (lambda d: (d / "x.nii").write_bytes(write(d / "y.nii", body()).read_bytes()[:3000]), "x.nii"),
        (lambda d: (d / "x.nii").write_text("no image"), "x.nii"),
        (lambda d: None, "x.nii"),
    ],
    ids=["4-D", "infinite", "truncated", "text", "missing"],
)
def test_a_bad_image_is_one_line_and_nothing_is_written(run, model, tmp_path, prepare, message):
    (tmp_path / "in").mkdir()
    prepare(tmp_path / "in")
    code, printed, errors = run(tmp_path / "in" / "x.nii", "--model", model(), "--out", tmp_path / "out")
    assert (code, printed) == (2, "")
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "out").exists(), "no empty folder either"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"weights": _Evil()}), "model"),
        (b"", "model"),
        (None, "no such file"),
    ],
    ids=["pickle", "empty", "missing"],
)
def test_a_bad_model_is_one_line(run, tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.nii", body((9, 9, 9)))
    if content is not None:
        (tmp_path / "model.pt").write_bytes(content)
    code, _, errors = run(tmp_path / "a.nii", "--model", tmp_path / "model.pt")
    assert code == 2
    assert message in errors.lower()
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "owned").exists()


def test_a_model_of_another_app_is_told(run, tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "m.safetensors", {"format": "geovit restorer 1"})
    write(tmp_path / "a.nii", body((9, 9, 9)))
    code, _, errors = run(tmp_path / "a.nii", "--model", tmp_path / "m.safetensors")
    assert code == 2
    assert "m.safetensors is no model of geovit fit medical" in errors


def test_channels_are_files_by_number_name_folder_or_axis(run, model, tmp_path):
    weights = model(("T1", "FLAIR"))
    one, other = body((20, 18, 16)), body((20, 18, 16))[::-1]
    places = {
        "numbers": ("a_0000.nii.gz", "a_0001.nii.gz"),
        "names": ("a-t1.nii.gz", "a-flair.nii.gz"),
        "folders/a": ("T1.nii.gz", "FLAIR.nii.gz"),
        "endings": ("a_x.nii.gz", "a_y.nii.gz"),
    }
    found = []
    for folder, names in places.items():
        (tmp_path / folder).mkdir(parents=True)
        for name, voxels in zip(names, (one, other), strict=True):
            write(tmp_path / folder / name, voxels)
        extra = ["--channels", "x,y"] if folder == "endings" else []
        out = tmp_path / f"out_{folder[:4]}"
        code, _, errors = run(tmp_path / folder.partition("/")[0], "--model", weights, "--out", out, "--quicklook=false", *extra)
        assert (code, errors) == (0, "")
        found.append(np.asarray(nib.load(out / "a_seg.nii.gz").dataobj))
    write(tmp_path / "a.nii.gz", np.stack([one, other], -1))
    assert run(tmp_path / "a.nii.gz", "--model", weights, "--out", tmp_path / "out")[0] == 0
    found.append(np.asarray(nib.load(tmp_path / "out" / "a_seg.nii.gz").dataobj))
    assert all((labels == found[0]).all() for labels in found)
    assert len(np.unique(found[0])) > 1


def test_wrong_channels_are_told(run, model, tmp_path):
    weights = model(("T1", "FLAIR"))
    write(tmp_path / "a.nii.gz", body((20, 18, 16)))
    code, _, errors = run(tmp_path / "a.nii.gz", "--model", weights)
    assert code == 2
    assert "a.nii.gz has a single channel, the model takes 2: T1, FLAIR" in errors
    for name in ("b_0000", "b_0001", "c_0000"):
        write(tmp_path / f"{name}.nii.gz", body((20, 18, 16)))
    code, _, errors = run(tmp_path, "--model", weights)
    assert code == 2
    assert "channel FLAIR is missing, a file that ends with _0001" in errors
    code, _, errors = run(tmp_path, "--model", weights, "--channels", "t1,t2,flair")
    assert code == 2
    assert "expected 2 different endings" in errors
    code, _, errors = run(tmp_path, "--model", weights, "--channels", "q,r")
    assert code == 2
    assert "no file name ends with any of _q, _r" in errors
    (tmp_path / "d").mkdir()
    write(tmp_path / "d" / "e_0000.nii.gz", body((20, 18, 16)))
    write(tmp_path / "d" / "e_0001.nii.gz", body((20, 18, 17)))
    code, _, errors = run(tmp_path / "d", "--model", weights)
    assert code == 2
    assert "e_0001.nii.gz is on another grid" in errors


def test_two_images_never_share_a_label_map(run, model, tmp_path):
    for folder in "xy":
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "a.nii.gz", body((9, 9, 9)))
    code, _, errors = run(tmp_path / "x", tmp_path / "y", "--model", model(), "--out", tmp_path / "out")
    assert code == 2
    assert "would both be written to" in errors
    assert not (tmp_path / "out").exists()


def test_a_single_slice_is_told_to_be_none_of_the_volumes_that_the_model_knows(run, model, tmp_path):
    image = write(tmp_path / "slice.nii.gz", body()[:, :, :1])
    code, _, told = run(image, "--model", model())
    assert code == 0
    assert "warning: " in told
    assert "slice.nii.gz is a single slice: the model was trained on volumes" in told


def test_dicom_seg_is_for_dicom(run, model, tmp_path):
    write(tmp_path / "a.nii.gz", body((9, 9, 9)))
    code, _, errors = run(tmp_path / "a.nii.gz", "--model", model(), "--format=dicom-seg")
    assert code == 2
    assert "a DICOM-SEG refers to a DICOM series" in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "model.safetensors"]


def test_probabilities_are_written_on_the_grid(run, model, tmp_path):
    write(tmp_path / "a.nii.gz", body((20, 18, 16)))
    assert run(tmp_path / "a.nii.gz", "--model", model(), "--probabilities")[0] == 0
    found = nib.load(tmp_path / "a_prob.nii.gz")
    assert found.shape == (20, 18, 16, 3)
    assert found.get_data_dtype() == np.float32
    np.testing.assert_allclose(found.affine, LPS, atol=1e-6)
    labels = np.asarray(nib.load(tmp_path / "a_seg.nii.gz").dataobj)
    assert (np.array([0, 1, 5])[np.asarray(found.dataobj).argmax(-1)] == labels).mean() > 0.99


def test_little_memory_is_told_before_anything_is_written(run, model, tmp_path):
    write(tmp_path / "a.nii.gz", body())
    code, _, errors = run(tmp_path / "a.nii.gz", "--model", model(), "--max_memory=0.05")
    assert code == 2
    assert "voxels need" in errors
    assert "allowed are 0.05 GB" in errors
    assert not (tmp_path / "a_seg.nii.gz").exists()


def test_an_interrupted_run_leaves_whole_files_only(model, tmp_path):
    (tmp_path / "in").mkdir()
    for index in range(20):
        write(tmp_path / "in" / f"{index:02}.nii.gz", body((40, 36, 30)))
    command = [sys.executable, "-m", "geovit", "segment", str(tmp_path / "in"), f"--model={model()}", f"--out={tmp_path / 'out'}"]
    process = subprocess.Popen([*command, "--quicklook=false", "--device=cpu"], stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 150
    while not any((tmp_path / "out").glob("*_seg.nii.gz")) and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    made = list((tmp_path / "out").glob("*.nii.gz"))
    assert 0 < len(made) < 20
    for path in made:
        assert nib.load(path).get_fdata().shape == (40, 36, 30)


def test_volumes_are_left_as_they_were(thresholds):
    voxels = body()[None]
    volume = Volume(voxels=voxels.copy(), affine=LPS)
    geovit.segment(volume, model=thresholds, device="cpu")
    assert (volume.voxels == voxels).all()
