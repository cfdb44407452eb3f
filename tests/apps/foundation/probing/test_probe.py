import json
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits

from geovit.apps.cli import main
from geovit.apps.foundation.images import codes
from geovit.apps.foundation.probing.cells import Cells, across_places, gather, majority, within_places
from geovit.apps.foundation.probing.labelled import read_labelled
from geovit.apps.foundation.probing.methods import Extractor, FeatureOptions, pooled, surroundings
from geovit.apps.foundation.probing.probe import ProbeSplit, probe
from geovit.apps.foundation.probing.probes import linear_probe, neighbour_probe
from geovit.apps.foundation.probing.references import band_statistics, random_convolutions
from geovit.apps.foundation.probing.scoring import balanced_accuracy, confusions, interval, macro_f1, resampled, stratified
from geovit.apps.foundation.probing.study import Method, compare, predict
from geovit.core.sensors.batch import SensorBatch
from geovit.core.sensors.encoder import EncoderConfig, build_encoder
from geovit.core.sensors.model import FoundationModel, load_model, save_model
from geovit.core.sensors.normalization import Normalization
from geovit.datasets.sensors import sensor


def places(count, side=12, classes=3, seed=0):
    """Random labels in patches of 2 x 2 cells, so that blocks have all classes."""
    random = np.random.default_rng(seed)
    targets = [random.integers(classes, size=(side // 2, side // 2)).repeat(2, 0).repeat(2, 1).ravel() for _ in range(count)]
    names = tuple(f"class {k}" for k in range(classes))
    return Cells(np.concatenate(targets), names, tuple(f"place {k}" for k in range(count)), ((side, side),) * count)


def telling(cells, noise=0.1, seed=0):
    """Features that tell the class."""
    random = np.random.default_rng(seed)
    centres = np.eye(len(cells.classes))[cells.targets]
    return (centres + random.normal(0, noise, centres.shape)).astype(np.float32)


def silent(cells, seed=0):
    return np.random.default_rng(seed).normal(size=(len(cells.targets), 8)).astype(np.float32)


def splits(cells):
    return {
        "places": list(across_places(cells)),
        "blocks": list(within_places(cells, folds=3, block=4, buffer=1, seed=0)),
    }


@pytest.mark.parametrize(("kind", "name"), [("places", "linear"), ("places", "knn"), ("blocks", "knn")])
def test_what_tells_the_class_scores_1_and_noise_scores_chance(kind, name):
    cells = places(2)
    methods = [Method("telling", [[telling(cells)]])]
    methods += [Method(f"noise {k}", [[silent(cells, k)]]) for k in range(1 if name == "linear" else 10)]
    study = compare(cells, splits(cells)[kind], methods, probes=[name], block=4, draws=200, seed=0)
    found = study.accuracy[name]
    assert found["telling"].value == study.f1[name]["telling"].value == 1
    noise = [found[method.name] for method in methods[1:]]
    assert sum(one.low <= 1 / 3 <= one.high for one in noise) >= 0.8 * len(noise)
    assert all(study.differences[name][method.name].low > 0.4 for method in methods[1:])
    assert "telling" not in study.differences[name]
    assert study.unit == "blocks within each place"


@pytest.mark.parametrize(("kind", "name"), [("places", "linear"), ("blocks", "knn")])
def test_labels_of_tested_cells_change_no_prediction(kind, name):
    cells = places(2)
    features = telling(cells, noise=1.0)
    for fold in splits(cells)[kind]:
        shuffled = cells.targets.copy()
        shuffled[fold.test] = np.random.default_rng(1).permutation(shuffled[fold.test])
        others = replace(cells, targets=shuffled)
        groups = cells.blocks(4)
        first = predict(cells, [fold], [features], name, groups=groups)
        np.testing.assert_array_equal(first, predict(others, [fold], [features], name, groups=groups))
        assert ((first >= 0) == fold.test).all()


def test_features_of_tested_cells_change_no_fitted_weight():
    cells = places(2)
    fold = splits(cells)["places"][0]
    features = telling(cells, noise=1.0)
    changed = features.copy()
    changed[fold.test] += 100
    asked = silent(cells, 5)[:, :3]
    groups = cells.blocks(4)
    found = [predict(cells, [fold], [f], "linear", groups=groups, asked=[asked]) for f in (features, changed)]
    np.testing.assert_array_equal(*found)


def test_no_training_cell_is_within_the_buffer_and_each_cell_tests_once():
    cells = places(2)
    folds = splits(cells)["blocks"]
    assert (sum(fold.test.astype(int) for fold in folds) == 1).all()
    row, column = np.divmod(np.arange(144), 12)
    for fold in folds:
        assert len(np.unique(cells.place[fold.test | fold.training])) == 1
        test, train = np.flatnonzero(fold.test) % 144, np.flatnonzero(fold.training) % 144
        apart = np.maximum(abs(row[test][:, None] - row[train]), abs(column[test][:, None] - column[train]))
        assert apart.min() == 2


def test_classes_that_training_lacks_are_named_and_not_tested():
    targets = np.array([0, 1, 0, 1, 0, 2, 2, 1])
    cells = Cells(targets, ("a", "b", "c"), ("p", "q"), ((2, 2), (2, 2)))
    first, second = across_places(cells)
    assert (first.unseen, second.unseen) == ((), ("c",))
    np.testing.assert_array_equal(np.flatnonzero(second.test), [4, 7])


def test_the_candidate_is_chosen_on_training_cells():
    cells = places(1, side=24)
    groups = cells.blocks(4)
    which, _ = linear_probe([silent(cells), telling(cells)], cells.targets, groups)
    assert which == 1


def test_regressions_multiply_on_one_thread(monkeypatch):
    """On cores that are busy, each product would wait for a second thread."""
    seen, fit = set(), LogisticRegression.fit

    def counted(model, *data):
        seen.update(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return fit(model, *data)

    monkeypatch.setattr(LogisticRegression, "fit", counted)
    cells = places(1, side=24)
    with threadpool_limits(2, user_api="blas"):
        linear_probe([telling(cells)], cells.targets, cells.blocks(4))
        after = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
    assert seen == {1}
    assert after == {2}


def test_neighbours_vote_by_their_similarity():
    features = np.concatenate([np.tile([[1.0, 0.2]], (2, 1)), np.tile([[0.2, 1.0]], (30, 1))]).astype(np.float32)
    targets = np.array([0, 0] + [1] * 30)
    np.testing.assert_array_equal(neighbour_probe(features, targets)(np.array([[1.0, 0.2], [0.2, 1.0]], np.float32)), [0, 1])


def test_figures_are_those_of_scikit_learn():
    from sklearn.metrics import balanced_accuracy_score, f1_score

    random = np.random.default_rng(0)
    truth, guess = random.integers(3, size=200), random.integers(3, size=200)
    matrix = confusions(truth, guess, random.integers(9, size=200), 4).sum(0)
    assert balanced_accuracy(matrix) == pytest.approx(balanced_accuracy_score(truth, guess))
    assert macro_f1(matrix) == pytest.approx(f1_score(truth, guess, average="macro"))


def test_intervals_cover_the_truth_though_cells_of_a_block_are_alike():
    """Cells of a block are right or wrong together: drawing cells would promise far too much."""
    random = np.random.default_rng(0)
    covered, narrow = 0, 0
    trials = 120
    for trial in range(trials):
        right = (random.random((2, 40)) < 0.7).repeat(16, axis=1)  # two places of 40 blocks of 16 cells
        targets = random.integers(2, size=right.shape)
        guess = np.where(right, targets, 1 - targets)
        for alike in (16, 1):
            unit = np.arange(right.shape[1]) // alike
            matrices = [confusions(t, g, unit, 2) for t, g in zip(targets, guess, strict=True)]
            found = interval(stratified(matrices, resampled([len(m) for m in matrices], 200, trial)))
            inside = found.low <= 0.7 <= found.high
            covered, narrow = (covered + inside, narrow) if alike == 16 else (covered, narrow + inside)
    assert 0.88 < covered / trials < 0.99
    assert narrow / trials < 0.6


def test_cells_have_the_label_of_their_majority():
    labels = np.array([[1, 1, 2, 2, 9], [1, 1, 2, 0, 9], [3, 4, 0, 0, 9], [3, 4, 0, 0, 9]])
    np.testing.assert_array_equal(majority(labels, 2, 0.75), [[1, 2], [0, 0]])
    with pytest.raises(ValueError, match="1 classes, expected two or more"):
        gather([labels], ["p"], {}, cell=2, purity=1.0)
    assert gather([labels], ["p"], {2: "wood"}, cell=2, purity=0.7).classes == ("class 1", "wood")


def test_statistics_leave_out_what_is_no_data():
    values = np.arange(2 * 4 * 6, dtype=np.float32).reshape(2, 4, 6)
    values[:, 0, 0] = np.nan
    found = band_statistics(values, 2)
    assert found.shape == (2, 3, 4)
    known = np.array([1, 6, 7])
    np.testing.assert_allclose(found[0, 0], [known.mean(), known.mean() + 24, known.std(), known.std()], rtol=1e-6)


def test_random_convolutions_are_the_two_sides_of_a_filtered_image():
    values = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)
    found = random_convolutions(values, 4, features=10, seed=3)
    assert found.shape == (2, 2, 10)
    np.testing.assert_array_equal(found, random_convolutions(values, 4, features=10, seed=3))
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(3))
    response = torch.nn.functional.conv2d(torch.from_numpy(values)[None], weight, padding=1)[0] - 1
    np.testing.assert_allclose(found[0, 1, :5], response[:, :4, 4:].relu().mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(found[0, 1, 5:], (-response[:, :4, 4:]).relu().mean((1, 2)), atol=1e-5)


def test_means_of_tokens_leave_out_what_is_no_data():
    tokens = np.arange(16, dtype=np.float32).reshape(4, 4, 1)
    tokens[:2, :2] = np.nan
    tokens[0, 2] = np.nan
    found = pooled(tokens, 2)[..., 0]
    np.testing.assert_allclose(found, [[np.nan, (3 + 6 + 7) / 3], [10.5, 12.5]])
    around = surroundings(pooled(tokens, 2), 3)[..., 0]
    np.testing.assert_allclose(around, np.full((2, 2), np.nanmean(found)), rtol=1e-6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two places whose classes are of different brightness, seen by two products, and a model."""
    root = tmp_path_factory.mktemp("places")
    random = np.random.default_rng(0)
    for number in range(2):
        labels = random.integers(1, 3, (6, 6)).repeat(8, 0).repeat(8, 1)
        for name, bands, add in (("S2L2A", 12, 0), ("S2L1C", 13, 300), ("LULC", 1, 0)):
            (root / name).mkdir(exist_ok=True)
            values = labels[None] if name == "LULC" else labels * 1000 + add + random.integers(0, 300, (bands, *labels.shape))
            values = values.astype(np.uint8 if name == "LULC" else np.int16)
            if name != "LULC":
                values[:, :2, :2] = 20  # dark pixels tell that nothing was added
            profile = {"driver": "GTiff", "count": bands, "height": 48, "width": 48, "dtype": values.dtype, "crs": "EPSG:32633"}
            where = Affine(10.0, 0.0, 4e5 + 1e4 * number, 0.0, -10.0, 5.8e6)
            with rasterio.open(root / name / f"p{number}.tif", "w", **profile, transform=where) as dst:
                dst.write(values)
    torch.manual_seed(0)
    config = EncoderConfig(dim=16, depth=1, heads=1, patch=8)
    wavelengths = codes(sensor("S2L1C").bands)
    values = torch.rand(1, 13, 16, 16) * 0.4
    batch = SensorBatch(values, torch.ones_like(values, dtype=torch.bool), wavelengths, torch.tensor([10.0]), "sentinel-2-l1c")
    model = FoundationModel(encoder=build_encoder(config), config=config, normalization=Normalization.fitted([batch]))
    save_model(root / "encoder.safetensors", model)
    return root


def test_images_on_a_scale_of_their_own_are_alike_however_bright(folder):
    image = read_labelled(folder, sensor_name="S2L2A").images[0]
    gain, offset = np.random.default_rng(0).uniform([[0.5], [0.0]], [[2.0], [0.3]], (2, len(image.bands)))[..., None, None]
    other = replace(image, values=(image.values * gain + offset).astype(np.float32))
    model = load_model(folder / "encoder.safetensors")
    by_scale = {
        scale: Extractor(model=model, options=FeatureOptions(scale=scale), cell=8).encoder([image, other])[0].reshape(2, -1)
        for scale in ("image", "model")
    }
    np.testing.assert_allclose(*by_scale["image"], atol=1e-3)
    assert np.abs(np.subtract(*by_scale["model"])).max() > 0.1


def test_the_command_writes_what_it_shows(folder, tmp_path, capsys):
    out = tmp_path / "figures.json"
    options = ["--features.seeds", "1", "--features.convolutions", "8", "--draws", "100", "--transfer", "S2L1C,half"]
    command = ["probe", str(folder), "--model", str(folder / "encoder.safetensors"), "--sensor", "S2L2A", *options]
    assert main([*command, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    report = json.loads(out.read_text())
    assert list(report["probes"]["linear"]) == ["encoder", "band statistics", "random convolutions", "untrained encoder"]
    assert report["probes"]["linear"]["band statistics"]["balanced_accuracy"]["value"] == 1
    assert list(report["transfer"]["encoder"]) == ["sentinel-2-l2a", "sentinel-2-l1c", "half"]
    assert report["tested"]["p0"].keys() == {"class 1", "class 2"}
    assert "one place tests, the others train" in report["protocol"]
    assert "band statistics" in shown
    assert main([*command, "--out", str(out)]) == 2
    assert "exists: pass --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probes": ["svm"]}, "probes svm: allowed are linear, knn"),
        ({"split": ProbeSplit(cell=12)}, "cell is 12, expected a multiple of the encoder's patch of 8"),
        ({"draws": 5}, "draws is 5"),
        ({"sensor": "sentinel-9"}, "unknown sensor"),
        ({"labels": "x.tif"}, "is a folder: its labels lie in it"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(folder, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        probe(str(folder), model=folder / "encoder.safetensors", **options)
    assert "\n" not in str(caught.value)


def test_a_scene_with_labels_is_split_into_blocks(folder, tmp_path):
    found = probe(
        str(folder / "S2L2A" / "p0.tif"), model=folder / "encoder.safetensors", sensor="S2L2A",
        labels=str(folder / "LULC" / "p0.tif"), probes=["knn"], split=ProbeSplit(block=2, buffer=0, folds=2), draws=100,
    ).report  # fmt: skip
    assert "blocks of 2 x 2 cells in 2 folds" in found["protocol"]
    assert found["probes"]["knn"]["band statistics"]["balanced_accuracy"]["value"] == 1
    with pytest.raises(ValueError, match="give its labels"):
        read_labelled(folder / "S2L2A" / "p0.tif", sensor_name="S2L2A")
