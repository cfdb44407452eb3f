import dataclasses
import logging
import random as python_random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from geovit.apps.hyperspectral import training as module
from geovit.apps.hyperspectral.recipe import named_recipe
from geovit.apps.hyperspectral.samples import Crops, LabelledScene, at_pixels, validation_folds
from geovit.apps.hyperspectral.training import fit, reach_of, tiling

CPU = torch.device("cpu")


def with_training(recipe, **changes):
    return dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, **changes))


def same_weights(a, b):
    first, second = a.state_dict(), b.state_dict()
    return all(torch.equal(value, second[name]) for name, value in first.items())


def everything(labelled):
    return np.ones(len(labelled), dtype=np.bool_)


@pytest.fixture(scope="module")
def half(labelled):
    """Training pixels of the left half only."""
    return labelled.columns < 30


@pytest.fixture(scope="module")
def left(scene, labelled, half, tiny):
    """What is fitted to them."""
    return fit(scene, labelled, half, tiny, seed=3, device=CPU)


@pytest.mark.parametrize("kind", ["tiny", "tiny_patches"])
def test_the_seed_decides_the_weights(kind, request, scene, labelled):
    recipe = request.getfixturevalue(kind)
    models = [fit(scene, labelled, everything(labelled), recipe, seed=seed, device=CPU) for seed in (1, 1, 2)]
    assert same_weights(models[0], models[1])
    assert not same_weights(models[0], models[2])


def test_nobody_elses_random_numbers_are_disturbed(scene, labelled, half, tiny, left):
    torch.manual_seed(99)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), python_random.getstate()  # noqa: NPY002 - the global one
    torch.rand(5)  # whatever was drawn before
    assert same_weights(fit(scene, labelled, half, tiny, seed=3, device=CPU), left)
    torch.set_rng_state(states[0])
    fit(scene, labelled, half, tiny, seed=3, device=CPU)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert python_random.getstate() == states[2]


def test_other_labels_than_those_to_train_on_are_not_looked_at(scene, labelled, labels, half, tiny, left):
    index = labels.index.copy()
    right = np.arange(index.shape[1]) >= 30
    index[:, right] = np.where(index[:, right] >= 0, (index[:, right] + 1) % 3, -1)
    other = LabelledScene(
        scene, dataclasses.replace(labels, targets=index[index >= 0]), margin=labelled.margin, core=tiling(tiny).core
    )
    np.testing.assert_array_equal(other.rows, labelled.rows)
    assert (other.targets != labelled.targets)[~half].all()
    assert same_weights(fit(scene, other, half, tiny, seed=3, device=CPU), left)


def test_spectra_far_from_the_training_pixels_are_not_looked_at(scene, labelled, labels, half, tiny, left, make_scene):
    cube = scene.read()
    reach = tiny.crop // 2 + tiny.jitter + reach_of(tiny)[0]
    cube[:, :, 30 + reach :] *= 3
    other = make_scene(cube, scene.wavelengths)
    pixels = LabelledScene(other, labels, margin=labelled.margin, core=tiling(tiny).core)
    assert not np.array_equal(pixels.spectra(), labelled.spectra())
    assert same_weights(fit(other, pixels, half, tiny, seed=3, device=CPU), left)


def test_statistics_are_those_of_the_training_pixels_without_the_held_out(labelled, half, tiny, left):
    folds = validation_folds(labelled, half, tiny.training, seed=3)
    for member, held_out in zip(left.members, folds, strict=True):
        spectra = torch.from_numpy(labelled.spectra()[half & ~held_out])
        torch.testing.assert_close(member.transform.band_mean, spectra.mean(0))


def test_members_train_on_what_they_do_not_hold_out(scene, labelled, half, tiny, monkeypatch):
    given = []

    def record(labelled, training, *arguments, **options):
        given.append(training)
        return Crops(labelled, training, *arguments, **options)

    monkeypatch.setattr(module, "Crops", record)
    recipe = with_training(tiny, members=3, steps=1)
    fit(scene, labelled, half, recipe, seed=0, device=CPU)
    folds = validation_folds(labelled, half, recipe.training, seed=0)
    for training, held_out in zip(given, folds, strict=True):
        assert held_out.any()
        np.testing.assert_array_equal(training, half & ~held_out)


def test_fitting_learns(scene, labelled, tiny):
    model = fit(scene, labelled, everything(labelled), with_training(tiny, steps=60, check_every=15), seed=0, device=CPU)
    (member,) = model.info.validation["members"]
    assert member["loss"][-1] < 0.7 * np.log(3)
    assert model.info.validation["accuracy"] > 0.6


