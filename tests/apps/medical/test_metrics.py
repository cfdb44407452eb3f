"""Dice, HD95 and surface Dice: against MONAI's, and against their definitions written out."""

import math
import warnings

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, HausdorffDistanceMetric, SurfaceDiceMetric
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter

from geovit.apps.medical.metrics import EMPTY_RULES, measure, predicted_values, true_values
from geovit.apps.medical.plan import Target

SPACINGS = [(1.0, 1.0, 1.0), (0.7, 0.9, 3.0)]
ORGANS = tuple(Target(name=name, values=(value,), output=value) for value, name in enumerate(("liver", "spleen", "vessel"), 1))
BRATS = (
    Target(name="whole", values=(1, 2, 4), output=2),
    Target(name="core", values=(1, 4), output=1),
    Target(name="enhancing", values=(4,), output=4),
)


def blobs(seed, shape=(31, 40, 23), classes=3):
    """Labels of smooth shapes that touch each other and the border."""
    noise = np.random.default_rng(seed).normal(size=(classes + 1, *shape))
    return np.argmax([gaussian_filter(plane, 3) for plane in noise], axis=0).astype(np.uint8)


def one_hot(labels, classes=3):
    return torch.from_numpy(np.stack([labels == value for value in range(classes + 1)])[None]).float()


def of_monai(metric, predicted, truth, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of empty masks
        return metric(one_hot(predicted), one_hot(truth), **options)[0].tolist()


@pytest.mark.parametrize("spacing", SPACINGS)
def test_figures_are_those_of_monai(spacing):
    predicted, truth = blobs(1), blobs(2)
    scores = measure(predicted, truth, ORGANS, False, spacing, tolerance=2.2).values()
    dice = of_monai(DiceMetric(include_background=False), predicted, truth)
    assert [score.dice for score in scores] == pytest.approx(dice, abs=1e-6)
    hd95 = of_monai(HausdorffDistanceMetric(include_background=False, percentile=95), predicted, truth, spacing=spacing)
    assert [score.hd95 for score in scores] == pytest.approx(hd95, abs=1e-6)
    surface = of_monai(SurfaceDiceMetric([2.2] * 3, include_background=False), predicted, truth, spacing=spacing)
    assert [score.surface_dice for score in scores] == pytest.approx(surface, abs=1e-6)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_figures_are_those_of_the_definitions(spacing):
    predicted, truth = blobs(3), blobs(4)
    scores = measure(predicted, truth, ORGANS, False, spacing, tolerance=1.5)
    for target in ORGANS:
        a, b = predicted == target.output, truth == target.output
        score = scores[target.name]
        assert score.dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), abs=1e-12)
        surfaces = [mask & ~binary_erosion(mask) for mask in (a, b)]
        maps = [distance_transform_edt(~surface, sampling=spacing) for surface in surfaces]
        there, back = maps[1][surfaces[0]], maps[0][surfaces[1]]
        assert score.hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), abs=1e-9)
        within = (there <= 1.5).sum() + (back <= 1.5).sum()
        assert score.surface_dice == pytest.approx(within / (len(there) + len(back)), abs=1e-12)
        assert score.predicted_ml == pytest.approx(a.sum() * np.prod(spacing) / 1000)
        assert score.truth_ml == pytest.approx(b.sum() * np.prod(spacing) / 1000)
        assert score.missing is None


def test_two_boxes_a_known_distance_apart():
    truth, predicted = np.zeros((2, 20, 20, 20), np.int16)
    truth[4:10, 4:10, 4:10] = predicted[7:13, 4:10, 4:10] = 1
    target = ORGANS[:1]
    score = measure(predicted, truth, target, False, (2.0, 1.0, 1.0), tolerance=6.0)["liver"]
    assert (score.dice, score.hd95, score.surface_dice) == (0.5, 6.0, 1.0)
    assert score.truth_ml == 0.432
    # In single precision, as files have it, three voxels of 0.7 mm are a little more than 2.1 mm.
    spacing = (float(np.float32(0.7)) * (1 + 1e-7), 1.0, 1.0)
    assert measure(predicted, truth, target, False, spacing, tolerance=2.1)["liver"].surface_dice == 1.0


def test_hd95_is_the_greater_of_both_directions_and_not_of_the_pooled_distances():
    truth, predicted = np.zeros((2, 60, 30, 30), np.uint8)
    truth[2:20, 2:28, 2:28] = predicted[2:20, 2:28, 2:28] = 1
    predicted[50:54, 10:14, 10:14] = 1  # 56 of about 2,900 surface voxels: under 5 % of both directions
    truth[40:44, 2:28, 2:28] = 1  # far from the prediction
    score = measure(predicted, truth, ORGANS[:1], False, (1.0, 1.0, 1.0))["liver"]
    surfaces = [mask.astype(bool) & ~binary_erosion(mask) for mask in (predicted, truth)]
    maps = [distance_transform_edt(~surface) for surface in surfaces]
    there, back = maps[1][surfaces[0]], maps[0][surfaces[1]]
    assert score.hd95 == max(np.percentile(there, 95), np.percentile(back, 95))
    assert score.hd95 > np.percentile(np.concatenate([there, back]), 95)


def test_a_region_holds_what_is_painted_over_it():
    rng = np.random.default_rng(0)
    predicted, truth = rng.choice([0, 1, 2, 4], size=(2, 12, 12, 12)).astype(np.uint8)
    scores = measure(predicted, truth, BRATS, True, (1, 1, 1))
    for target in BRATS:
        a, b = np.isin(predicted, target.values), np.isin(truth, target.values)
        assert scores[target.name].dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert predicted_values(BRATS) == true_values(BRATS) == {0, 1, 2, 4}


