import json

import numpy as np
import pytest
import yaml
from rich.console import Console

from geovit.apps.hyperspectral import evaluation
from geovit.apps.hyperspectral.evaluation import evaluate, score
from geovit.apps.hyperspectral.recipe import named_recipe
from geovit.datasets import ClassInfo

CLASSES = tuple(ClassInfo(value, name, (0, 0, 0)) for value, name in ((1, "roof"), (10, "tree"), (300, "water")))


def refuse(text):
    raise AssertionError(f"{text} is not JSON")


@pytest.fixture(scope="module")
def recipe_file(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(tiny.to_dict()))))
    return str(path)


@pytest.fixture(scope="module")
def run(files, recipe_file):
    def run(*models, **options):
        names = models or (recipe_file, "svm", "forest")
        return evaluate(str(files.scene), str(files.labels), models=names, seeds=2, device="cpu", **options)

    return run


@pytest.fixture(scope="module")
def at_random(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("random") / "figures.json"
    return run(per_class=10, out=out), out


@pytest.fixture(scope="module")
def in_blocks(run):
    return run(protocol="blocks", block=12).report


def test_figures_are_means_over_the_splits(at_random):
    report = at_random[0].report
    for model in report["models"].values():
        assert len(model["splits"]) == 2
        for name in ("oa", "aa", "kappa", "leakage"):
            values = [split[name] for split in model["splits"]]
            assert model[name]["mean"] == pytest.approx(np.mean(values))
            assert model[name]["std"] == pytest.approx(np.std(values))
        for name, spread in model["f1"].items():
            assert spread["mean"] == pytest.approx(np.mean([split["f1"][name] for split in model["splits"]]))
    assert set(report["classes"]) == {"water", "trees", "meadow"}


def test_baselines_learn(at_random):
    models = at_random[0].report["models"]
    assert models["svm"]["oa"]["mean"] > 0.7
    assert models["forest"]["oa"]["mean"] > 0.7


def test_all_models_see_the_same_splits(at_random, in_blocks):
    for report in (at_random[0].report, in_blocks):
        tested = [[np.sum(split["confusion"], 1).tolist() for split in model["splits"]] for model in report["models"].values()]
        assert tested[0] == tested[1] == tested[2]
        assert tested[0][0] != tested[0][1] or report is not in_blocks
        assert report["protocol"]["seeds"] == [0, 1]


def test_only_training_pixels_reach_a_model(run, monkeypatch, labelled):
    given = []

    class Recorder:
        def fit(self, spectra, targets):
            given.append((spectra, targets))
            return self

        def predict(self, spectra):
            assert not set(map(bytes, spectra)) & set(map(bytes, given[-1][0])), "test and training pixels overlap"
            return np.zeros(len(spectra), dtype=np.int64)

    monkeypatch.setitem(evaluation.BASELINES, "svm", lambda targets, seed: Recorder())
    run("svm", per_class=12)
    assert [np.bincount(targets).tolist() for _, targets in given] == [[12, 12, 12]] * 2
    assert (given[0][0] != given[1][0]).any()
    assert all(set(map(bytes, spectra)) <= set(map(bytes, labelled.spectra())) for spectra, _ in given)


def test_leakage_is_told(at_random, in_blocks, model, recipe_file):
    random = at_random[0].report["models"]
    assert random[recipe_file]["reach"] == model.receptive_field
    assert random[recipe_file]["leakage"]["mean"] > 0.2
    assert random["svm"]["leakage"]["mean"] == 0
    assert in_blocks["protocol"]["buffer"] == model.receptive_field, "by default, the largest reach"
    assert all(row["leakage"]["mean"] == 0 for row in in_blocks["models"].values())


def test_a_share_of_each_class(run, labels):
    report = run("svm", per_class=0.5).report
    assert report["protocol"]["training_pixels"] == np.round(labels.counts() * 0.5).sum()
    assert report["protocol"]["test_pixels"] == labels.counts().sum() - report["protocol"]["training_pixels"]
    assert "50% of each class at random, 2 seeds" in report["protocol"]["text"]


def test_the_file_is_strict_json_and_the_same_report(at_random):
    evaluated, out = at_random
    assert json.loads(out.read_text(), parse_constant=refuse) == json.loads(json.dumps(evaluated.report))


def test_the_table_shows_every_model_and_class_with_the_protocol(at_random, recipe_file):
    console = Console(width=300)
    with console.capture() as capture:
        console.print(at_random[0])
    for word in (recipe_file, "svm", "forest", "water", "trees", "meadow", "10 pixels per class at random, 2 seeds", "kappa"):
        assert word in capture.get()


def test_scores_by_hand():
    truth = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    predicted = np.array([0, 0, 0, 1, 1, 1, 1, 1, 2, 0])
    figures = score(truth, predicted, CLASSES)
    assert figures["oa"] == pytest.approx(0.7)
    assert figures["aa"] == pytest.approx((3 / 4 + 4 / 6) / 2), "water is not in the test, so that it has no recall"
    chance = 0.4 * 0.4 + 0.6 * 0.5
    assert figures["kappa"] == pytest.approx((0.7 - chance) / (1 - chance))
    assert figures["f1"] == pytest.approx({"roof": 2 * 3 / (4 + 4), "tree": 2 * 4 / (6 + 5)})
    assert figures["absent"] == ["water"]
    assert figures["confusion"] == [[3, 1, 0], [1, 4, 1], [0, 0, 0]]


def test_kappa_of_a_single_class_is_undefined_and_so_in_json():
    figures = score(np.ones(4, dtype=int), np.ones(4, dtype=int), CLASSES)
    assert (figures["oa"], figures["kappa"]) == (1.0, None)
    summary = evaluation._summary([{**figures, "leakage": 0.0, "seconds": 1.0}], 0)
    assert json.loads(json.dumps(summary, allow_nan=False))["kappa"] == {"mean": None, "std": None, "splits": 0}


def test_absent_classes_are_named_and_shown(files, tmp_path, write_labels, capsys):
    labels = write_labels(tmp_path / "labels.tif", {300: (slice(20, 23), slice(30, 33))})
    evaluated = evaluate(str(files.scene), str(labels), models=["svm"], protocol="blocks", block=10, buffer=1, seeds=2)
    for split in evaluated.report["models"]["svm"]["splits"]:
        assert "class 300" in split["absent"]
        assert "class 300" not in split["f1"]
    Console(width=150).print(evaluated)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "class 300" in line)
    assert "not in the test" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds 0"),
        ({"models": ()}, "models \\[\\]"),
        ({"per_class": 1}, "per_class 1,.* two pixels or a share below 1"),
        ({"per_class": -3}, "per_class -3"),
        ({"test_share": 1.0}, "test_share 1"),
        ({"protocol": "blocks", "block": 0}, "block 0, buffer None: expected at least 1 and 0 pixels"),
        ({"protocol": "blocks", "buffer": -1}, "buffer -1"),
        ({"models": ("svm", "cnn")}, "no model or recipe 'cnn': allowed are svm, logistic, forest, .*spectral_swin"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"per_class": 5000, "models": ("svm",)}, "5000 to train on leave none to test"),
    ],
)
def test_wrong_options_are_named(files, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        evaluate(str(files.scene), str(files.labels), **options)
    assert "\n" not in str(caught.value)


def test_existing_figures_are_kept(run, at_random, monkeypatch):
    monkeypatch.setattr(evaluation, "open_scene", lambda _: pytest.fail("found out only after reading"))
    with pytest.raises(FileExistsError, match="exists: pass --overwrite"):
        run("svm", out=at_random[1])


def test_a_real_scene_of_two_matlab_files(data_dir):
    folder = data_dir / "hyperspectral/salinas_a"
    (scene,) = folder.glob("*_corrected.mat")
    (labels,) = folder.glob("*_gt.mat")
    report = evaluate(str(scene), str(labels), models=["svm"], per_class=10, seeds=2).report
    assert 0.95 < report["models"]["svm"]["oa"]["mean"] < 0.99
    assert report["classes"] == [f"class {value}" for value in (1, 10, 11, 12, 13, 14)]


def test_configured_recipes_are_measured_like_named_ones(recipe_file, tiny):
    assert named_recipe(recipe_file).training == tiny.training
