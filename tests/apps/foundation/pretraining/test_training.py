"""Pretraining on small made-up places, as two sensors see them."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml

from geovit.apps.cli import main
from geovit.apps.foundation.embedder import Embedder, Tiling
from geovit.apps.foundation.pretraining.augmentation import AugmentationConfig
from geovit.apps.foundation.pretraining.autoencoder import AutoencoderConfig
from geovit.apps.foundation.pretraining.distillation import DistillationConfig
from geovit.apps.foundation.pretraining.feeding import CropsConfig, measured
from geovit.apps.foundation.pretraining.task import PretrainingOptimizer, PretrainingTask
from geovit.apps.foundation.pretraining.training import FINAL, PICTURES, PlacesConfig, pretrain
from geovit.core.sensors.encoder import EncoderConfig
from geovit.core.sensors.model import load_model
from geovit.core.sensors.normalization import Normalization
from geovit.core.training.hardware import HardwareConfig
from geovit.core.training.records import METRICS
from geovit.core.training.runs import BEST
from geovit.datasets import open_image
from geovit.datasets.collections import open_collection
from geovit.datasets.synthetic_places import synthesize_places

ENCODER = EncoderConfig(dim=32, depth=1, heads=2, patch=8)
DECODER = AutoencoderConfig(dim=16, depth=1, heads=2)
CONTEXT = AutoencoderConfig(pixels=0.0, context=1.0, sides=(1, 3))
QUICK = {
    "crops": CropsConfig(size=32, batch=4, checked=4),
    "augmentation": AugmentationConfig(bands=0.5, gain=0.1, offset=0.1),
    "optimizer": PretrainingOptimizer(lr=3e-3, warmup=2, average=0.9),
    "hardware": HardwareConfig(accelerator="cpu"),
    "steps": 6,
    "check_every": 2,
}
OPTIONS = [
    "--encoder.dim=32", "--encoder.depth=1", "--encoder.heads=2", "--encoder.patch=8",
    "--autoencoder.dim=16", "--autoencoder.depth=1", "--autoencoder.heads=2",
    "--crops.size=32", "--crops.checked=4", "--hardware.accelerator=cpu", "--optimizer.warmup=2",
]  # fmt: skip
TIMES = ("minutes", "samples_per_second", "tokens_per_second")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    synthesize_places(folder, places=4, size=48)
    return folder


def run(data, out, decoder=DECODER, **options):
    return pretrain(data, out, ENCODER, decoder, **{**QUICK, **options})


def rows(out):
    return [json.loads(line) for line in (out / METRICS).read_text().splitlines()]


def timeless(history):
    return [{key: value for key, value in row.items() if key not in TIMES} for row in history]


def weights(path):
    model = load_model(path)
    return {**model.encoder.state_dict(), **model.normalization.state_dict()}


def same(a, b):
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_command_learns_and_leaves_an_encoder(places, tmp_path, capsys):
    recipe = {
        "encoder": {"dim": 32, "depth": 1, "heads": 2, "patch": 8},
        "autoencoder": {"dim": 16, "depth": 1, "heads": 2},
        "crops": {"size": 32, "batch": 8},
        "optimizer": {"lr": 3e-3, "average": 0.9, "warmup": 5},
        "steps": 60,
        "check_every": 30,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    out = tmp_path / "out"
    assert main(["pretrain", str(places), "--config", str(tmp_path / "recipe.yaml"), "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert "samples/s" in told.out
    assert "step 30: loss" in told.err
    history = rows(out)
    assert [row["step"] for row in history] == [30, 60]
    assert history[1]["validation"] < history[0]["validation"]
    assert history[1]["loss"] < history[0]["loss"]
    assert history[1]["sensors"].keys() == {"sentinel-1-rtc+sentinel-2-l2a"}
    assert all(history[1][key] > 0 for key in TIMES)
    assert history[1]["tokens_per_second"] == pytest.approx(history[1]["samples_per_second"] * 32, rel=0.01)
    model = load_model(out / FINAL)
    assert model.facts["sensors"] == ["sentinel-1-rtc", "sentinel-2-l2a"]
    assert model.facts["validation"]["step"] == 60
    assert Embedder(model, layer="last", tiling=Tiling(), device="cpu", precision="fp32").tile == model.facts["size"] == 32
    assert same(out / FINAL, out / BEST)
    pair = "sentinel-1-rtc+sentinel-2-l2a"
    pictures = {path.stem: open_image(path).pixels for path in (out / PICTURES).iterdir()}
    assert pictures.keys() == {f"{pair}_sentinel-1-rtc", f"{pair}_sentinel-2-l2a"}
    assert {pixels.shape for pixels in pictures.values()} == {(4 * 32 + 6, 3 * 32 + 4, 3)}


def test_places_held_out_touch_neither_weights_nor_normalisation(places, tmp_path):
    options = {"places": PlacesConfig(validation_places=["place2"], leave_out=["place3"])}
    done = run(places, tmp_path / "a", **options)
    model = load_model(done.file)
    assert model.facts["places"] == ["place0", "place1"]
    collection = open_collection(places)
    expected = Normalization.fitted(measured(collection.subset(["place0", "place1"]), "raise"))
    assert torch.equal(model.normalization.mean, expected.mean)
    changed = tmp_path / "changed"
    for source in places.glob("*/*.tif"):
        target = changed / source.relative_to(places)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((source.with_stem("place1") if source.stem in ("place2", "place3") else source).read_bytes())
    again = run(changed, tmp_path / "b", **options)
    assert same(done.file, again.file)
    assert [row["validation"] for row in again.history] != [row["validation"] for row in done.history]


def test_seeds_decide_and_decide_alone(places, tmp_path):
    first, second, other = (run(places, tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert timeless(first.history) == timeless(second.history)
    assert same(first.file, second.file)
    assert not same(first.file, other.file)


@pytest.mark.parametrize("decoder", [DECODER, CONTEXT], ids=["pixels", "context"])
def test_resumed_is_as_if_uninterrupted(places, tmp_path, monkeypatch, decoder):
    options = {
        "decoder": decoder,
        "crops": CropsConfig(size=32, batch=2, accumulate=2, checked=2),
        "distillation": DistillationConfig(weight=0.5),
    }
    whole = run(places, tmp_path / "whole", **options)
    step, calls = PretrainingTask.training_step, []

    def failing(self, batch):
        calls.append(batch)
        if len(calls) == 7:
            raise ZeroDivisionError
        return step(self, batch)

    part = tmp_path / "part"
    with monkeypatch.context() as patch:
        patch.setattr(PretrainingTask, "training_step", failing)
        with pytest.raises(ZeroDivisionError):
            run(places, part, **options)
    assert [row["step"] for row in rows(part)] == [2]
    resumed = run(places, part, **options, resume=True)
    assert timeless(resumed.history) == timeless(whole.history) == timeless(rows(part))
    assert same(whole.file, resumed.file)
    with pytest.raises(ValueError, match="was begun with seed 0, not 3"):
        run(places, part, **options, seed=3, resume=True)
    with pytest.raises(ValueError, match="of an earlier training"):
        run(places, part, **options)


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_end(places, tmp_path):
    options = [*OPTIONS, "--crops.batch=2", "--steps=40", "--check_every=4"]
    command = [sys.executable, "-m", "geovit", "pretrain", str(places), *options]
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert main(["pretrain", str(places), *options, "--out", str(whole)]) == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*command, "--out", str(part)], cwd=tmp_path, env=environment) as process:
        deadline = time.monotonic() + 120
        while not (part / METRICS).is_file() or len(rows(part)) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert len(rows(part)) < 10
    assert main(["pretrain", str(places), *options, "--out", str(part), "--resume"]) == 0
    assert timeless(rows(part)) == timeless(rows(whole))
    assert same(whole / FINAL, part / FINAL)
    assert same(whole / BEST, part / BEST)


def test_two_processes_give_the_curve_of_one_with_the_same_global_batch(places, tmp_path):
    # All ways to spread in one launch: most of its time is that of Python and its imports.
    still = ["--steps=3", "--check_every=1", "--optimizer.average=0", "--crops.together=1"]
    context = ["--autoencoder.context=1", "--autoencoder.pixels=0"]
    cases = {"ddp": [], "fsdp": [], "ddp with context": context}

    def command(out: str, *options: str) -> list[str]:
        return ["pretrain", str(places), *OPTIONS, *still, *options, "--out", str(tmp_path / out)]

    for out, target in (("one", []), ("one with context", context)):
        assert main(command(out, "--crops.batch=4", *target)) == 0
    spread = ["--hardware.devices=2", "--crops.batch=2"]
    commands = [command(name, f"--hardware.strategy={name.split()[0]}", *spread, *target) for name, target in cases.items()]
    script = tmp_path / "all.py"
    script.write_text(f"from geovit.apps.cli import main\nfor command in {commands!r}:\n    assert main(command) == 0\n")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("samples/s") == len(cases), "one process speaks"
    for name, target in cases.items():
        alone = tmp_path / ("one with context" if target else "one")
        one, first = rows(alone), weights(alone / FINAL)
        other, second = rows(tmp_path / name), weights(tmp_path / name / FINAL)
        assert [row["step"] for row in one] == [row["step"] for row in other] == [1, 2, 3]
        for key in ("loss", "validation"):
            assert [row[key] for row in other] == pytest.approx([row[key] for row in one], abs=1e-4)
        assert second.keys() == first.keys()
        for weight, value in first.items():
            torch.testing.assert_close(second[weight], value, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_slurm_job_of_two_nodes_trains_as_one(places, tmp_path):
    # As srun starts it: a process on each node, which knows of the others by the environment alone.
    options = [*OPTIONS, "--steps=2", "--check_every=1", "--optimizer.average=0", "--crops.together=1"]
    assert main(["pretrain", str(places), *options, "--crops.batch=4", "--out", str(tmp_path / "one")]) == 0
    command = [
        sys.executable, "-m", "geovit", "pretrain", str(places), *options, "--crops.batch=2",
        "--hardware.strategy=ddp", "--hardware.nodes=2", "--out", str(tmp_path / "two"),
    ]  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {
        "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "127.0.0.1", "SLURM_NNODES": "2", "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1", "SLURM_LOCALID": "0", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    tasks = [
        subprocess.Popen(
            command, cwd=tmp_path, env={**os.environ, **job, "SLURM_PROCID": rank, "SLURM_NODEID": rank},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    said = [task.communicate(timeout=300) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert ["samples/s" in out for out, _ in said] == [True, False], "one process speaks"
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], abs=1e-4)
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("one", "two")] == []


@pytest.mark.parametrize("decoder", [DECODER, CONTEXT], ids=["pixels", "context"])
def test_passes_that_are_gathered_give_the_curve_of_one_large_pass(places, tmp_path, decoder):
    still = {"augmentation": AugmentationConfig(), "decoder": decoder}
    large = run(places, tmp_path / "large", **still, crops=CropsConfig(size=32, batch=4, checked=4))
    small = run(places, tmp_path / "small", **still, crops=CropsConfig(size=32, batch=2, accumulate=2, checked=4))
    assert [row["loss"] for row in small.history] == pytest.approx([row["loss"] for row in large.history], abs=1e-4)


def test_bfloat16_trains(places, tmp_path):
    hardware = HardwareConfig(accelerator="cpu", precision="bf16")
    done = run(places, tmp_path, hardware=hardware, steps=40, check_every=20)
    assert done.history[1]["loss"] < done.history[0]["loss"]


def test_time_ends_a_training(places, tmp_path):
    done = run(places, tmp_path, steps=100_000, check_every=50_000, minutes=0.02)
    assert 0.02 <= done.minutes < 1
    assert len(done.history) == 1
    assert 0 < done.history[0]["step"] < 100_000
    assert done.file.is_file()


def test_sensors_are_shown_one_at_a_time_or_together(places, tmp_path):
    alone = run(places, tmp_path / "alone", crops=CropsConfig(size=32, batch=2, together=1, order="random", checked=2))
    assert alone.history[0]["sensors"].keys() == {"sentinel-1-rtc", "sentinel-2-l2a"}
    one = run(places, tmp_path / "one", places=PlacesConfig(sensors=["sentinel-2-l2a"]))
    assert one.history[0]["sensors"].keys() == {"sentinel-2-l2a"}
    assert load_model(one.file).facts["sensors"] == ["sentinel-2-l2a"]


def test_a_scene_trains_without_validation_and_is_gone_on_from(places, tmp_path):
    scene = places / "sentinel-2-l2a" / "place0.tif"
    options = {"places": PlacesConfig(sensors=["sentinel-2-l2a"])}
    done = run(scene, tmp_path / "first", **options)
    assert done.best is None
    assert not (tmp_path / "first" / BEST).exists()
    assert done.history[-1]["validation"] is None
    still = {"optimizer": PretrainingOptimizer(lr=1e-12, average=0)}
    again = {**QUICK, **options, **still, "start": str(done.file)}  # paths may be text
    second = pretrain(str(scene), f"{tmp_path}/second", None, DECODER, **again)
    assert load_model(second.file).config == ENCODER
    first, after = weights(done.file), weights(second.file)
    for name, value in first.items():
        torch.testing.assert_close(after[name], value, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="leave the encoder out, or give the same"):
        pretrain(scene, tmp_path / "third", EncoderConfig(dim=64), DECODER, **{**QUICK, **options}, start=done.file)


def test_context_alone_trains_and_shows_no_picture(places, tmp_path):
    done = run(places, tmp_path, CONTEXT, steps=40, check_every=20)
    assert [set(row["parts"]) for row in done.history] == [{"context"}] * 2
    assert done.history[1]["loss"] < done.history[0]["loss"]
    assert done.history[1]["validation"] < done.history[0]["validation"]
    assert not (tmp_path / PICTURES).exists()


def test_reconstructions_are_shown_in_tensorboard(places, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(places, tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    pair = "sentinel-1-rtc+sentinel-2-l2a"
    assert set(events.Tags()["images"]) == {f"{pair}/sentinel-1-rtc", f"{pair}/sentinel-2-l2a"}
    assert {"loss", "parts/pixels", "validation", "samples_per_second"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_file_that_fails_in_the_middle_is_named_and_left_out_by_option(places, tmp_path, monkeypatch, caplog, on_error):
    collection = open_collection(places)
    read, calls = type(collection).read, []

    def failing(self, place, *arguments, **options):
        calls.append(place)
        if place == "place1" and len(calls) > 12:
            raise ValueError("place1.tif is damaged")
        return read(self, place, *arguments, **options)

    monkeypatch.setattr(type(collection), "read", failing)
    options = {
        "crops": CropsConfig(size=32, batch=4, checked=4, on_error=on_error),
        "places": PlacesConfig(validation_places=["place3"]),
    }
    if on_error == "raise":
        with pytest.raises(ValueError, match="place1.tif is damaged"):
            run(collection, tmp_path, **options)
        return
    done = run(collection, tmp_path, **options)
    assert done.history[-1]["step"] == 6
    assert caplog.text.count("place1.tif is damaged") == 1


def test_a_loss_that_is_no_number_ends_it(places, tmp_path):
    with pytest.raises(ValueError, match="loss is nan at step 2: lower the learning rate"):
        run(places, tmp_path, optimizer=PretrainingOptimizer(lr=1e30, warmup=0, average=0, clip=0))


def write_clouds(folder):
    for number in range(2):
        path = Path(folder, "sentinel-2-l2a", f"place{number}.tif")
        path.parent.mkdir(parents=True, exist_ok=True)
        profile = {"driver": "GTiff", "count": 12, "height": 48, "width": 48, "dtype": "int16", "nodata": 0}
        values = np.zeros((12, 48, 48), np.int16)
        values[:, :2] = 1500 + 10 * np.arange(12)[:, None, None]
        with rasterio.open(path, "w", **profile, crs="EPSG:32633", transform=rasterio.Affine(10, 0, 0, 0, -10, 0)) as dst:
            dst.write(values)


def test_places_without_data_are_told_in_a_line(tmp_path, capsys):
    write_clouds(tmp_path / "data")
    assert main(["pretrain", str(tmp_path / "data"), "--out", str(tmp_path / "out"), *OPTIONS, "--steps=2"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("geovit: ")]
    assert "place" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps=0"], "steps 0: allowed are numbers above 0"),
        (["--crops.batch=0"], "geovit: size 32, batch 0"),
        (["--crops.size=20"], "multiples of its patch, 8"),
        (["--crops.size=64"], "48 x 48"),
        (["--places.sensors=[landsat]"], "landsat"),
        (["--places.validation_places=[nowhere]"], "has no places nowhere"),
        (["--places.leave_out=[place0,place1,place2,place3]"], "none is left to train on"),
        (["--distillation.momentum=2"], "momentum 2"),
        (["--augmentation.bands=2"], "bands 2"),
        (["--hardware.strategy=fsdp"], "set optimizer.average, distillation.weight and autoencoder.context to 0"),
        (["--start=nowhere.safetensors"], "nowhere.safetensors"),
        (["--encoder={dimm: 3}"], "Option 'dimm' is not accepted"),
        (["--optimizer.lr=-1"], "lr -1"),
    ],
)
def test_wrong_options_are_told_in_a_line_and_nothing_is_written(places, tmp_path, capsys, options, message):
    assert main(["pretrain", str(places), "--out", str(tmp_path / "out"), *OPTIONS, *options]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("geovit: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not {"Union", "class_path", "Namespace"} & set(errors[0].replace("'", " ").split())
    assert not (tmp_path / "out").exists()


def test_a_folder_without_images_is_told_in_a_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["pretrain", str(tmp_path / "empty"), "--out", str(tmp_path / "out")]) == 2
    assert "empty" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["default", "terramesh"])
def test_recipes_train_a_step_and_leave_small_files(places, tmp_path, name):
    options = ["--steps=1", "--crops.size=48", "--crops.batch=2", "--crops.checked=2", "--crops.workers=0"]
    assert main(["pretrain", str(places), "--config", f"foundation/{name}.yaml", "--out", str(tmp_path), *options]) == 0
    assert (tmp_path / FINAL).stat().st_size < 10_000_000
