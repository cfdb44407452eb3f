import inspect
import json
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from safetensors.numpy import save_file

from geovit import __version__
from geovit.apps import cli
from geovit.apps.cli import COMMANDS, main
from geovit.datasets import open_scene, read_labels, synthesize_scene

TINY = [
    *("--recipe.spectral_swin.dim=16", "--recipe.spectral_swin.heads=2", "--recipe.spectral_swin.channels=[4,8]"),
    *("--recipe.training.members=1", "--recipe.training.steps=4", "--recipe.training.batch=4", "--recipe.training.crop=8"),
    *("--recipe.training.check_every=2", "--device=cpu"),
]


@pytest.fixture(autouse=True)
def logging_as_before():
    """The command line takes over the logging of its process."""
    loggers = [logging.getLogger(name) for name in ("geovit", "rasterio", "lightning.pytorch", "lightning.fabric")]
    before = [(logger, logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, handlers, propagate, level in before:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return synthesize_scene(tmp_path_factory.mktemp("scene"), height=50, width=70, bands=24, classes=3)


@pytest.fixture
def run(capsys):
    def run(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # after help
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def model(files, tmp_path_factory):
    """A model file."""
    folder = tmp_path_factory.mktemp("model")
    assert main(["fit", "hyperspectral", str(files.scene), str(files.labels), f"--out={folder}", *TINY]) == 0
    return folder / "scene_model.safetensors"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def geovit(*arguments):
    """Start the program as a user does."""
    command = [sys.executable, "-m", "geovit", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


class TestGrammar:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_explains_its_options(self, run, name):
        code, told, errors = run(*name.split(), "--help")
        assert (code, errors) == (0, "")
        module, _, function = COMMANDS[name].target.partition(":")
        signature = inspect.signature(getattr(import_module(module, "geovit.apps"), function))
        for option, parameter in signature.parameters.items():
            if option == "progress":
                assert "--progress" not in told, "the terminal decides"
            else:
                shown = option if parameter.default is inspect.Parameter.empty else f"--{option.replace('_', '-')}"
                assert shown in told or f"--{option}." in told
        for option in ("--config", "--print_config", "--debug"):
            assert option in told
        for word in ("type:", "null", "{true,false}", "Raises"):
            assert word not in told
        assert "Returns" not in told

    @pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["fit", "--help"]])
    def test_the_commands_are_listed(self, run, arguments):
        code, told, errors = run(*arguments)
        assert (code, errors) == (0, "")
        assert all(f"  {name} " in told and command.summary in told for name, command in COMMANDS.items())

    def test_the_version(self, run):
        assert run("--version") == (0, f"geovit {__version__}\n", "")

    @pytest.mark.parametrize("arguments", [["classfy"], ["fit"], ["fit", "medicine"], ["--bogus"]])
    def test_unknown_commands_are_named_with_the_known(self, run, arguments):
        code, told, errors = run(*arguments)
        assert (code, told) == (2, "")
        assert errors.startswith(f"geovit: no command {' '.join(arguments)!r}, there are: classify, ")
        assert errors.count("\n") == 1

    def test_nothing_heavy_is_imported_to_show_the_commands(self):
        code = (
            "import sys; from geovit.apps.cli import main; main(['--help']);"
            "heavy = {'torch', 'lightning', 'sklearn', 'rasterio', 'jsonargparse', 'matplotlib'} & set(sys.modules);"
            "sys.exit(str(heavy) if heavy else 0)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


class TestOptions:
    @pytest.fixture
    def configured(self, run):
        """The options that a command line amounts to."""

        def configured(*arguments):
            code, told, errors = run(*arguments, "--print_config")
            assert (code, errors) == (0, "")
            return yaml.safe_load(told)

        return configured

    def test_flags_need_no_value(self, configured):
        options = configured("classify", "s.tif", "--overwrite", "--probabilities", "--quicklook", "--seed", "3")
        assert [options[name] for name in ("overwrite", "probabilities", "quicklook", "seed")] == [True, True, True, 3]
        options = configured("classify", "--overwrite", "s.tif", "--quicklook=false", "--probabilities", "true")
        assert [options[name] for name in ("scene", "overwrite", "quicklook", "probabilities")] == ["s.tif", True, False, True]

    def test_values_may_begin_with_a_minus(self, configured):
        assert configured("classify", "s", "--bounds", "-70.5,-33.6,-70.4,-33.5")["bounds"] == "-70.5,-33.6,-70.4,-33.5"
        assert configured("embed", "s", "--model=m", "--bounds", "-.5,-2,1,2")["bounds"] == "-.5,-2,1,2"
        assert configured("restore", "s", "--bounds", "-1,-2,1,2")["inputs"] == ["s"]

    def test_dashes_in_options_are_as_good_as_underscores(self, configured):
        for spelled in (["--lora-rank", "4"], ["--lora-rank=4"], ["--lora_rank", "4"]):
            assert configured("classify", "s.tif", "--encoder", "m.safetensors", *spelled)["lora_rank"] == 4

    @pytest.mark.parametrize("recipe", [["--recipe", "lola_specvit"], ["--recipe=lola_specvit"]], ids=["two words", "one word"])
    def test_recipes_have_names(self, configured, recipe):
        options = configured("classify", "s.tif", *recipe, "--recipe.training.steps", "5")["recipe"]
        assert (options["network"], options["transform"]["components"], options["training"]["steps"]) == ("lola_specvit", 15, 5)
        assert configured("classify", "s.tif", "--recipe", "spectral_swin")["recipe"]["network"] == "spectral_swin"

    def test_the_settings_of_a_recipe_have_a_help_of_their_own(self, run):
        (_, short, _), (_, whole, _) = (run("classify", option) for option in ("--help", "--recipe.help"))
        assert "--recipe.help shows them" in short
        assert "--recipe.training.steps" not in short
        assert "--recipe.training.steps" in whole

    def test_recipes_may_be_files(self, configured, tmp_path):
        file = tmp_path / "mine.yaml"
        file.write_text("training: {members: 2}\n")
        options = configured("classify", "s.tif", "--recipe", str(file))["recipe"]
        assert (options["training"]["members"], options["network"]) == (2, "spectral_swin")

    def test_lists_are_words_with_commas(self, configured):
        for spelled in (["--models", "svm,forest"], ["--models=svm,forest"], ["--models", "[svm, forest]"]):
            assert configured("evaluate", "hyperspectral", "s.tif", "l.tif", *spelled)["models"] == ["svm", "forest"]
        assert configured("evaluate", "hyperspectral", "s.tif", "l.tif", "--models", "svm")["models"] == ["svm"]

    def test_a_printed_configuration_runs_the_same(self, run, files, tmp_path, out):
        arguments = ["classify", files.scene, f"--out={out}", "--clusters=3", "--seed=7"]
        _, printed, _ = run(*arguments, "--print_config")
        assert names(out) == []
        file = tmp_path / "run.yaml"
        file.write_text(printed)
        assert run("classify", "--config", file)[0] == 0
        first = (out / "scene_classes.tif").read_bytes()
        assert run(*arguments, "--overwrite")[0] == 0
        assert (out / "scene_classes.tif").read_bytes() == first

    @pytest.mark.parametrize(
        "name", ["hippocampus", "hippocampus.yaml", "medical/hippocampus", "configs/medical/hippocampus.yaml"]
    )
    def test_configurations_that_come_along_have_names(self, configured, monkeypatch, tmp_path, name):
        monkeypatch.chdir(tmp_path)
        for spelled in (["--config", name], [f"--config={name}"]):
            options = configured("fit", "medical", "CASES", *spelled, "--steps=7")
            assert (options["network"]["arguments"], options["steps"]) == ({"feature_size": 24}, 7)

    def test_a_file_comes_before_a_name(self, configured, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "hippocampus.yaml").write_text("steps: 3\n")
        assert configured("fit", "medical", "CASES", "--config", "hippocampus.yaml")["steps"] == 3

    @pytest.mark.parametrize("name", ["hippo", "nowhere/hippocampus.yaml", "restoration/nafnet_gopro.yaml", "swinir_light_x2"])
    def test_an_unknown_configuration_is_told_with_the_known(self, run, name):
        code, _, errors = run("fit", "medical", "CASES", "--config", name)
        known = "brats_regions, hippocampus, swin_unetr, swin_unetr_small"
        assert (code, errors) == (2, f"geovit: no configuration {name}: expected a YAML file, or one of {known}\n")

    def test_help_names_the_configurations_that_come_along(self, run):
        _, told, _ = run("fit", "restoration", "--help")
        assert "or one that comes along: compact_x2, hat_x4," in " ".join(told.split())

    def test_options_win_over_the_configuration(self, configured, tmp_path):
        file = tmp_path / "run.yaml"
        file.write_text("scene: a.tif\nclusters: 3\nseed: 5\n")
        options = configured("classify", "--config", str(file), "--seed=6")
        assert (options["scene"], options["clusters"], options["seed"]) == ("a.tif", 3, 6)


class TestResults:
    def test_a_map_is_summed_up(self, run, files, out, model):
        code, told, errors = run("classify", files.scene, "--model", model, "--out", out)
        assert code == 0
        for name in ("water", "trees", "meadow", "hectares", f"map: {out}/scene_classes.tif", f"report: {out}/scene_report.json"):
            assert name in told
        assert "seconds" in told
        assert errors == f"info: {files.scene}: 1 of 24 bands dropped (bad band list, no data or alpha)\n"

    def test_an_unsupervised_map_is_called_one(self, run, files, out):
        code, told, errors = run("classify", files.scene, "--out", out)
        assert code == 0
        assert "warning: no labels and no model: this is an unsupervised map" in errors
        assert "cluster 8" in told

    def test_long_lines_stay_whole_and_brackets_are_no_markup(self, run, files, tmp_path):
        folder = tmp_path / ("long" * 40) / "[red]:smile:"
        folder.mkdir(parents=True)
        code, told, _ = run("classify", files.scene, "--out", folder)
        assert code == 0
        assert f"map: {folder}/scene_classes.tif\n" in told

    def test_figures_are_shown_and_written(self, run, files, out):
        figures = out / "figures.json"
        evaluation = ["evaluate", "hyperspectral", files.scene, files.labels, "--models", "svm", "--per_class=9", "--seeds=2"]
        code, told, errors = run(*evaluation, "--out", figures)
        assert code == 0
        assert "9 pixels per class at random, 2 seeds" in told
        assert "±" in told
        assert "info: split 2 of 2: svm" in errors
        assert json.loads(figures.read_text())["models"]["svm"]["oa"]["splits"] == 2

    def test_a_function_s_return_code_is_the_program_s(self, run, monkeypatch):
        monkeypatch.setattr("geovit.apps.doctor.doctor", lambda: 1)
        assert run("doctor")[0] == 1


def write(path, values, like, **changes):
    with rasterio.open(like) as src:
        profile = {key: src.profile[key] for key in ("height", "width", "crs", "transform", "nodata")}
    profile |= {"driver": "GTiff", "count": 1, "dtype": values.dtype} | changes
    with rasterio.open(path, "w", **profile) as dst:
        dst.write(values, 1)
    return path


def label(files, path, places):
    values = np.zeros((50, 70), np.uint8)
    for value, place in places.items():
        values[place] = value
    return write(path, values, files.labels)


@pytest.fixture(scope="module")
def bad(files, model, tmp_path_factory):
    """Files that something is wrong with."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.tif").write_text("no raster")
    (folder / "text.gpkg").write_text("no vector")
    (folder / "empty.tif").touch()
    (folder / "folder.tif").mkdir()
    content = files.scene.read_bytes()
    (folder / "half.tif").write_bytes(content[: len(content) // 2])
    (folder / "most.tif").write_bytes(content[:-20])  # all pixels are there, the tags with the wavelengths are not
    empty = np.full((50, 70), -32768, np.int16)
    write(folder / "nodata.tif", empty, files.scene)
    (folder / "zero.vrt").write_text('<VRTDataset rasterXSize="20" rasterYSize="10"></VRTDataset>')
    with rasterio.open(files.scene) as src:
        plain = src.profile
        with rasterio.open(folder / "plain.tif", "w", **plain) as dst:  # no wavelengths
            dst.write(src.read())
    inside = (slice(20, 24), slice(30, 40))
    label(files, folder / "one.tif", {7: inside})
    label(files, folder / "single.tif", {1: inside, 2: (slice(30, 34), slice(30, 40)), 9: (25, 35)})
    label(files, folder / "none.tif", {})
    beside = np.argwhere(~np.isfinite(open_scene(files.scene).read()).all(0))  # of the swath
    label(files, folder / "outside.tif", {1: tuple(beside[:6].T), 2: tuple(beside[-6:].T)})
    with rasterio.open(files.labels) as src:
        far = rasterio.Affine.translation(1e5, 0) @ src.transform
        write(folder / "far.tif", src.read(1), files.labels, transform=far)
    west, south, east, north = open_scene(files.scene).grid.bounds
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    feature = {"type": "Feature", "properties": {"kind": 1, "owner": 2}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    (folder / "labels.geojson").write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    (folder / "half.safetensors").write_bytes(model.read_bytes()[:5000])
    save_file({"a": np.ones(2)}, folder / "other.safetensors")
    (folder / "list.yaml").write_text("- a\n- b\n")
    (folder / "odd.yaml").write_text("training: {speed: 9}\n")
    (folder / "broken.yaml").write_text("training: {speed: [\n")
    (folder / "classes.csv").write_text("value,name\n77,moon\n")
    (folder / "file").touch()
    return folder


# The options, with {} for the folder of bad files, and what the one line must say.
CASES = {
    "missing scene": ("{}/none_such.tif", "none_such.tif: no such file"),
    "not a raster": ("{}/text.tif", "text.tif: not a raster that GDAL can open"),
    "empty file": ("{}/empty.tif", "empty.tif: not a raster"),
    "a folder": ("{}/folder.tif", "folder.tif: not a raster"),
    "truncated": ("{}/half.tif", "half.tif: "),
    "slightly truncated": ("{}/most.tif", "most.tif: truncated or damaged"),
    "zero bands": ("{}/zero.vrt", "zero.vrt: not a raster that GDAL can open .*bands"),
    "all nodata": ("{}/nodata.tif", "nodata.tif: every pixel is nodata"),
    "missing labels": ("SCENE --labels {}/none_such.tif", "none_such.tif: no such file"),
    "labels no raster": ("SCENE --labels {}/text.tif", "text.tif: neither a raster nor a vector file"),
    "labels no vector": ("SCENE --labels {}/text.gpkg", "text.gpkg"),
    "labels elsewhere": ("SCENE --labels {}/far.tif", "far.tif: no overlap of labels in .* with the scene"),
    "labels on nodata": ("SCENE --labels {}/outside.tif", "all 12 labelled pixels lie where the scene has no data"),
    "no labels": ("SCENE --labels {}/none.tif", "none.tif: no labelled pixel on the scene"),
    "one class": ("SCENE --labels {}/one.tif", r"the labels hold one class only \(class 7\)"),
    "one pixel": ("SCENE --labels {}/single.tif", r"only one usable pixel of class class 9 \(9\)"),
    "unknown field": ("SCENE --labels {}/labels.geojson --field crop", "crop.*kind, owner"),
    "ambiguous field": ("SCENE --labels {}/labels.geojson", "kind.*owner"),
    "classes of others": ("SCENE --labels LABELS --classes {}/classes.csv", "classes.csv: values 77"),
    "missing classes": ("SCENE --labels LABELS --classes {}/none_such.csv", "none_such.csv: no such file"),
    "no wavelengths": ("{}/plain.tif --model MODEL", "plain.tif has no wavelengths, the model needs 23 bands"),
    "other bands": ("LABELS --model MODEL", "labels.tif has no wavelengths"),
    "missing model": ("SCENE --model {}/none_such.safetensors", "no such file: .*none_such.safetensors"),
    "truncated model": ("SCENE --model {}/half.safetensors", "half.safetensors is not a whole safetensors file"),
    "other model": ("SCENE --model {}/other.safetensors", "other.safetensors is not a model of `geovit classify`"),
    "model no model": ("SCENE --model {}/text.tif", "text.tif is not a whole safetensors file"),
    "labels and model": ("SCENE --labels LABELS --model MODEL", "both labels and a model were given"),
    "out is a file": ("SCENE --out {}/file", "cannot write .*file is not a folder"),
    "out below a file": ("SCENE --out {}/file/new", "cannot make the folder .*file/new: Not a directory"),
    "unknown device": ("SCENE --device tpu", "device is 'tpu', available here are auto, "),
    "unknown precision": ("SCENE --precision fp8", "fp8"),
    "precision of others": ("SCENE --precision fp16 --device cpu", "precision is 'fp16', this cpu allows auto, fp32"),
    "few clusters": ("SCENE --clusters 1", "clusters is 1, allowed are 2..255"),
    "many clusters": ("SCENE --clusters 256", "clusters is 256, allowed are 2..255"),
    "clusters no number": ("SCENE --clusters many", "--clusters: expected int. Got value: many"),
    "unknown option": ("SCENE --colour red", "--colour"),
    "no scene": ("--clusters 3", "scene"),
    "option without value": ("SCENE --labels", "--labels.*expected one argument"),
    "unknown recipe": (
        "SCENE --recipe resnet",
        "no recipe 'resnet': allowed are encoder, lola_specvit, spectral_swin and YAML",
    ),
    "recipe with other keys": ("SCENE --recipe {}/odd.yaml", "odd.yaml is no recipe: .*speed"),
    "recipe no mapping": ("SCENE --recipe {}/list.yaml", "list.yaml"),
    "recipe no yaml": ("SCENE --recipe {}/broken.yaml", "broken.yaml is not YAML"),
    "recipe a raster": ("SCENE --recipe SCENE", "scene.tif is not YAML"),
    "impossible recipe": ("SCENE --labels LABELS --recipe.transform.components 500", "components is 500, allowed are 1..24"),
    "even patch": ("SCENE --labels LABELS --recipe lola_specvit --recipe.lola_specvit.patch 14", "patch is 14"),
    "missing configuration": ("--config {}/none_such.yaml", "none_such.yaml"),
    "probabilities of nothing": ("SCENE --probabilities", "probabilities need labels or a model"),
}


class TestBadInput:
    @pytest.mark.parametrize("case", CASES)
    def test_one_line_says_what_is_wrong_and_nothing_is_written(self, run, files, model, bad, out, monkeypatch, case):
        template, message = CASES[case]
        words = {"SCENE": str(files.scene), "LABELS": str(files.labels), "MODEL": str(model)}
        arguments = [words.get(word, word.replace("{}", str(bad))) for word in template.split()]
        if "--out" not in arguments:
            arguments = ["--out", str(out), *arguments]
        monkeypatch.chdir(out)
        before = {path: path.stat().st_mtime_ns for path in bad.iterdir()}
        code, told, errors = run("classify", *arguments)
        assert (code, told) == (2, "")
        *notes, line = errors.splitlines()
        assert line.startswith("geovit: ")
        assert all(note.startswith(("info: ", "warning: ")) for note in notes), errors
        assert "Traceback" not in errors
        assert "<class" not in errors
        assert re.search(message, line), line
        assert names(out) == []
        assert {path: path.stat().st_mtime_ns for path in bad.iterdir()} == before

    def test_other_commands_answer_alike(self, run, files, bad, out):
        for arguments in (
            ["fit", "hyperspectral", files.scene, bad / "one.tif", "--out", out],
            ["evaluate", "hyperspectral", files.scene, bad / "one.tif", "--out", out / "f.json", "--models", "svm"],
            ["evaluate", "hyperspectral", files.scene, files.labels, "--out", bad / "file" / "f.json"],
            ["evaluate", "hyperspectral", files.scene, files.labels, "--protocol", "luck"],
            ["demo", "--out", bad / "file"],
            ["bench", "--seconds", "0"],
        ):
            code, _, errors = run(*arguments)
            assert code == 2
            assert [line.startswith("geovit: ") for line in errors.splitlines()].count(True) == 1, errors
            assert names(out) == []

    def test_existing_results_need_overwrite(self, run, files, out):
        (out / "scene_report.json").write_text("mine")
        code, _, errors = run("classify", files.scene, "--out", out)
        assert code == 2
        assert errors.splitlines()[-1] == f"geovit: {out}/scene_report.json exists: pass --overwrite"
        assert names(out) == ["scene_report.json"]
        assert run("classify", files.scene, "--out", out, "--overwrite")[0] == 0

    @pytest.mark.parametrize("limit", [500, 3000, 20_000])
    def test_a_full_disk_leaves_nothing(self, run, files, model, out, limit):
        # A limit on the size of files: the system refuses to write on in the same places.
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            code, told, errors = run("classify", files.scene, "--model", model, "--out", out, "--probabilities", "--quicklook")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (code, told) == (2, "")
        unfinished = r"\.scene_classes\.tif\.unfinished/journal: "
        assert re.match(rf"geovit: cannot write {out}/(scene_|{unfinished})", errors.splitlines()[-1])
        assert "Traceback" not in errors
        assert names(out) == []

    def test_a_model_that_does_not_fit_on_the_disk_leaves_nothing(self, run, files, out):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            code, told, errors = run("fit", "hyperspectral", files.scene, files.labels, "--out", out, *TINY)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (code, told) == (2, "")
        assert errors.splitlines()[-1].startswith(f"geovit: cannot write {out}/scene_model.safetensors: ")
        assert names(out) == []

    def test_debug_shows_the_traceback(self, run, bad, out):
        with pytest.raises(FileNotFoundError, match="no such file"):
            run("classify", bad / "none_such.tif", "--out", out, "--debug")

    def test_a_missing_extra_is_explained(self, run, monkeypatch):
        def missing(*_):
            raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")

        monkeypatch.setattr(cli, "import_module", missing)
        code, _, errors = run("classify", "s.tif")
        assert (code, errors) == (2, "geovit: No module named 'sklearn' (geovit doctor shows which extra holds it)\n")

    def test_an_interrupt_is_no_error_of_ours(self, run, monkeypatch, out):
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(cli, "_run", interrupted)
        assert run("classify", "s.tif") == (130, "", "geovit: interrupted\n")

    @pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
    def test_sigterm_is_heeded_as_ctrl_c_is(self, run, monkeypatch):
        cleaned = []

        def terminated(*_, **__):
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt:
                cleaned.append(True)
                raise

        monkeypatch.setattr(cli, "_run", terminated)
        assert run("classify", "s.tif") == (143, "", "geovit: terminated\n")
        assert cleaned
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def catches(process, number):
    """Whether a process does something of its own at a signal, as far as the system tells."""
    status = Path(f"/proc/{process.pid}/status")
    return not status.is_file() or int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16) >> (number - 1) & 1 == 1


class TestProcess:
    """What only a process of its own shows."""

    def test_a_run_says_nothing_but_our_own_messages(self, files, out):
        process = geovit("classify", files.scene, "--labels", files.labels, "--out", out, "--quicklook", *TINY)
        told, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert errors.splitlines() == [
            f"info: {files.scene}: 1 of 24 bands dropped (bad band list, no data or alpha)",
            "info: fitting member 1 of 1",
        ]
        assert f"report: {out}/scene_report.json" in told.splitlines()
        grid = open_scene(files.scene).grid
        assert [info.name for info in read_labels(out / "scene_classes.tif", grid).classes] <= ["water", "trees", "meadow"]

    @pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
    @pytest.mark.parametrize(("sent", "code", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
    def test_a_signal_while_fitting_ends_it_quietly(self, files, out, sent, code, word):
        long = [*TINY, "--recipe.training.steps=100000", "--recipe.training.patience=100000"]
        process = geovit("classify", files.scene, "--labels", files.labels, "--out", out, *long)
        for line in process.stderr:
            if "fitting member" in line:
                break
        time.sleep(1.5)
        while not catches(process, getattr(signal, sent)):  # on a busy machine, fitting has not begun
            time.sleep(0.1)
        process.send_signal(getattr(signal, sent))
        told, errors = process.communicate(timeout=60)
        assert (process.returncode, told) == (code, "")
        assert errors.splitlines()[-1] == f"geovit: {word}"
        assert names(out) == []

    def test_the_installed_program_is_the_same(self):
        program = shutil.which("geovit", path=Path(sys.executable).parent)
        assert program is not None
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout == f"geovit {__version__}\n"
