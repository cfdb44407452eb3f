import os
import pickle
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image as PillowImage

from geovit.apps.cli import main
from geovit.apps.restoration import models


@pytest.fixture(autouse=True)
def allocator_as_before(monkeypatch):
    """With a limit the command takes over the allocator of its process."""
    monkeypatch.setattr("geovit.apps.restoration.files.keep_no_freed_memory", lambda: True)


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = main(["restore", "--device=cpu", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def weights(make_weights):
    return make_weights()


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    values = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    PillowImage.fromarray(values).save(folder / "a.png")
    PillowImage.fromarray(values).save(folder / "b, [1].jpg")
    PillowImage.fromarray(values[..., 0]).save(folder / "c.tif")
    return folder


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class TestNames:
    def test_results_lie_beside_the_images(self, run, photos, weights):
        code, told, _ = run(photos / "a.png", photos / "b, [1].jpg", "--weights", weights)
        assert code == 0
        assert f"{photos}/a.png -> {photos}/a_x2.png\n" in told
        assert names(photos) == ["a.png", "a_x2.png", "b, [1].jpg", "b, [1]_x2.jpg", "c.tif"]

    def test_the_folder_is_made(self, run, photos, weights, tmp_path):
        code, told, errors = run(photos / "a.png", "--weights", weights, "--out", tmp_path / "new" / "folder")
        assert code == 0
        assert names(tmp_path / "new" / "folder") == ["a_x2.png"]
        assert (told + errors).count("a_x2.png") == 1, "told once"

    def test_scale_1_has_another_name(self, run, photos, make_weights, out):
        assert run(photos / "a.png", "--weights", make_weights(1), "--out", out)[0] == 0
        assert names(out) == ["a_restored.png"]

    @pytest.mark.parametrize("given", [["{}"], ["{}/*.tif", "{}/*.jpg", "{}/a.png"], ["--", "{}/a.png", "{}"]])
    def test_folders_patterns_and_files_are_many_words(self, run, photos, weights, out, given):
        first, *others = (word.format(photos) for word in given)
        options = ["--out", out, f"--weights={weights}", "--overwrite", "--tile", 48]
        assert run(*options, first, *others)[0] == 0
        assert names(out) == ["a_x2.png", "b, [1]_x2.jpg", "c_x2.tif"]
        with PillowImage.open(out / "c_x2.tif") as made:
            assert (made.mode, made.size) == ("L", (20, 24))

    def test_a_configuration_holds_the_inputs(self, run, photos, weights, out, tmp_path):
        file = tmp_path / "run.yaml"
        file.write_text(f"inputs: ['{photos}/a.png']\nout: {out}\nweights: {weights}\n")
        assert run("--config", file)[0] == 0
        assert names(out) == ["a_x2.png"]

    def test_two_results_of_one_name(self, run, photos, weights, out, tmp_path):
        other = tmp_path / "a.png"
        other.write_bytes((photos / "a.png").read_bytes())
        code, _, errors = run(photos / "a.png", other, "--weights", weights, "--out", out)
        assert code == 2
        assert "would both be written to" in errors.splitlines()[-1]
        assert names(out) == []


class TestResults:
    def test_the_same_bytes_again(self, run, photos, weights, out):
        arguments = [photos / "a.png", "--weights", weights, "--out", out, "--max_memory", 4]
        assert run(*arguments)[0] == 0
        first = (out / "a_x2.png").read_bytes()
        assert run(*arguments)[0] == 2, "nothing is overwritten silently"
        assert run(*arguments, "--overwrite")[0] == 0
        assert (out / "a_x2.png").read_bytes() == first

    def test_a_raster_keeps_its_place(self, run, weights, out, tmp_path):
        transform = rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
        values = np.random.default_rng(0).integers(1, 3000, (5, 9, 11), dtype=np.uint16)
        values[:, 2, 3] = 0
        profile = {"driver": "GTiff", "count": 5, "height": 9, "width": 11, "dtype": "uint16", "nodata": 0}
        with rasterio.open(tmp_path / "s.tif", "w", **profile, crs="EPSG:32633", transform=transform) as dst:
            dst.write(values)
        code, _, errors = run(tmp_path / "s.tif", "--weights", weights, "--out", out, "--value_range", "0,3000")
        assert code == 0, errors
        with rasterio.open(out / "s_x2.tif") as src:
            assert (src.count, src.shape, src.nodata, src.crs.to_epsg()) == (5, (18, 22), 0, 32633)
            assert src.transform == rasterio.Affine(5, 0, 5e5, 0, -5, 5e6)
            made = src.read()
        assert ((made == 0) == (values == 0).repeat(2, 1).repeat(2, 2)).all()

    def test_one_broken_file_does_not_stop_the_others(self, run, photos, weights, out):
        content = (photos / "a.png").read_bytes()
        (photos / "aa.png").write_bytes(content[: len(content) // 2])
        code, told, errors = run(photos, "--weights", weights, "--out", out)
        assert (code, told) == (2, "")
        assert names(out) == ["a_x2.png", "b, [1]_x2.jpg", "c_x2.tif"]
        lines = errors.splitlines()
        assert lines[-1] == "geovit: 1 of 4 images were not restored"
        assert [line for line in lines if line.startswith("error: ")] == [line for line in lines if "aa.png: truncated" in line]


@pytest.fixture(scope="module")
def bad(tmp_path_factory, make_weights):
    """Files that something is wrong with."""
    folder = tmp_path_factory.mktemp("bad")
    good = folder / "good.png"
    PillowImage.fromarray(np.full((9, 9, 3), 100, np.uint8)).save(good)
    (folder / "text.png").write_text("no image")
    (folder / "empty.png").touch()
    content = good.read_bytes()
    (folder / "half.png").write_bytes(content[: len(content) - 20])
    values = np.zeros((1, 4, 5), np.float32)
    values[0, 1, 2] = np.nan
    with rasterio.open(
        folder / "nan.tif", "w", driver="GTiff", count=1, height=4, width=5, dtype="float32",
        crs="EPSG:4326", transform=rasterio.Affine(2, 0, 0, 0, -2, 0),
    ) as dst:  # fmt: skip
        dst.write(values)

    class Code:
        def __reduce__(self):
            return print, ("this must not run",)

    (folder / "code.pth").write_bytes(pickle.dumps({"params": Code()}, protocol=2))
    torch.save({"params": torch.nn.Linear(2, 2).state_dict()}, folder / "other.pth")
    torch.save(torch.zeros(3), folder / "tensor.pth")
    torch.save({"params": {}}, folder / "empty_state.pth")
    (folder / "half.safetensors").write_bytes(make_weights().read_bytes()[:900])
    (folder / "file").touch()
    (folder / "nothing").mkdir()
    return folder


# The arguments, with {} for the folder of bad files, and what the one line must say.
CASES = {
    "missing": ("{}/none.png WEIGHTS", "none.png: no such file"),
    "folder without images": ("{}/nothing WEIGHTS", "nothing: no image in this folder"),
    "pattern without images": ("{}/*.webp WEIGHTS", r"\*.webp: no image matches"),
    "not an image": ("{}/text.png WEIGHTS", "text.png: not an image that can be read; expected PNG"),
    "empty file": ("{}/empty.png WEIGHTS", "empty.png: empty, 0 bytes"),
    "truncated": ("{}/half.png WEIGHTS", "half.png: truncated"),
    "NaN pixels": ("{}/nan.tif WEIGHTS", "nan.tif: 1 pixels are NaN or infinite, the first at row 1, column 2"),
    "channels": ("GOOD --weights FIVE", r"good.png has 3 channels, the weights \(CFSR\) take 5 and make 5"),
    "another architecture": ("GOOD --weights {}/other.pth", r"other.pth is of no known architecture \(first tensor weight\)"),
    "pickle with code": (
        "GOOD --weights {}/code.pth",
        "code.pth holds more than tensors, or is no checkpoint: it was not loaded",
    ),
    "no state dict": ("GOOD --weights {}/tensor.pth", "tensor.pth holds no state dict, but Tensor"),
    "truncated weights": ("GOOD --weights {}/half.safetensors", "half.safetensors is not a whole safetensors file"),
    "weights no checkpoint": ("GOOD --weights GOOD", "good.png holds more than tensors, or is no checkpoint"),
    "missing weights": ("GOOD --weights {}/none.pth", "no such file: .*none.pth"),
    "scale of others": ("GOOD WEIGHTS --scale 3", "small_3x2.safetensors has scale 2, not 3"),
    "scale of no model": ("GOOD --scale 7", r"no packaged model of scale 7: there are light \(scale 2\)"),
    "unknown model": ("GOOD --model magic", r"no model 'magic': there are light \(scale 2\)"),
    "weights and model": ("GOOD WEIGHTS --model light", "both weights and a model were given"),
    "small tile": ("GOOD WEIGHTS --tile 4", r"tile is 4, expected \d+ pixels or more at an overlap of \d+ \(CFSR\)"),
    "tile no number": ("GOOD WEIGHTS --tile big", "--tile: expected auto or int. Got value: big"),
    "negative overlap": ("GOOD WEIGHTS --overlap -3", "overlap is -3, expected 0 pixels or more"),
    "little memory": ("GOOD WEIGHTS --max_memory 0.001", r"9 x 9 pixels need .* GB in tiles of \d+.*; allowed are 0.00 GB"),
    "no memory": ("GOOD WEIGHTS --max_memory 0", "max_memory is 0.0, expected gigabytes, more than 0"),
    "quality": ("GOOD WEIGHTS --quality 0", r"quality is 0, allowed are 1\.\.100"),
    "values": ("GOOD WEIGHTS --value_range [5,5]", "value range 5 to 5: expected two numbers, the lower first"),
    "one value": ("GOOD WEIGHTS --value_range 5", r"--value_range: expected \[float, float\]. Got value: 5"),
    "no precision": ("GOOD WEIGHTS --precision fp8", "--precision: expected auto or fp32 or bf16 or fp16. Got value: fp8"),
    "empty checkpoint": ("GOOD --weights {}/empty_state.pth", "holds no state dict, but a mapping with nothing in it"),
    "fp16 on a CPU": ("GOOD WEIGHTS --precision fp16", "precision is 'fp16'"),
    "out no folder": ("GOOD WEIGHTS --out {}/file", "file is not a folder"),
    "out below a file": ("GOOD WEIGHTS --out {}/file/new", "cannot make the folder .*file/new: Not a directory"),
    "no inputs": ("WEIGHTS", "inputs"),
    "unknown option": ("GOOD --colour red", "--colour"),
}


class TestBadInput:
    @pytest.mark.parametrize("case", CASES)
    def test_one_line_says_what_is_wrong_and_nothing_is_written(self, run, bad, out, make_weights, monkeypatch, case):
        template, message = CASES[case]
        pretrained = make_weights().parent / "pretrained"
        pretrained.mkdir(exist_ok=True)
        (pretrained / "light.safetensors").write_bytes(make_weights().read_bytes())
        monkeypatch.setattr(models, "PRETRAINED", pretrained)
        words = {
            "GOOD": [str(bad / "good.png")],
            "WEIGHTS": ["--weights", str(make_weights())],
            "FIVE": [str(make_weights(2, 5))],
        }
        arguments = [part for word in template.split() for part in words.get(word, [word.replace("{}", str(bad))])]
        if "--out" not in arguments:
            arguments += ["--out", str(out)]
        before = {path: path.stat().st_mtime_ns for path in bad.iterdir()}
        code, told, errors = run(*arguments)
        assert (code, told) == (2, "")
        *notes, line = errors.splitlines()
        assert line.startswith("geovit: "), errors
        assert all(note.startswith("info: ") for note in notes), errors
        assert re.search(message, line), line
        assert names(out) == []
        assert {path: path.stat().st_mtime_ns for path in bad.iterdir()} == before

    def test_a_full_target_is_told_before_the_work(self, run, photos, weights, out):
        (out / "c_x2.tif").write_text("mine")
        code, _, errors = run(photos, "--weights", weights, "--out", out)
        assert code == 2
        assert errors.splitlines()[-1] == f"geovit: {out}/c_x2.tif exists: pass --overwrite"
        assert names(out) == ["c_x2.tif"]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("sent", ["SIGINT", "SIGKILL"])
def test_killed_half_way_the_result_is_absent(sent, weights, out, tmp_path):
    source = tmp_path / "large.png"
    PillowImage.fromarray(np.zeros((1200, 1200, 3), np.uint8)).save(source)
    command = [sys.executable, "-m", "geovit", "restore", source, f"--weights={weights}", f"--out={out}", "--tile=32"]
    process = subprocess.Popen(
        list(map(str, command)),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    for line in process.stderr:
        if "CFSR, scale 2" in line:
            break
    time.sleep(0.7)
    process.send_signal(getattr(signal, sent))
    told, errors = process.communicate(timeout=60)
    assert names(out) == []
    assert told == ""
    if sent == "SIGINT":
        assert (process.returncode, errors) == (130, "geovit: interrupted\n") or errors.endswith("geovit: interrupted\n")
    assert process.returncode != 0
