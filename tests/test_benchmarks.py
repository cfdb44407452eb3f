"""The benchmark scripts run; what they measure is another matter."""

import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from geovit.apps.hyperspectral.model import Classifier, ModelInfo
from geovit.apps.hyperspectral.recipe import Recipe, TrainingConfig
from geovit.datasets import ClassInfo

SCRIPTS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("benchmark_of_hyperspectral", SCRIPTS / "hyperspectral.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Threads that wait must not keep others off a busy machine: that makes small steps many times slower.
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_part_is_printed_as_tables_and_not_written(data_dir, tmp_path):
    out = tmp_path / "page.md"
    done = run("hyperspectral.py", "--quick", "--only", "salinas", "--data", str(data_dir), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "## salinas" in done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert {"| spectral_swin", "| svm", "| forest"} <= {row.split(" | ")[0] for row in rows}
    assert all(row.count(" |") == 4 for row in rows)
    assert not out.exists()


def test_convolutional_restoration_is_timed_with_its_error(tmp_path):
    spec = importlib.util.spec_from_file_location("benchmark_of_convnets", SCRIPTS / "restoration_convnets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    exact = torch.tensor([1.0, 2.0])
    cells = module.row("net", 16, [lambda: exact + 0.02, lambda: exact, lambda: exact], 3).split(" | ")
    assert (cells[0], cells[1], cells[7], cells[8]) == ("| net", "16 x 16", "1e-02", "0e+00 |")
    source = tmp_path / "net_arch.py"
    source.write_text("from basicsr.utils.registry import ARCH_REGISTRY\n@ARCH_REGISTRY.register()\nclass Net: pass\n")
    assert module.official(source).Net.__name__ == "Net"
    assert "basicsr.utils.registry" not in sys.modules


def test_an_unknown_section_and_missing_data_are_told(script, tmp_path, capsys):
    for arguments, told in ((["--only", "botany"], "choose from"), (["--data", str(tmp_path)], f"no test data at {tmp_path}")):
        with pytest.raises(SystemExit) as stop:
            script.main(arguments)
        assert stop.value.code == 2
        assert told in capsys.readouterr().err


def test_the_page_says_what_was_missed(script):
    rows = [script.Row("OA", "0.9", ">= 0.8", True), script.Row("AA", "0.7", ">= 0.8", False), script.Row("kappa", "0.6")]
    lines = script.page({"random": rows}).splitlines()
    assert lines[-3:] == ["| OA | 0.9 | >= 0.8 | yes |", "| AA | 0.7 | >= 0.8 | **no** |", "| kappa | 0.6 |  |  |"]


def test_patches_in_the_phase_of_the_grid_give_what_the_map_gives(script):
    torch.manual_seed(0)
    classes = tuple(ClassInfo(k, f"class {k}", (k, k, k)) for k in (1, 2, 3, 4, 5))
    recipe = Recipe(training=TrainingConfig(members=2))
    model = Classifier(ModelInfo("0", 40, None, classes, recipe, {})).eval()
    for member in model.members:
        member.transform.fit(torch.randn(500, 40))
    x = torch.randn(40, 48, 48)
    with torch.inference_mode():
        whole = model(x[None])[0].argmax(0).numpy()
    reach, window = model.receptive_field, model.window
    pixels = np.argwhere(np.ones((48, 48), dtype=bool))
    inside = ((pixels >= reach + window) & (pixels < 48 - reach - window)).all(1)
    pixels = pixels[inside]
    corners = (pixels - reach) // window * window
    labels = script._by_patches(model, x, pixels, corners, 2 * reach + window)
    assert (labels == whole[tuple(pixels.T)]).all()
    centred = script._by_patches(model, x, pixels, pixels - reach, 2 * reach + 1)
    assert (centred != whole[tuple(pixels.T)]).any(), "these should see windows in another phase"


@pytest.mark.parametrize(
    ("confidence", "correct", "error"),
    [
        ([0.75] * 4, [True, True, True, False], 0.0),  # right as often as it says
        ([0.9] * 4, [True, True, False, False], 0.4),
        ([1.0, 0.5], [True, True], 0.25),  # the top of the range belongs to the last bin
        ([0.91, 0.09], [False, True], 0.91),  # errors of different bins do not cancel
    ],
)
def test_expected_calibration_error(script, confidence, correct, error):
    measured = script.expected_calibration_error(np.array(confidence, dtype=np.float32), np.array(correct))
    assert measured == pytest.approx(error, abs=1e-6)


def load(name: str):
    """A script that shares modules with the others beside it."""
    spec = importlib.util.spec_from_file_location(f"benchmark_of_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPTS))
    return module


@pytest.fixture(scope="module")
def ops():
    return load("ops")


@pytest.fixture(scope="module", params=["restoration", "medical", "foundation"])
def domain(request):
    return load(request.param).DOMAIN


@pytest.fixture
def explains_itself(capsys, monkeypatch):
    """Whether a command tells its options; in this process, where what they all import is there already."""

    def explains_itself(command):
        as_module = command[1] == "-m"
        monkeypatch.setattr(sys, "argv", [*command[1 + as_module :], "--help"])
        monkeypatch.syspath_prepend(SCRIPTS)
        with pytest.raises(SystemExit) as stop:
            runpy.run_module(command[2], run_name="__main__") if as_module else runpy.run_path(command[1], run_name="__main__")
        assert stop.value.code == 0
        assert "--threads" in capsys.readouterr().out

    return explains_itself


def test_every_part_of_the_ops_is_a_command_that_explains_itself(ops, explains_itself):
    for part in ops.PARTS:
        explains_itself(ops.command(part, 1, "cpu"))


def test_every_part_of_a_domain_is_a_command_that_explains_itself(domain, explains_itself):
    assert {"restoration_quality", "medical_memory", "foundation_speed"} & set(domain.parts)
    for part in domain.parts:
        explains_itself(sys.modules[type(domain).__module__].script(part, "--threads", "1"))


def test_the_page_of_ops_tells_all_parts_and_the_worst_status(ops, monkeypatch, tmp_path, capsys):
    status = {"swin": 1}
    monkeypatch.setattr(ops, "run", lambda part, threads, device: (f"{part} on {device}, {threads}", status.get(part, 0)))
    page = tmp_path / "page.md"
    assert ops.main(["--threads", "3", "--out", str(page)]) == 1
    assert [line for line in page.read_text().splitlines() if " on cpu, 3" in line] == [f"{part} on cpu, 3" for part in ops.PARTS]
    page.unlink()
    assert ops.main(["--only", "backends", "--out", str(page)]) == 0
    assert not page.exists(), "a page tells all parts"
    capsys.readouterr()


def test_the_page_of_a_domain_names_machine_and_versions(domain, monkeypatch, tmp_path, capsys):
    status = dict.fromkeys(domain.parts, 0)
    monkeypatch.setattr(
        sys.modules[type(domain).__module__], "run", lambda command: (Path(command[1]).stem, status[Path(command[1]).stem])
    )
    page, threads = tmp_path / "page.md", torch.get_num_threads()
    assert domain.main([f"--threads={threads}", f"--out={page}"]) == 0
    text = page.read_text()
    assert f"torch {torch.__version__}" in text
    assert f"numpy {np.__version__}" in text
    assert [line for line in text.splitlines() if line.startswith("## ")] == [f"## {part}" for part in domain.parts]
    page.unlink()
    status[domain.parts[1]] = 2
    assert domain.main([f"--threads={threads}", f"--out={page}"]) == 2
    assert not page.exists(), "a part that failed has no figures"
    capsys.readouterr()


def test_quality_is_told_with_its_protocol_and_the_bars(data_dir):
    done = run("restoration_quality.py", "--threads=1", f"--data={data_dir}", "--set=Set5", "--scale=4")
    assert done.returncode == 0, done.stderr
    assert "MATLAB imresize, bicubic, antialiased" in done.stdout
    assert "| Set5 x4 | bicubic | 28.43 |" in done.stdout
    assert "| | cfsr | 32.33 |" in done.stdout
    assert "32.33 within 0.01 |" in done.stdout


def test_the_memory_of_segmenting_is_measured():
    done = run("medical_memory.py", "--size", "64", "64", "40", "--classes", "3", "--max-memory", "2", "--threads", "1")
    assert done.returncode == 0, done.stderr
    cells = [cell.strip() for cell in done.stdout.splitlines()[-1].split("|")[1:-1]]
    assert cells[:2] == ["3", "2"]
    assert 0.1 < float(cells[4]) < 3  # GB at the peak
    assert len(cells) == 12


def table(printed: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]


def test_a_step_of_pretraining_is_timed_and_its_gradient_compared(monkeypatch, capsys):
    script = load("foundation_speed")
    monkeypatch.setattr(script, "SIZES", {"tiny": (48, 3, 1)})
    threads = torch.get_num_threads()
    monkeypatch.setattr(
        sys, "argv", ["", f"--threads={threads}", "--runs=1", "--batch=1", "--dtypes", "float32", "--only", "pretraining"]
    )
    assert script.main() in (0, 1)
    *_, cells = table(capsys.readouterr().out)
    assert cells[:2] == ["ViT-tiny", "float32"]
    assert float(cells[2]) > 0
    assert float(cells[5]) < 1e-3, "the same weights have the same gradient"


@pytest.mark.parametrize(("geovit", "status"), [(10, 0), (60, 1)])
def test_the_bar_of_memory_is_against_scores(monkeypatch, capsys, geovit, status):
    script = load("foundation_memory")
    mebibytes = {"joint, scores": 500, "joint, flash": 50, "joint, floor": 20, "geovit": geovit}
    monkeypatch.setattr(script, "measured", lambda kind, bands, side, args: 2.0**20 * mebibytes[kind])
    monkeypatch.setattr(sys, "argv", ["", f"--threads={torch.get_num_threads()}", "--bands=12"])
    assert script.main() == status
    *_, cells = table(capsys.readouterr().out)
    assert cells[:6] == ["12 x 32 x 32", "768", "500", "50", "20", f"{geovit}"]
    assert float(cells[6]) == geovit / 500


def test_adaptation_is_compared_split_by_split(capsys):
    script = load("foundation_adaptation")
    accuracies = {"encoder": [0.7, 0.8, 0.9], "encoder_scratch": [0.6, 0.7, 0.8], "svm": [0.6, 0.9, 0.9]}
    figure = {"mean": 0.5, "std": 0.1}
    models = {
        name: {"splits": [{"oa": oa} for oa in splits], "trained": None}
        | dict.fromkeys(("oa", "aa", "kappa", "leakage", "seconds"), figure)
        for name, splits in accuracies.items()
    }
    report = {"models": models, "protocol": {"text": "blocks", "training_pixels": 10.0, "test_pixels": 20.0}}
    assert script.difference(report, "encoder", "encoder_scratch") == pytest.approx((0.1, 0))
    assert script.table("blocks-10", report), "better than from scratch"
    assert not script.table("blocks-all", report), "too little better than the vector machine"
    assert "| **no** |" in capsys.readouterr().out


def test_the_adaptation_of_an_encoder_is_told_beside_the_others_and_kept(data_dir, tmp_path):
    options = ["--threads=1", f"--data={data_dir}", "--seeds=1", "--only=blocks-10", f"--keep={tmp_path}"]
    pretraining = ["--steps=1", "--models", "encoder_freeze", "logistic"]
    first = run("foundation_adaptation.py", *options, *pretraining)
    assert first.returncode == 0, first.stderr
    assert "Pretraining on the scene" in first.stdout
    assert {path.name for path in tmp_path.iterdir()} == {
        "encoder", "blocks-10-encoder_freeze.json", "blocks-10-logistic.json"
    }  # fmt: skip
    again = run("foundation_adaptation.py", *options, *pretraining)
    rows = [line for line in again.stdout.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == ["| model", "| ---", "| encoder_freeze", "| logistic"]
    assert rows == [line for line in first.stdout.splitlines() if line.startswith("| ")], "nothing is measured twice"


def test_scenes_larger_than_memory_are_of_one_pattern_and_missed_bars_are_told(tmp_path):
    import rasterio

    spec = importlib.util.spec_from_file_location("benchmark_of_scenes", SCRIPTS / "scenes.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    _, labels = module.write_scene(tmp_path / "a.tif", 300, 4)
    module.write_scene(tmp_path / "b.tif", 300, 4, offset=(37, 53))
    with rasterio.open(tmp_path / "a.tif") as one, rasterio.open(tmp_path / "b.tif") as other:
        np.testing.assert_array_equal(one.read()[:, 37:, 53:], other.read()[:, :-37, :-53])
        assert one.xy(37, 53) == other.xy(0, 0)
    assert (labels.shape, set(np.unique(labels))) == ((300, 300), {1, 2, 3})
    lines = module.page({"kills": [module.Row("bytes", "19 of 20", "all", False)]}, "Made today.").splitlines()
    assert lines[-1] == "| bytes | 19 of 20 | all | **no** |"
    del sys.modules[spec.name]


def test_exported_models_are_timed_with_their_errors(tmp_path, capsys, monkeypatch):
    module, out = load("export"), tmp_path / "page.md"
    compact = next(case for case in module.cases() if case.name == "Compact")
    monkeypatch.setattr(module, "cases", lambda: [module.Case("broken", lambda: 1 / 0, 8), compact])
    arguments = ["--quick", "--threads", str(torch.get_num_threads()), "--out", str(out)]
    assert module.main([*arguments, "--only", "Comp*", "broken"]) == 0
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith(("| Compact", "| broken"))]
    assert lines[0][:3] == ["| broken", "all", "division by zero"]
    assert [line[1] for line in lines[1:]] == ["pt2", "onnx", "openvino"]
    assert all(float(line[2]) < 1e-5 for line in lines[1:])
    assert lines[1][4] == "1 x 3 x 2 x 2"
    assert not out.exists()
    assert module.main(["--only", "nothing"]) == 2
