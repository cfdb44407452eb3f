"""What --model takes: our files, the folder of a training, and MONAI's checkpoints with a plan."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.networks.nets import SwinUNETR as Monai

import geovit
from geovit.apps.cli import main
from geovit.apps.medical.evaluation import evaluate
from geovit.apps.medical.model import new_segmenter, save_segmenter
from geovit.apps.medical.models import model_file, open_segmenter, read_plan
from geovit.apps.medical.networks import NetworkConfig
from geovit.core.training.runs import BEST

AFFINE = np.diag([1.5, 1.5, 2.0, 1.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """MONAI's checkpoint of 14 outputs, a plan of one's own with small windows, an image and a label map."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    network = Monai(in_channels=1, out_channels=14, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
    torch.save({"state_dict": network.state_dict()}, folder / "model.pt")
    plan = replace(read_plan("btcv").plan, roi=(64, 32, 32), spacing=None)
    (folder / "own.yaml").write_text(yaml.safe_dump({"plan": plan.to_dict()}))
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / "cases" / kind).mkdir(parents=True)
    nib.save(nib.Nifti1Image(rng.integers(-200, 300, (64, 32, 32), np.int16), AFFINE), folder / "cases" / "images" / "a.nii.gz")
    nib.save(nib.Nifti1Image(rng.integers(0, 14, (64, 32, 32), np.uint8), AFFINE), folder / "cases" / "labels" / "a.nii.gz")
    return folder


@pytest.fixture
def fails(capsys):
    """The line that tells why a command fails; before it there is at most what has been read."""

    def fails(*arguments):
        assert main([*map(str, arguments)]) == 2
        _, errors = capsys.readouterr()
        *before, line = errors.splitlines()
        assert all(other.startswith("info: ") for other in before)
        assert line.startswith("geovit: ")
        return line

    return fails


def test_a_checkpoint_of_monai_segments_by_command_and_from_python(folder, tmp_path):
    model, image = folder / "model.pt", folder / "cases" / "images" / "a.nii.gz"
    options = [f"--plan={folder / 'own.yaml'}", "--merging_order=legacy", "--device=cpu"]
    report = tmp_path / "report.json"
    assert main(["segment", str(image), f"--model={model}", f"--out={tmp_path}", *options, f"--report={report}"]) == 0
    assert json.loads(report.read_text())["model"] == str(model)
    written = np.asarray(nib.load(tmp_path / "a_seg.nii.gz").dataobj)
    labels = geovit.segment(image, model=model, plan=folder / "own.yaml", merging_order="legacy", device="cpu")
    assert (labels == written).all()
    assert len(np.unique(labels)) > 2
    other = geovit.segment(image, model=model, plan=folder / "own.yaml", merging_order="fixed", device="cpu")
    assert (labels != other).any(), "the order matters"
    opened = open_segmenter(model, folder / "own.yaml", "legacy")
    assert (labels == geovit.segment(image, model=opened, device="cpu")).all()
    with pytest.raises(ValueError, match="leave them out"):
        geovit.segment(image, model=opened, plan="btcv")


def test_a_published_plan_has_a_name(folder, tmp_path):
    image = folder / "cases" / "images" / "a.nii.gz"
    options = [f"--model={folder / 'model.pt'}", "--plan=btcv", "--merging_order=legacy", "--device=cpu", "--quicklook=false"]
    assert main(["segment", str(image), *options, f"--out={tmp_path}"]) == 0
    assert nib.load(tmp_path / "a_seg.nii.gz").shape == (64, 32, 32)


def test_a_checkpoint_of_monai_is_evaluated(folder, tmp_path):
    out = tmp_path / "scores.json"
    options = [f"--plan={folder / 'own.yaml'}", "--merging_order=legacy", "--device=cpu", f"--out={out}"]
    assert main(["evaluate", "medical", str(folder / "cases"), f"--model={folder / 'model.pt'}", *options]) == 0
    report = json.loads(out.read_text())
    assert report["protocol"]["model"]["file"] == "model.pt"
    assert report["protocol"]["model"]["merging_order"].startswith("legacy: ")
    assert list(report["summary"])[:2] == ["spleen", "right kidney"]


@pytest.mark.parametrize("command", [("segment",), ("evaluate", "medical")], ids=" ".join)
def test_what_is_missing_or_wrong_is_told_in_a_line(folder, fails, tmp_path, command):
    data = folder / "cases" / ("images" if command == ("segment",) else "")
    given = [*command, data, "--model", folder / "model.pt", "--out", tmp_path / "scores.json"]
    legacy = "--merging_order=legacy"
    assert "no plan btvc: expected a file, or one of brats21, btcv" in fails(*given, "--plan=btvc", legacy)
    assert "tells no plan" in (told := fails(*given, legacy))
    assert "give plan, a file or brats21, btcv, btcv would fit" in told
    assert "the plan 4 channels, 3 outputs" in fails(*given, "--plan=brats21", legacy)
    assert "give merging_order, 'legacy' for weights trained with MONAI before 1.5" in fails(*given, "--plan=btcv")
    assert "--merging_order: expected legacy or fixed" in fails(*given, "--plan=btcv", "--merging_order=old")
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_training_stands_for_its_best_weights(folder, tmp_path, fails):
    run, image = tmp_path / "run", folder / "cases" / "images" / "a.nii.gz"
    run.mkdir()
    assert f"has no {BEST}: expected a model, or the folder that geovit fit medical wrote" in fails(
        "segment", image, "--model", run
    )
    unet = NetworkConfig(name="monai_unet", arguments={"channels": [4, 8], "strides": [2]})
    save_segmenter(run / BEST, new_segmenter(unet, read_plan(folder / "own.yaml").plan))
    assert model_file(run) == run / BEST
    assert main(["segment", str(image), "--model", str(run), "--out", str(tmp_path), "--device=cpu", "--quicklook=false"]) == 0
    written = np.asarray(nib.load(tmp_path / "a_seg.nii.gz").dataobj)
    assert (geovit.segment(image, model=run, device="cpu") == written).all()
    report = evaluate([str(folder / "cases")], model=run, device="cpu").report
    assert report["protocol"]["model"]["file"] == BEST
    told = fails("segment", image, "--model", run, "--plan=btcv")
    assert "is a model of geovit fit medical, which tells its plan and merging order: give neither" in told
    assert "no such file" in fails("segment", image, "--model", tmp_path / "absent")
    with pytest.raises(ValueError, match="plan and merging_order are of a model"):
        evaluate(["a", "b"], plan="btcv")