def test_a_class_may_have_other_values_in_predictions_than_in_the_truth():
    truth = blobs(5) * 50
    targets = tuple(Target(name=t.name, values=(t.output * 50,), output=t.output) for t in ORGANS)
    scores = measure(truth // 50, truth, targets, False, (1, 1, 1))
    assert {score.dice for score in scores.values()} == {1.0}
    assert (predicted_values(targets), true_values(targets)) == ({0, 1, 2, 3}, {0, 50, 100, 150})


@pytest.mark.parametrize(
    ("rule", "both", "false_alarm", "missed"),
    [
        ("nan", (math.nan, math.nan, math.nan), (0.0, math.nan, 0.0), (0.0, math.nan, 0.0)),
        ("monai", (math.nan, math.nan, math.nan), (math.nan, math.nan, 0.0), (0.0, math.nan, 0.0)),
        ("one", (1.0, 0.0, 1.0), (0.0, math.nan, 0.0), (0.0, math.nan, 0.0)),
        ("brats", (1.0, 0.0, 1.0), (0.0, 373.128664, 0.0), (0.0, 373.128664, 0.0)),
    ],
)
def test_empty_masks_have_the_figures_of_the_rule(rule, both, false_alarm, missed):
    nothing = np.zeros((24, 24, 31), np.uint8)
    something = nothing.copy()
    something[10:14, 10:14, 10:14] = 1
    cases = {"both": (nothing, nothing, both), "truth": (something, nothing, false_alarm)}
    for missing, (predicted, truth, wanted) in {**cases, "prediction": (nothing, something, missed)}.items():
        score = measure(predicted, truth, ORGANS[:1], False, (10, 10, 5), empty=rule)["liver"]
        assert (score.dice, score.hd95, score.surface_dice) == pytest.approx(wanted, nan_ok=True, abs=1e-5)
        assert score.missing == missing
    assert set(EMPTY_RULES) == {"nan", "monai", "one", "brats"}


def test_the_rule_named_monai_is_what_monai_does():
    nothing = np.zeros((16, 16, 16), np.uint8)
    something = nothing.copy()
    something[4:8, 4:8, 4:8] = 1
    for predicted, truth in ((nothing, nothing), (something, nothing), (nothing, something)):
        score = measure(predicted, truth, ORGANS[:1], False, (1, 1, 1), empty="monai")["liver"]
        assert score.dice == pytest.approx(of_monai(DiceMetric(include_background=False), predicted, truth)[0], nan_ok=True)
        surface = of_monai(SurfaceDiceMetric([1.0] * 3, include_background=False), predicted, truth)[0]
        assert score.surface_dice == pytest.approx(surface, nan_ok=True)
        # One mask empty: infinity or not-a-number with MONAI, by version; neither has a place in a mean.
        hd95 = of_monai(HausdorffDistanceMetric(include_background=False, percentile=95), predicted, truth)[0]
        assert math.isnan(score.hd95)
        assert not math.isfinite(hd95)


def test_slices_are_measured_by_their_outline():
    predicted, truth = (blobs(seed, (41, 37)) for seed in (6, 7))
    flat = measure(predicted, truth, ORGANS, False, (0.5, 2.0))
    wanted = of_monai(HausdorffDistanceMetric(include_background=False, percentile=95), predicted, truth, spacing=(0.5, 2.0))
    assert [score.hd95 for score in flat.values()] == pytest.approx(wanted, abs=1e-6)
    for axis in range(3):
        spacing = np.insert([0.5, 2.0], axis, 5.0)
        deep = measure(np.expand_dims(predicted, axis), np.expand_dims(truth, axis), ORGANS, False, spacing)
        assert [score.hd95 for score in deep.values()] == [score.hd95 for score in flat.values()]
        assert [score.surface_dice for score in deep.values()] == [score.surface_dice for score in flat.values()]
    one = np.ones((1, 1, 1), np.uint8)
    assert measure(one, one, ORGANS[:1], False, (1, 1, 1))["liver"].hd95 == 0


def test_dice_alone_leaves_distances_out():
    scores = measure(blobs(1), blobs(2), ORGANS, False, (1, 1, 1), surfaces=False)
    full = measure(blobs(1), blobs(2), ORGANS, False, (1, 1, 1))
    assert all(math.isnan(score.hd95) and math.isnan(score.surface_dice) for score in scores.values())
    assert [score.dice for score in scores.values()] == [score.dice for score in full.values()]


def test_labels_of_any_integer_type_and_byte_order():
    wanted = measure(blobs(1), blobs(2), ORGANS, False, (1, 1, 1))
    for dtype in ("<i2", ">i2", ">u4", "i8", "i1"):
        assert measure(blobs(1).astype(dtype), np.asfortranarray(blobs(2).astype(dtype)), ORGANS, False, (1, 1, 1)) == wanted


def test_what_cannot_be_measured_is_told():
    labels = blobs(1)
    with pytest.raises(
        ValueError, match=r"labels of \[30, 40, 23\] and \[31, 40, 23\] voxels with 3 spacings: expected one grid"
    ):
        measure(labels[1:], labels, ORGANS, False, (1, 1, 1))
    with pytest.raises(ValueError, match="with 2 spacings"):
        measure(labels, labels, ORGANS, False, (1, 1))
    with pytest.raises(ValueError, match="labels are float32: expected integers"):
        measure(labels.astype(np.float32), labels, ORGANS, False, (1, 1, 1))
    with pytest.raises(ValueError, match="tolerance is -1: expected 0 mm or more"):
        measure(labels, labels, ORGANS, False, (1, 1, 1), tolerance=-1)