def test_the_weights_of_the_lowest_validation_loss_are_kept(scene, labelled, tiny):
    recipe = with_training(tiny, steps=20, check_every=2, patience=100, lr=0.3)  # too large: the loss goes up and down
    model = fit(scene, labelled, everything(labelled), recipe, seed=0, device=CPU)
    (member,) = model.info.validation["members"]
    assert len(member["loss"]) == 10
    assert member["loss"][-1] > min(member["loss"])
    (held_out,) = validation_folds(labelled, everything(labelled), recipe.training, seed=0)
    assert member["validation_pixels"] == held_out.sum()
    network = nn.Sequential(model.members[0].transform, model.members[0].network)  # what is trained
    with torch.inference_mode():
        logits = at_pixels(network, labelled, held_out, reach=model.receptive_field, window=model.window)
    loss = F.cross_entropy(logits, torch.from_numpy(labelled.targets[held_out])).item()
    assert loss == pytest.approx(min(member["loss"]), rel=1e-4)


def test_training_stops_when_nothing_improves(scene, labelled, tiny):
    recipe = with_training(tiny, steps=1000, check_every=1, patience=2, lr=0.0)
    model = fit(scene, labelled, everything(labelled), recipe, seed=0, device=CPU)
    assert len(model.info.validation["members"][0]["loss"]) < 20


def test_members_differ_and_are_averaged(scene, labelled, tiny):
    model = fit(scene, labelled, everything(labelled), with_training(tiny, members=2, steps=3), seed=0, device=CPU)
    assert not same_weights(*model.members)
    with torch.inference_mode():
        x = labelled.tiles[0].values[None]
        apart = [(member(x) / model.temperature).softmax(1) for member in model.members]
        torch.testing.assert_close(model(labelled.tiles[0].values[None]), sum(apart) / 2)


def test_the_temperature_makes_the_held_out_pixels_likely(scene, labelled, tiny):
    recipe = with_training(tiny, steps=30, check_every=15)
    model = fit(scene, labelled, everything(labelled), recipe, seed=0, device=CPU)
    (held_out,) = validation_folds(labelled, everything(labelled), recipe.training, seed=0)
    with torch.inference_mode():
        logits = at_pixels(model.members[0], labelled, held_out, reach=model.receptive_field, window=model.window)
    targets = torch.from_numpy(labelled.targets[held_out])
    temperature = model.temperature
    best, *others = (F.cross_entropy(logits / (temperature * factor), targets) for factor in (1.0, 0.8, 1.25))
    assert 0.1 <= temperature <= 10
    assert all(best <= other + 1e-6 for other in others) or temperature in (0.1, 10.0)


def test_one_class_is_refused(scene, labelled, tiny):
    with pytest.raises(ValueError, match="the labels hold one class only"):
        fit(scene, labelled, labelled.targets == 1, tiny, seed=0, device=CPU)


def test_a_class_of_one_pixel_is_named(scene, labelled, tiny):
    training = labelled.targets != 2
    training[np.flatnonzero(labelled.targets == 2)[0]] = True
    with pytest.raises(ValueError, match=f"only one usable pixel of class {labelled.classes[2].name} \\(3\\)"):
        fit(scene, labelled, training, tiny, seed=0, device=CPU)


def test_labels_too_close_together_to_hold_any_out_still_fit(make_scene, make_labels, scene, tiny):
    index = np.full((16, 16), -1)
    index[5, 5:7], index[5, 7:9] = 0, 1
    cube = scene.read()[:, 15:31, 25:41]
    small = make_scene(cube)
    tiles = tiling(tiny)
    labelled = LabelledScene(small, make_labels(index), margin=tiles.margin, core=tiles.core)
    model = fit(small, labelled, everything(labelled), with_training(tiny, steps=2), seed=0, device=CPU)
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_nothing_is_written_beside_the_results(scene, labelled, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(scene, labelled, everything(labelled), with_training(tiny, steps=2), seed=0, device=CPU)
    assert list(tmp_path.iterdir()) == []


def test_each_member_is_announced(scene, labelled, tiny, caplog):
    with caplog.at_level(logging.INFO, logger="geovit"):
        fit(scene, labelled, everything(labelled), with_training(tiny, members=2, steps=1), seed=0, device=CPU)
    assert "fitting member 2 of 2" in caplog.text


@pytest.mark.parametrize("names", [("spectral_swin",), ("lola_specvit",), ("spectral_swin", "lola_specvit")])
def test_tiles_have_room_for_every_recipe_that_comes_with_the_package(names):
    recipes = [named_recipe(name) for name in names]
    tiles = tiling(*recipes)
    for recipe in recipes:
        reach, window = reach_of(recipe)
        assert tiles.margin % window == 0
        assert tiles.core % window == 0
        assert tiles.margin >= reach
        assert tiles.margin >= recipe.crop // 2 + recipe.jitter + 1
