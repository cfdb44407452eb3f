"""Fitting on small volumes: a ball in a ball, as two classes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from geovit.apps.cli import main
from geovit.apps.medical.adaptation import LoRAConfig, load_adapters
from geovit.apps.medical.augmentation import AugmentationConfig
from geovit.apps.medical.feeding import CropsConfig
from geovit.apps.medical.model import load_segmenter
from geovit.apps.medical.networks import NetworkConfig
from geovit.apps.medical.planning import Wishes
from geovit.apps.medical.task import SegmentationOptimizer
from geovit.apps.medical.training import ADAPTERS, fit
from geovit.core.training.records import METRICS
from geovit.core.training.runs import BEST
from geovit.datasets.cases import make_folds

UNET = NetworkConfig(name="monai_unet", arguments={"channels": [4, 8, 16], "strides": [2, 2], "dropout": 0.1})
SWIN = NetworkConfig(
    name="swin_unetr", arguments={"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 2], "window_size": 4}
)
QUICK = {
    "plan": Wishes(roi=(16, 16, 16)),
    "optimizer": SegmentationOptimizer(lr=1e-2, warmup=2, average=0.9),
    "augmentation": AugmentationConfig(affine=0.2, flip_axes=(0, 1, 2)),
    "folds": 3,
    "steps": 12,
    "check_every": 4,
}


LARGER = {**QUICK, "plan": Wishes(roi=(32, 32, 32)), "steps": 3, "check_every": 3}


def write_case(folder, number, *, classes=(1, 2), image=None):
    draw = np.random.default_rng(number)
    grid = np.stack(np.meshgrid(*(np.arange(size) for size in (22, 24, 20)), indexing="ij"))
    distance = np.sqrt(((grid - draw.uniform(8, 13, 3)[:, None, None, None]) ** 2).sum(0))
    label = np.select([distance < 3, distance < 6], [classes[-1], classes[0]], 0).astype(np.uint8)
    voxels = (100 + 60 * np.select([distance < 3, distance < 6], [2, 1], 0) + draw.normal(0, 10, label.shape)).astype(np.float32)
    for kind, array in (("images", voxels if image is None else image), ("labels", label)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / kind / f"case{number}.nii.gz")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    for number in range(6):
        write_case(folder, number)
    (folder / "labels.csv").write_text("1,shell\n2,core\n")
    return folder


@pytest.fixture(scope="module")
def swin(cases, tmp_path_factory):
    """A Swin UNETR to start from."""
    return fit(cases, tmp_path_factory.mktemp("swin"), SWIN, **LARGER).file


def rows(out):
    return [json.loads(line) for line in (out / METRICS).read_text().splitlines()]


def timeless(history):
    return [{key: value for key, value in row.items() if key != "minutes"} for row in history]


def same(a, b):
    first, second = (load_segmenter(path).network.state_dict() for path in (a, b))
    return all(torch.equal(first[name], second[name]) for name in first)


def test_command_learns_and_leaves_a_segmenter_and_what_it_follows_from(cases, tmp_path, capsys):
    recipe = {
        "network": {"name": "monai_unet", "arguments": UNET.arguments},
        "plan": {"roi": [16, 16, 16]},
        "optimizer": {"lr": 1e-2, "average": 0.9, "warmup": 5},
        "crops": {"batch": 4},
        "folds": 3,
        "steps": 60,
        "check_every": 30,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    out = tmp_path / "out"
    assert main(["fit", "medical", str(cases), "--config", str(tmp_path / "recipe.yaml"), "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert "in the validation" in told.out
    assert "step 30: loss" in told.err
    history = rows(out)
    assert [row["step"] for row in history] == [30, 60]
    assert history[-1]["dice"] > 0.6
    assert history[-1]["dice"] == pytest.approx(np.mean(list(history[-1]["targets"].values())))
    segmenter = load_segmenter(out / BEST)
    assert [target.name for target in segmenter.plan.targets] == ["shell", "core"]
    assert segmenter.facts["validation"]["dice"] == max(row["dice"] for row in history)
    assert segmenter.facts["fingerprint"]["cases"] == 4
    splits = json.loads((out / "splits.json").read_text())
    assert len(splits) == 3
    assert {case["name"] for case in json.loads((out / "fingerprint.json").read_text())["cases"]} == set(splits[0]["train"])
    assert json.loads((out / "plan.json").read_text())["roi"] == [16, 16, 16]
    assert isinstance(json.loads((out / "findings.json").read_text()), list)


def test_seeds_decide_and_decide_alone(cases, tmp_path):
    first, second, other = (
        fit(cases, tmp_path / name, UNET, **QUICK, seed=seed) for name, seed in (("first", 0), ("second", 0), ("other", 1))
    )
    assert timeless(first.history) == timeless(second.history)
    assert same(first.file, second.file)
    assert not same(first.file, other.file)
    splits = [(out / "splits.json").read_text() for out in (tmp_path / "first", tmp_path / "other")]
    assert splits[0] == splits[1], "the split is no matter of the seed"


@pytest.mark.parametrize("blow", ["error", "interrupt", "terminate"])
def test_resumed_is_as_if_uninterrupted(cases, tmp_path, monkeypatch, blow):
    whole = fit(cases, tmp_path / "whole", UNET, **QUICK)
    from geovit.apps.medical.task import SegmentationTask

    step, calls = SegmentationTask.training_step, []

    def failing(self, batch):
        calls.append(batch)
        if len(calls) == 7:
            if blow == "error":
                raise ZeroDivisionError
            os.kill(os.getpid(), {"interrupt": signal.SIGINT, "terminate": signal.SIGTERM}[blow])
        return step(self, batch)

    part = tmp_path / "part"
    with monkeypatch.context() as patch:
        patch.setattr(SegmentationTask, "training_step", failing)
        with pytest.raises({"error": ZeroDivisionError, "interrupt": KeyboardInterrupt, "terminate": SystemExit}[blow]):
            fit(cases, part, UNET, **QUICK)
    assert [row["step"] for row in rows(part)] == [4]
    resumed = fit(cases, part, UNET, **QUICK, resume=True)
    assert timeless(resumed.history) == timeless(whole.history) == timeless(rows(part))
    assert same(whole.file, resumed.file)


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_end(cases, tmp_path):
    arguments = [
        "--network.name=monai_unet",
        "--network.arguments={channels: [4, 8, 16], strides: [2, 2]}",
        "--plan.roi=[16,16,16]",
    ]
    options = [*arguments, "--folds=3", "--steps=60", "--check_every=4", "--optimizer.lr=0.01"]
    command = [sys.executable, "-m", "geovit", "fit", "medical", str(cases), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert main(["fit", "medical", str(cases), *options, "--out", str(whole)]) == 0
    with subprocess.Popen([*command, "--out", str(part)], cwd=tmp_path, env=environment) as process:
        deadline = time.monotonic() + 120
        while not (part / METRICS).is_file() or len(rows(part)) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
    assert main(["fit", "medical", str(cases), *options, "--out", str(part), "--resume"]) == 0
    assert timeless(rows(part)) == timeless(rows(whole))
    assert same(whole / BEST, part / BEST)
    assert not [path for path in part.iterdir() if path.name.startswith(".")]


def test_options_that_differ_are_not_resumed(cases, tmp_path):
    fit(cases, tmp_path, UNET, **QUICK)
    with pytest.raises(ValueError, match="was begun with seed 0, not 3"):
        fit(cases, tmp_path, UNET, **QUICK, seed=3, resume=True)
    with pytest.raises(ValueError, match="of an earlier training"):
        fit(cases, tmp_path, UNET, **QUICK)


def test_a_finished_training_resumes_to_what_it_was(cases, tmp_path):
    done = fit(cases, tmp_path, UNET, **QUICK)
    again = fit(cases, tmp_path, UNET, **QUICK, resume=True)
    assert again.best == done.best


def test_time_ends_a_training(cases, tmp_path):
    options = {**QUICK, "steps": 100_000, "check_every": 50_000}
    done = fit(cases, tmp_path, UNET, **options, minutes=0.05)
    assert 0.05 <= done.minutes < 1
    assert len(done.history) == 1
    assert 0 < done.history[0]["step"] < 100_000
    assert done.file.is_file()


def test_epochs_are_told_in_steps(cases, tmp_path):
    done = fit(cases, tmp_path, UNET, **{**QUICK, "steps": 99}, epochs=3, crops=CropsConfig(batch=1, accumulate=2))
    assert done.history[-1]["step"] == 6


def test_one_case_trains_without_validation(tmp_path, caplog):
    write_case(tmp_path / "data", 0)
    done = fit(tmp_path / "data", tmp_path / "out", UNET, **QUICK)
    assert "no case validates" in caplog.text
    assert done.best is None
    assert load_segmenter(done.file).facts["validation"]["step"] == 12
    again = fit(tmp_path / "data", tmp_path / "out", UNET, **QUICK, resume=True)
    assert again.best is None


def test_a_class_that_no_validation_case_has_does_not_count(tmp_path):
    for number in range(4):
        write_case(tmp_path / "data", number, classes=(1, 1) if number < 1 else (1, 2))
    (tmp_path / "data" / "labels.csv").write_text("1,shell\n2,core\n")
    fold = [split.validation for split in make_folds([f"case{n}" for n in range(4)], 4)].index(("case0",))
    options = {**QUICK, "folds": 4, "steps": 40, "check_every": 40}
    done = fit(tmp_path / "data", tmp_path / "out", UNET, **options, fold=fold)
    assert json.loads((tmp_path / "out" / "splits.json").read_text())[fold]["val"] == ["case0"]
    assert done.targets["shell"] is not None
    known = [value for value in done.targets.values() if value is not None]
    assert done.best == pytest.approx(sum(known) / len(known))


def test_heads_for_other_classes_start_anew_and_this_is_told(cases, swin, tmp_path, caplog):
    folder = tmp_path / "data"
    for number in range(6):
        write_case(folder, number, classes=(1, 1))
    done = fit(folder, tmp_path / "second", start=swin, **LARGER)
    assert "start at random: out.conv.conv.weight, out.conv.conv.bias" in caplog.text
    assert "segments shell, core; this training 1" in caplog.text
    segmenter = load_segmenter(done.file)
    assert segmenter.config.arguments["feature_size"] == 12, "the network is that of the start"
    assert segmenter.plan.outputs == 2
    with pytest.raises(ValueError, match="of the weights of this"):
        fit(cases, tmp_path / "third", UNET, start=swin, **QUICK)


@pytest.mark.parametrize("decoder", [True, False])
def test_adapters_merge_and_are_a_small_file_of_their_own(cases, swin, tmp_path, decoder):
    done = fit(cases, tmp_path / "second", start=swin, lora=LoRAConfig(rank=2, decoder=decoder), **LARGER)
    before, after = load_segmenter(swin), load_segmenter(done.file)
    frozen = "swinViT.patch_embed.proj.weight"
    old, new = before.network.state_dict(), after.network.state_dict()
    assert torch.equal(old[frozen], new[frozen])
    assert not torch.equal(old["swinViT.layers1.0.blocks.0.attn.qkv.weight"], new["swinViT.layers1.0.blocks.0.attn.qkv.weight"])
    assert torch.equal(old["decoder1.conv_block.conv1.conv.weight"], new["decoder1.conv_block.conv1.conv.weight"]) != decoder
    assert load_adapters(tmp_path / "second" / ADAPTERS, before.network) == 16
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(before.network.eval()(x), after.network(x), atol=1e-5, rtol=0)
    if not decoder:
        assert (tmp_path / "second" / ADAPTERS).stat().st_size < done.file.stat().st_size / 10


def test_adapters_need_weights_to_adapt(cases, tmp_path):
    with pytest.raises(ValueError, match="give a checkpoint to start from"):
        fit(cases, tmp_path, SWIN, lora=LoRAConfig(rank=2), **QUICK)
    first = fit(cases, tmp_path / "unet", UNET, **QUICK)
    with pytest.raises(ValueError, match="LoRA adapts the part swinViT of a Swin UNETR: UNet has model"):
        fit(cases, tmp_path / "new", start=first.file, lora=LoRAConfig(rank=2), **QUICK)


def test_bfloat16_and_accumulation_train_too(cases, tmp_path):
    from geovit.core.training.hardware import HardwareConfig

    hardware = HardwareConfig(accelerator="cpu", precision="bf16")
    options = {**QUICK, "steps": 40, "check_every": 20}
    done = fit(cases, tmp_path, UNET, hardware=hardware, crops=CropsConfig(batch=2, accumulate=2), **options)
    assert done.history[1]["loss"] < done.history[0]["loss"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folds=9"], "9 folds of 6"),
        (["--plan.multiple=24"], "multiple is 24: the network swin_unetr wants a ROI in multiples of 32"),
        (["--fold=5"], "fold is 5: allowed are 0 to 4"),
        (["--network.name=monai_unett"], "unknown network 'monai_unett'"),
        (["--steps=0"], "steps 0: allowed are numbers from 1 on"),
        (["--start=nowhere.safetensors"], "no such file: nowhere.safetensors"),
        (["--crops.batch=0"], "geovit: batch 0"),
        (["--network={nam: swin_unetr}"], "Option 'nam' is not accepted"),
        (["--plan.roi=[15,15,15]", "--network.name=monai_unet"], "ROI 15 x 15 x 15"),
        (["--lora.rank=4"], "give a checkpoint to start from"),
    ],
)
def test_wrong_options_are_told_in_a_line_and_nothing_is_written(cases, tmp_path, capsys, options, message):
    assert main(["fit", "medical", str(cases), "--out", str(tmp_path / "out"), *options]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("geovit: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not {"Union", "class_path", "Namespace"} & set(errors[0].replace("'", " ").split())
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_told_before_cases_are_read(cases, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["fit", "medical", str(cases), "--out", str(tmp_path / "file" / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"cannot be a folder for results: {tmp_path / 'file'} is a file")


def test_cases_that_cannot_be_learned_from_are_told_before_anything_is_written(tmp_path, capsys):
    for number in range(3):
        write_case(tmp_path / "data", number)
    broken = np.full((22, 24, 20), np.nan, dtype=np.float32)
    write_case(tmp_path / "data", 3, image=broken)
    assert main(["fit", "medical", str(tmp_path / "data"), "--folds=2", "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "case3" in line
    assert not (tmp_path / "out").exists()
    assert main(["fit", "medical", str(Path("nowhere")), "--out", str(tmp_path / "out")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_published_layouts_start_a_training_with_their_own_network(cases, swin, tmp_path, caplog):
    network = load_segmenter(swin).network
    torch.save({"state_dict": network.state_dict()}, tmp_path / "monai.pt")
    with pytest.raises(ValueError, match="give merging_order"):
        fit(cases, tmp_path / "out", start=tmp_path / "monai.pt", **LARGER)
    asked = NetworkConfig(arguments={**SWIN.arguments, "merging_order": "legacy"})
    done = fit(cases, tmp_path / "out", asked, start=tmp_path / "monai.pt", **{**LARGER, "steps": 1})
    assert load_segmenter(done.file).config.arguments["merging_order"] == "legacy"
    assert "none missing" in caplog.text
    wrong = NetworkConfig(arguments={**SWIN.arguments, "merging_order": "fixed"})
    with pytest.raises(ValueError, match="was trained with merging_order 'legacy', not 'fixed'"):
        fit(cases, tmp_path / "other", wrong, start=done.file, **LARGER)
    again = fit(cases, tmp_path / "again", SWIN, start=done.file, **{**LARGER, "steps": 1})
    assert load_segmenter(again.file).config.arguments["merging_order"] == "legacy", "an order is never lost"
