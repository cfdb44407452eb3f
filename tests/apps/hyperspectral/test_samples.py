import dataclasses
import itertools

import numpy as np
import pytest
import torch

from geovit.apps.hyperspectral.recipe import TrainingConfig
from geovit.apps.hyperspectral.samples import (
    UNLABELLED,
    Crops,
    LabelledScene,
    at_pixels,
    centre,
    read_padded,
    require_trainable,
    validation_folds,
)
from geovit.datasets import ClassInfo

QUIET = TrainingConfig(batch=6, noise=0.0, band_dropout=0.0, gain=0.0)


def places(height, width):
    """Bands that hold each pixel's row and column."""
    return np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij")).astype(np.float32)


@pytest.fixture
def placed(make_scene, make_labels) -> LabelledScene:
    """A scene of (60, 90) whose pixels tell where they lie; a fifth of them labelled, all corners too, in classes 1, 10, 300."""
    random = np.random.default_rng(0)
    index = np.where(random.random((60, 90)) < 0.2, random.integers(0, 3, (60, 90)), -1)
    index[::59, ::89] = [[0, 1], [2, 0]]
    return LabelledScene(make_scene(places(60, 90)), make_labels(index, (1, 10, 300)), margin=8, core=32)


def test_padding_is_nodata_and_the_rest_is_the_scene(make_scene):
    cube = places(10, 12)
    values = read_padded(make_scene(cube), -3, 5, 9, 20)
    np.testing.assert_array_equal(values[:, 3:, :7], cube[:, :6, 5:])
    assert np.isnan(values[:, :3]).all()
    assert np.isnan(values[:, :, 7:]).all()
    assert np.isnan(read_padded(make_scene(cube), 50, 50, 4, 4)).all()


def test_pixels_are_those_of_the_labels(make_scene, make_labels):
    index = np.full((40, 50), -1)
    index[[0, 3, 39, 20], [0, 30, 49, 20]] = [2, 0, 1, 2]
    labelled = LabelledScene(make_scene(places(40, 50)), make_labels(index, (1, 10, 300)), margin=4, core=16)
    assert [info.value for info in labelled.classes] == [1, 10, 300]
    found = set(zip(labelled.rows.tolist(), labelled.columns.tolist(), labelled.targets.tolist(), strict=True))
    assert found == {(0, 0, 2), (3, 30, 0), (39, 49, 1), (20, 20, 2)}
    np.testing.assert_array_equal(labelled.spectra().T, [labelled.rows, labelled.columns])


def test_tiles_hold_the_surroundings_also_at_the_borders(placed):
    for tile in placed.tiles:
        rows, columns = np.indices(tile.values.shape[1:]) + np.array([tile.row, tile.column])[:, None, None]
        inside = (rows >= 0) & (rows < 60) & (columns >= 0) & (columns < 90)
        np.testing.assert_array_equal(tile.values.numpy()[:, inside], np.stack([rows, columns])[:, inside])
        assert tile.values[:, ~torch.from_numpy(inside)].isnan().all()
        row, column = placed.position(tile, tile.pixels)
        assert min(row.min(), column.min()) >= placed.margin
        assert max(row.max(), column.max()) < tile.values.shape[-1] - placed.margin
    numbers = np.concatenate([tile.pixels for tile in placed.tiles])
    assert sorted(numbers) == list(range(len(placed)))


def test_only_tiles_with_labels_are_read(make_scene, make_labels):
    index = np.full((400, 300), -1)
    index[390:, 290:] = 0
    labelled = LabelledScene(make_scene(places(400, 300)), make_labels(index), margin=8, core=32)
    assert len(labelled.tiles) == 1
    assert len(labelled) == 100


def test_labels_without_data_are_dropped_with_a_warning(make_scene, make_labels, caplog):
    cube = places(40, 40)
    cube[1, :, 20:] = np.nan
    index = np.full((40, 40), -1)
    index[10, 10:24], index[11, 10:15], index[12, 30:33] = 0, 2, 1
    labelled = LabelledScene(make_scene(cube), make_labels(index, (1, 10, 300)), margin=4, core=16)
    assert len(labelled) == 15
    assert [info.value for info in labelled.classes] == [1, 300]
    assert np.bincount(labelled.targets).tolist() == [10, 5]
    assert "7 of 22 labelled pixels lie where the scene has no data" in caplog.text
    assert "class class 10 has labels only where the scene has no data: it is left out" in caplog.text


def test_labels_on_nodata_alone_are_refused(make_scene, make_labels):
    cube = places(40, 40)
    cube[0, 5:, :] = np.nan
    index = np.full((40, 40), -1)
    index[10, 10:14] = 0
    with pytest.raises(ValueError, match="all 4 labelled pixels lie where the scene has no data"):
        LabelledScene(make_scene(cube), make_labels(index), margin=4, core=16)


def test_transforming_leaves_the_original_alone(placed):
    before = placed.spectra().copy()
    other = placed.transformed(lambda x: 2 * x)
    np.testing.assert_array_equal(other.spectra(), 2 * before)
    np.testing.assert_array_equal(placed.spectra(), before)


