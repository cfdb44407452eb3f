"""The MONAI bundle: trained, evaluated and used by MONAI itself, with weights that load on either side."""

import csv
import hashlib
import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import ignite.distributed
import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow, run, verify_metadata, verify_net_in_out
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import CheckpointLoader, CheckpointSaver, MeanDice, from_engine
from monai.inferers import SlidingWindowInferer
from monai.losses import DiceCELoss
from monai.networks import nets
from monai.transforms import AsDiscreted

from geovit.apps.cli import main
from geovit.apps.medical import SwinUNETR
from geovit.apps.medical.evaluation import evaluate

pytestmark = [
    pytest.mark.filterwarnings("ignore:parsing config_file"),  # can run code: MONAI says it of every configuration, ours too
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader"),  # a library for GPUs that MONAI misses, for DICOM
]
BUNDLE = files("geovit.configs") / "medical" / "swin_unetr"
AFFINE = np.array([[-1.5, 0.1, 0, 30], [0.1, 0, 2.0, -10], [0, 1.4, 0, 5], [0, 0, 0, 1]])  # oblique, axes swapped and turned
TINY = {
    "classes": 3,
    "feature_size": 12,
    "roi": [64, 32, 32],
    "crops": 1,
    "folds": 3,
    "workers": 0,
    "val_interval": 1,
    "logging_file": False,
}


