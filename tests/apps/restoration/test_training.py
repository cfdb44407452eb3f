import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

from geovit.apps.cli import main
from geovit.apps.restoration.cfsr import CFSR
from geovit.apps.restoration.compact import Compact
from geovit.apps.restoration.degradation import DegradationConfig
from geovit.apps.restoration.training import fit
from geovit.apps.restoration.training_data import ImagesConfig
from geovit.apps.restoration.weights import architecture_of, load_restorer
from geovit.core.training.hardware import HardwareConfig
from geovit.core.training.optimizer import OptimizerConfig
from geovit.core.training.runs import BEST
from geovit.datasets.generated_images import generated_image

QUICK = OptimizerConfig(lr=5e-3, average=0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five images to train on and one to validate on."""
    out = tmp_path_factory.mktemp("images")
    for number in range(6):
        place = out / ("validation" if number == 5 else "train")
        place.mkdir(exist_ok=True)
        Image.fromarray(generated_image(np.random.default_rng(number), 96)).save(place / f"{number}.png")
    return out


@pytest.fixture
def images(folder):
    return ImagesConfig(targets=str(folder / "train"), validation_targets=str(folder / "validation"), crop=16, batch=4)


def tiny(scale=2):
    return Compact(scale, width=8, depth=1)


def same(a, b):
    first, second = (load_restorer(path).network.state_dict() for path in (a, b))
    return all(torch.equal(first[name], second[name]) for name in first)


def test_command_fits_a_network_that_beats_its_start(folder, tmp_path, capsys):
    recipe = {
        "images": {"targets": f"{folder}/train", "validation_targets": f"{folder}/validation", "crop": 16, "batch": 8},
        "network": {"class_path": "Compact", "init_args": {"scale": 2, "width": 16, "depth": 2}},
        "optimizer": {"lr": 5e-3, "average": 0.9, "clip": 1.0},
        "notes": {"licence": "generated images"},
        "steps": 150,
        "check_every": 50,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["fit", "restoration", "--config", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out")]) == 0
    assert "dB PSNR on the validation images" in capsys.readouterr().out
    with safe_open(tmp_path / "out" / BEST, framework="pt") as file:
        told = file.metadata()
    assert told["licence"] == "generated images"
    assert told["training"] == "150 steps of 8 crops of 16 x 16 pixels, seed 0"
    curve_best, begin = float(told["validation"].split()[0]), _psnr_of_nearest(folder)
    assert curve_best > begin + 1.0


def _psnr_of_nearest(folder):
    from geovit.apps.restoration.metrics import psnr
    from geovit.apps.restoration.resize import matlab_resize

    (file,) = (folder / "validation").iterdir()
    target = np.asarray(Image.open(file))
    return psnr(matlab_resize(target, 0.5).repeat(2, 0).repeat(2, 1), target, crop=2, luma=True)


def test_resumed_is_as_if_uninterrupted_and_seeds_decide(images, tmp_path):
    options = {"network": tiny, "optimizer": QUICK, "degradation": DegradationConfig(noise=(1, 9)), "check_every": 4}
    whole = fit(images, tmp_path / "whole", steps=12, **options)
    part = tmp_path / "part"

    step = Compact.forward
    calls = []

    def failing(self, x):
        calls.append(x)
        if len(calls) > 12:  # 2 x (4 steps and a validation), and two steps
            raise ZeroDivisionError
        return step(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Compact, "forward", failing)
        with pytest.raises(ZeroDivisionError):
            fit(images, part, steps=12, **options)
    resumed = fit(images, part, steps=12, resume=True, **options)
    assert resumed.curve == whole.curve
    assert len(whole.curve) == 3
    assert same(whole.file, resumed.file)
    other = fit(images, tmp_path / "other", steps=12, seed=1, **options)
    assert not same(whole.file, other.file)


def test_what_is_saved_is_what_was_validated(images, tmp_path):
    done = fit(images, tmp_path, tiny, optimizer=OptimizerConfig(lr=5e-3, average=0.9), steps=20, check_every=10)
    from geovit.apps.restoration.evaluation import evaluate

    report = evaluate(images.validation_targets, weights=done.file).report
    assert report["mean"]["compact"]["psnr"] == pytest.approx(done.best, abs=1e-9)
    assert report["mean"]["bicubic"]["psnr"] == pytest.approx(done.baseline, abs=1e-9)


def test_training_goes_on_from_a_checkpoint(images, tmp_path):
    first = fit(images, tmp_path / "first", tiny, optimizer=QUICK, steps=40, check_every=40)
    second = fit(images, tmp_path / "second", start=first.file, optimizer=OptimizerConfig(lr=1e-6), steps=2, check_every=2)
    assert second.best == pytest.approx(first.best, abs=0.01)


def test_weights_for_another_scale_start_all_but_the_last_layer(images, tmp_path, caplog):
    big = fit(images, tmp_path / "x2", lambda: Compact(2, width=16, depth=4), optimizer=QUICK, steps=1, check_every=1)
    fit(images, tmp_path / "x3", lambda: Compact(3, width=16, depth=4), start=big.file, optimizer=QUICK, steps=1, check_every=1)
    assert "2 of 17 tensors are not in" in caplog.text
    with pytest.raises(ValueError, match="holds 0% of the weights of this Compact: expected 50%"):
        fit(images, tmp_path / "other", tiny, start=big.file)


def test_networks_with_folded_branches_are_saved_folded(images, tmp_path):
    network = CFSR(16, (1,), scale=2)
    assert architecture_of(network).name == "cfsr"
    done = fit(images, tmp_path, lambda: network, optimizer=QUICK, steps=2, check_every=2)
    assert isinstance(load_restorer(done.file).network, CFSR)


def test_bfloat16_trains_too(images, tmp_path):
    hardware = HardwareConfig(accelerator="cpu", precision="bf16")
    done = fit(images, tmp_path, tiny, optimizer=QUICK, hardware=hardware, steps=40, check_every=20)
    assert done.curve[1] > done.curve[0]


def test_rates_follow_the_schedule():
    cosine = OptimizerConfig(warmup=4, floor=0.1)
    assert [cosine.rate(step, 104) for step in (0, 3, 4, 54, 104)] == pytest.approx([0.2, 0.8, 1.0, 0.55, 0.1])
    steps = OptimizerConfig(schedule="steps", milestones=[10, 20], factor=0.5)
    assert [steps.rate(step, 30) for step in (0, 9, 10, 19, 20, 29)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": "nowhere"}, "nowhere: no such file or folder"),
        ({"crop": 49}, "has 48 x 48 pixels when reduced, a crop takes 49 x 49"),
        ({"crop": 0}, "allowed are numbers from 1 on"),
    ],
)
def test_wrong_images_are_named(folder, tmp_path, capsys, change, message):
    options = {"targets": f"{folder}/train", "validation_targets": f"{folder}/validation", "crop": 16, **change}
    arguments = [f"--images.{name}={value}" for name, value in options.items()]
    network = ["--network=Compact", "--network.width=8", "--network.depth=1", f"--out={tmp_path}"]
    assert main(["fit", "restoration", *arguments, *network]) == 2
    errors = capsys.readouterr().err.strip()
    assert message in errors
    assert "\n" not in errors


def test_wrong_options_are_named(images, tmp_path):
    pairs = ImagesConfig(targets=images.targets, sources=images.targets, validation_targets=images.targets, crop=8)
    wrong = [
        (images, tmp_path / "new", lambda: tiny(1), "scale 1 without source images needs a degradation"),
        (images, tmp_path / "new", None, "neither a network nor a checkpoint"),
        (pairs, tmp_path / "new", lambda: tiny(3), "pixels at scale 3 are not the 96 x 96"),
        (images, tmp_path, tiny, "of an earlier training"),
    ]
    (tmp_path / "last.ckpt").touch()
    for data, out, network, message in wrong:
        with pytest.raises(ValueError, match=message):
            fit(data, out, network)
    with pytest.raises(ValueError, match="both sources .* and a random degradation"):
        fit(pairs, tmp_path / "new", tiny, degradation=DegradationConfig(blur=1.0))
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        fit(images, tmp_path / "new", tiny, resume=True)