@pytest.mark.parametrize(("side", "jitter"), [(10, 2), (7, 0)])
def test_crops_hold_the_labels_of_training_pixels_and_no_others(placed, side, jitter):
    training = np.random.default_rng(1).random(len(placed)) < 0.5
    allowed = {
        (row, column): target
        for row, column, target in zip(placed.rows[training], placed.columns[training], placed.targets[training], strict=True)
    }
    crops = Crops(placed, training, QUIET, side=side, jitter=jitter, seed=0)
    turned = set()
    for values, targets in itertools.islice(crops, 40):
        assert values.shape == (6, 2, side, side)
        for place, target in zip(values, targets, strict=True):
            inside = place.isfinite().all(0)
            assert (target[~inside] == UNLABELLED).all()
            expected = [allowed.get((int(row), int(column)), UNLABELLED) for row, column in place[:, inside].T]
            assert target[inside].tolist() == expected
            middle = slice((side - 1) // 2 - jitter, side // 2 + jitter + 1)  # of an even side it lies between pixels
            assert (target[middle, middle] != UNLABELLED).any(), "a training pixel lies in the middle"
            turned.add((place[0, 1, 0] > place[0, 0, 0]).item())
    assert turned == {True, False}


def test_the_seed_decides_the_crops(placed):
    training = np.ones(len(placed), dtype=np.bool_)
    disturbed = dataclasses.replace(QUIET, noise=0.3, band_dropout=0.3, gain=0.1)

    def first(seed):
        return next(iter(Crops(placed, training, disturbed, side=8, jitter=2, seed=seed)))

    for ours, again, other in zip(first(1), first(1), first(2), strict=True):
        torch.testing.assert_close(ours, again, rtol=0, atol=0, equal_nan=True)
        assert not torch.equal(ours.nan_to_num(), other.nan_to_num())


def test_validation_folds_are_whole_blocks_of_the_training_pixels(placed):
    training = np.random.default_rng(1).random(len(placed)) < 0.8
    config = TrainingConfig(members=3, validation=0.2, block=8)
    folds = validation_folds(placed, training, config, seed=0)
    block = placed.rows // 8 * 100 + placed.columns // 8
    for fold in folds:
        assert not (fold & ~training).any()
        assert not set(block[fold]) & set(block[training & ~fold])
        assert 0.1 < fold.sum() / training.sum() < 0.3
        assert set(placed.targets[training & ~fold]) == {0, 1, 2}
    assert not any((a & b).any() for a, b in itertools.combinations(folds, 2))
    again = validation_folds(placed, training, config, seed=0)
    assert all(np.array_equal(a, b) for a, b in zip(folds, again, strict=True))


def test_validation_takes_no_class_away(make_scene, make_labels):
    index = np.full((64, 64), -1)
    index[::4, ::4] = 0
    index[1::4, 1::4] = 1
    index[30:32, 30:32] = 2  # within a block, so that some fold would take all of it
    labelled = LabelledScene(make_scene(places(64, 64)), make_labels(index), margin=8, core=32)
    training = np.ones(len(labelled), dtype=np.bool_)
    for fold in validation_folds(labelled, training, TrainingConfig(members=5, block=8), seed=0):
        assert fold.any()
        assert set(labelled.targets[~fold]) == {0, 1, 2}


def test_labels_in_one_place_still_give_folds_or_none(make_scene, make_labels):
    index = np.full((64, 64), -1)
    index[3, 3:5] = 0, 1
    labelled = LabelledScene(make_scene(places(64, 64)), make_labels(index), margin=8, core=32)
    for fold in validation_folds(labelled, np.ones(2, dtype=np.bool_), TrainingConfig(members=2), seed=0):
        assert set(labelled.targets[~fold]) == {0, 1}


def test_too_few_labels_are_named():
    classes = tuple(ClassInfo(value, name, (0, 0, 0)) for value, name in ((1, "roof"), (10, "tree"), (300, "water")))
    with pytest.raises(ValueError, match="the labels hold one class only \\(tree\\), at least two are needed"):
        require_trainable(classes, np.array([1, 1, 1]))
    with pytest.raises(ValueError, match="only one usable pixel of class tree \\(10\\), water \\(300\\): label more of it"):
        require_trainable(classes, np.array([0, 0, 1, 2]))
    require_trainable(classes, np.array([0, 0, 2, 2]))


def test_centre_cuts_the_same_on_every_side():
    x = torch.arange(49).view(1, 7, 7)
    assert torch.equal(centre(x, torch.zeros(1, 3, 5)), x[:, 2:5, 1:6])
    assert torch.equal(centre(x, x), x)


@torch.inference_mode()
def check_at_pixels(model, scene, labelled):
    reach, (height, width) = model.receptive_field, scene.grid.shape
    # From a multiple of the window on, larger than needed, and with room for the patches.
    padded = read_padded(scene, -model.halo, -model.halo, height + 2 * model.halo + 2, width + 2 * model.halo + 1)
    whole = model(torch.from_numpy(padded)[None])[0]
    cut = model.halo - (padded.shape[1] - whole.shape[1]) // 2
    chosen = np.random.default_rng(0).random(len(labelled)) < 0.5
    expected = whole[:, labelled.rows[chosen] + cut, labelled.columns[chosen] + cut].T
    found = at_pixels(model, labelled, chosen, reach=reach, window=model.window)
    assert found.shape == (chosen.sum(), 3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found.std(0).min() > 1e-3, "probabilities that are all alike would prove nothing"


def test_a_dense_network_says_the_same_at_pixels_as_on_the_whole_scene(model, scene, labelled):
    check_at_pixels(model, scene, labelled)


def test_a_patch_network_says_the_same_at_pixels_as_on_the_whole_scene(patch_model, scene, labelled):
    check_at_pixels(patch_model, scene, labelled)