def config(*names):
    return [str(BUNDLE / "configs" / f"{name}.json") for name in names]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three labelled cases and one without label."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir()
    for number in range(3):
        labels = np.zeros((34, 30, 26 + number), np.uint8)
        labels[5:15, 6:16, 5:15], labels[18:28, 10:20, 10:20] = 1, 2
        image = (labels * 80 + np.random.default_rng(number).normal(0, 20, labels.shape)).astype(np.float32)
        nib.save(nib.Nifti1Image(labels, AFFINE), folder / "labelsTr" / f"c{number}.nii.gz")
        nib.save(nib.Nifti1Image(image, AFFINE), folder / "imagesTr" / f"c{number}.nii.gz")
    nib.save(nib.Nifti1Image(image, AFFINE), folder / "imagesTs" / "t.nii.gz")
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A folder in which the bundle was trained for an epoch, and for another after a stop."""
    out = tmp_path_factory.mktemp("bundle")
    options = {**TINY, "bundle_root": str(out), "dataset_dir": str(data)}
    run(config_file=config("train"), epochs=1, **options)
    run(config_file=config("train"), epochs=2, resume=True, **options)
    return out


def test_training_goes_on_after_a_stop_and_keeps_the_best_weights(trained):
    models = trained / "models"
    assert {path.name for path in models.iterdir()} == {"model.pt", "checkpoint_epoch=1.pt", "checkpoint_epoch=2.pt"}
    first, second = (torch.load(models / f"checkpoint_epoch={n}.pt", weights_only=True) for n in (1, 2))
    assert second.keys() == {"model", "optimizer", "lr_scheduler", "trainer"}
    assert (first["lr_scheduler"]["last_epoch"], second["lr_scheduler"]["last_epoch"]) == (1, 2)
    assert not torch.equal(first["model"]["out.conv.conv.weight"], second["model"]["out.conv.conv.weight"])


def test_the_best_weights_load_in_monai_and_here(trained):
    state = torch.load(trained / "models" / "model.pt", weights_only=True)
    here = SwinUNETR(1, 3, feature_size=12, merging_order="fixed")
    there = nets.SwinUNETR(in_channels=1, out_channels=3, feature_size=12)
    here.load_state_dict(state, strict=True)
    there.load_state_dict(state, strict=True)
    x = torch.randn(1, 1, 64, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(here.eval()(x), there.eval()(x), atol=1e-4, rtol=0)


def test_evaluation_is_on_the_images_own_grid_and_agrees_with_ours(trained, data):
    run(config_file=config("train", "evaluate"), bundle_root=str(trained), dataset_dir=str(data), **TINY)
    written = trained / "eval" / "c0_seg.nii.gz"
    check_grid(written, data / "imagesTr" / "c0.nii.gz")
    told = dict(line.split(",") for line in (trained / "eval" / "metrics.csv").read_text().splitlines())
    ours = evaluate([str(written), str(data / "labelsTr" / "c0.nii.gz")], empty="monai").report["summary"]["mean"]["dice"]
    assert float(told["val_mean_dice"]) == pytest.approx(ours["mean"], abs=1e-6)
    rows = list(csv.DictReader((trained / "eval" / "val_mean_dice_raw.csv").read_text().splitlines()))
    assert rows[0]["filename"].endswith("c0.nii.gz")


def check_grid(written, image):
    made, given = nib.load(written), nib.load(image)
    assert made.shape == given.shape
    np.testing.assert_allclose(made.affine, given.affine, atol=1e-5)
    assert made.get_data_dtype() == np.uint8
    assert set(np.unique(made.dataobj)) <= {0, 1, 2}


def test_inference_writes_label_maps_on_the_images_own_grid(trained, data):
    options = {key: TINY[key] for key in ("classes", "feature_size", "roi", "workers", "logging_file")}
    run(config_file=config("inference"), bundle_root=str(trained), dataset_dir=str(data), **options)
    check_grid(trained / "predictions" / "t_seg.nii.gz", data / "imagesTs" / "t.nii.gz")


def test_two_runs_with_one_seed_agree(trained, data, tmp_path):
    run(config_file=config("train"), epochs=1, bundle_root=str(tmp_path), dataset_dir=str(data), **TINY)
    one, two = (torch.load(root / "models" / "checkpoint_epoch=1.pt", weights_only=True)["model"] for root in (trained, tmp_path))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_several_processes_train_it(data, tmp_path, monkeypatch):
    for key, value in {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29511",
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
    }.items():
        monkeypatch.setenv(key, value)
    options = {
        **TINY,
        "bundle_root": str(tmp_path),
        "dataset_dir": str(data),
        "device": "$torch.device('cpu')",
        "backend": "gloo",
    }
    try:
        run(config_file=config("train", "multi_gpu_train"), epochs=1, **options)
    finally:
        ignite.distributed.sync()  # there are no processes any more
    assert not torch.distributed.is_initialized()
    state = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    SwinUNETR(1, 3, feature_size=12).load_state_dict(state, strict=True)


@pytest.mark.parametrize(("kind", "name"), [("train", "train"), ("infer", "inference")])
def test_configurations_have_what_monais_applications_ask_for(kind, name, data):
    options = {"dataset_dir": str(data), "feature_size": 12, "folds": 3, "workers": 0, "cache_rate": 0.0, "logging_file": False}
    workflow = ConfigWorkflow(workflow_type=kind, config_file=config(name), meta_file=config("metadata"), **options)
    workflow.initialize()
    assert not workflow.check_properties()
    settings = json.loads(Path(*config(name)).read_text())
    wanted = {"bundle_root", "device", "network_def", "initialize", "run"}
    assert wanted | ({"output_dir", "inferer"} if kind == "infer" else {"dataset_dir", "val_interval"}) <= settings.keys()
    assert settings["network_def"]["_target_"] == "geovit.apps.medical.SwinUNETR"


def test_training_and_inference_have_the_same_settings():
    train, inference = (json.loads(Path(*config(name)).read_text()) for name in ("train", "inference"))
    for key in ("channels", "classes", "feature_size", "merging_order", "roi", "orientation", "spacing", "normalise"):
        assert train[key] == inference[key]


def test_metadata_passes_verification(tmp_path):
    # What the schema of 2024-07-25 asks for; MONAI downloads it only if it is not there.
    words = (
        "schema",
        "version",
        "monai_version",
        "pytorch_version",
        "numpy_version",
        "task",
        "description",
        "authors",
        "copyright",
    )
    objects = ("required_packages_version", "network_data_format", "changelog", "eval_metrics")
    tensor = {"type": "object", "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"]}
    schema = {
        "type": "object",
        "properties": {
            **{word: {"type": "string"} for word in words},
            **{word: {"type": "object"} for word in objects},
            "network_data_format": {"type": "object", "additionalProperties": {"additionalProperties": tensor}},
        },
        "required": [*words, "required_packages_version", "network_data_format"],
    }
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(schema))
    verify_metadata(*config("metadata"), filepath=file, hash_val=md5(file))
    metadata = json.loads(Path(*config("metadata")).read_text())
    file.write_text(json.dumps({**schema, "required": ["nothing"]}))
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(*config("metadata"), filepath=file, hash_val=md5(file))
    assert metadata["schema"].startswith("https://")


def md5(file):
    return hashlib.md5(file.read_bytes()).hexdigest()


def test_the_network_takes_and_gives_what_the_metadata_says():
    small = {"feature_size": 12, "_meta_#network_data_format#inputs#image#spatial_shape": [64, 32, 32]}
    small["_meta_#network_data_format#outputs#pred#spatial_shape"] = [64, 32, 32]
    verify_net_in_out("network_def", *config("metadata"), config("inference"), device="cpu", **small)


def test_a_copy_for_the_user(tmp_path, capsys):
    out = tmp_path / "made" / "mine"
    assert main(["bundle", str(out)]) == 0
    assert "python -m monai.bundle run" in capsys.readouterr().out
    made = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert made == {path.relative_to(BUNDLE).as_posix() for path in Path(str(BUNDLE)).rglob("*") if path.is_file()}
    assert main(["bundle", str(out)]) == 2
    assert "exists: expected the name of a folder to make" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_line_of_monai_runs_a_copy(trained, data, tmp_path):
    main(["bundle", str(tmp_path / "mine")])
    (tmp_path / "mine" / "models" / "model.pt").write_bytes((trained / "models" / "model.pt").read_bytes())
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json", "--dataset_dir", str(data)]
    command += ["--classes", "3", "--feature_size", "12", "--roi", "[64,32,32]", "--workers", "0"]
    subprocess.run([*command, "--logging_file", "configs/logging.conf"], cwd=tmp_path / "mine", check=True, capture_output=True)
    check_grid(tmp_path / "mine" / "predictions" / "t_seg.nii.gz", data / "imagesTs" / "t.nii.gz")


def batches():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 1, 64, 32, 32, generator=generator)
    return DataLoader([{"image": image, "label": (image > 0.5).float()} for image in images], batch_size=1, num_workers=0)


def test_monais_trainer_learns_the_same_with_either_network(tmp_path):
    losses, states = [], []
    there = nets.SwinUNETR(in_channels=1, out_channels=2, feature_size=12)
    here = SwinUNETR(1, 2, feature_size=12, merging_order="fixed")
    here.load_state_dict(there.state_dict())
    for network, name in ((there, "there"), (here, "here")):
        trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=1,
            train_data_loader=batches(),
            network=network,
            optimizer=torch.optim.SGD(network.parameters(), lr=0.01),
            loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
            train_handlers=[
                CheckpointSaver(str(tmp_path), {"model": network}, save_final=True, final_filename=f"{name}.pt"),
            ],
        )
        told: list[float] = []
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda engine, told=told: told.append(engine.state.output[0]["loss"])
        )
        trainer.run()
        losses.append(told)
        states.append(torch.load(tmp_path / f"{name}.pt", weights_only=True))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert states[0].keys() == states[1].keys()

    # Each is evaluated with the weights that the other learnt.
    dice = []
    for network, file in ((there, "here"), (here, "there")):
        evaluator = SupervisedEvaluator(
            device="cpu",
            val_data_loader=batches(),
            network=network,
            inferer=SlidingWindowInferer((64, 32, 32), overlap=0, mode="gaussian"),
            postprocessing=AsDiscreted(keys=["pred", "label"], argmax=[True, False], to_onehot=2),
            key_val_metric={"dice": MeanDice(include_background=False, output_transform=from_engine(["pred", "label"]))},
            val_handlers=[CheckpointLoader(str(tmp_path / f"{file}.pt"), {"model": network})],
        )
        evaluator.run()
        dice.append(evaluator.state.metrics["dice"])
    assert dice[0] == pytest.approx(dice[1], abs=1e-3)
