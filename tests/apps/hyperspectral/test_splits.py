import numpy as np
import pytest

from geovit.apps.hyperspectral.samples import LabelledScene
from geovit.apps.hyperspectral.splits import Split, block_split, distance_to, leakage, random_split, thinned


@pytest.fixture(scope="module")
def build(make_scene, make_labels):
    def build(index):
        cube = np.zeros((2, *index.shape), dtype=np.float32)
        return LabelledScene(make_scene(cube), make_labels(index), margin=4, core=32)

    return build


@pytest.fixture(scope="module")
def spread(build):
    """Three classes all over (80, 100) pixels."""
    random = np.random.default_rng(0)
    return build(np.where(random.random((80, 100)) < 0.15, random.integers(0, 3, (80, 100)), -1))


def chessboard(labelled, chosen):
    rows = np.abs(labelled.rows[:, None] - labelled.rows[chosen])
    columns = np.abs(labelled.columns[:, None] - labelled.columns[chosen])
    return np.maximum(rows, columns).min(1)


def test_distances(spread):
    chosen = np.random.default_rng(1).random(len(spread)) < 0.01
    np.testing.assert_array_equal(distance_to(spread, chosen), chessboard(spread, chosen))


@pytest.mark.parametrize(("per_class", "expected"), [(7, [7, 7, 7]), (0.25, None)])
def test_a_random_split_draws_from_every_class(spread, per_class, expected):
    split = random_split(spread, per_class, seed=0)
    drawn = np.bincount(spread.targets[split.training])
    assert drawn.tolist() == (expected or np.round(0.25 * np.bincount(spread.targets)).tolist())
    np.testing.assert_array_equal(split.test, ~split.training)


@pytest.mark.parametrize(
    "draw",
    [
        lambda labelled, seed: random_split(labelled, 5, seed=seed),
        lambda labelled, seed: block_split(labelled, block=10, buffer=2, share=0.3, seed=seed),
    ],
    ids=["random", "blocks"],
)
def test_the_seed_decides_the_split(spread, draw):
    first, again, other = (draw(spread, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.test, again.test)
    assert (first.test != other.test).any()


def test_the_way_that_the_scene_is_cut_into_tiles_does_not_matter(make_scene, make_labels):
    index = np.random.default_rng(0).integers(-1, 3, (80, 100))
    scene, labels = make_scene(np.zeros((2, 80, 100), dtype=np.float32)), make_labels(index)
    drawn = []
    for core in (16, 48):
        labelled = LabelledScene(scene, labels, margin=4, core=core)
        blocks = block_split(labelled, block=10, buffer=2, share=0.3, seed=0)
        for split in (random_split(labelled, 5, seed=0), thinned(labelled, blocks, 5, seed=0)):
            places = (
                zip(labelled.rows[c].tolist(), labelled.columns[c].tolist(), strict=True) for c in (split.training, split.test)
            )
            drawn.append([set(place) for place in places])
    assert drawn[:2] == drawn[2:]


def test_more_training_pixels_than_there_are_is_refused(build):
    index = np.full((40, 40), -1)
    index[0], index[5, :8] = 0, 1
    with pytest.raises(ValueError, match="class class 2 has 8 pixels: 8 to train on leave none to test"):
        random_split(build(index), 8, seed=0)


@pytest.mark.parametrize("buffer", [0, 3, 6])
def test_no_training_pixel_is_within_the_buffer(spread, buffer):
    for seed in range(3):
        split = block_split(spread, block=12, buffer=buffer, share=0.3, seed=seed)
        assert not (split.training & split.test).any()
        assert chessboard(spread, split.test)[split.training].min() > buffer
        assert split.test.mean() >= 0.3
        assert (np.bincount(spread.targets[split.training], minlength=3) >= 2).all()
        blocks = spread.rows // 12 * 100 + spread.columns // 12
        assert not set(blocks[split.test]) & set(blocks[~split.test]), "blocks test as a whole"


def test_leakage_is_the_share_of_test_pixels_that_see_training_pixels(build):
    index = np.full((20, 40), -1)
    index[10, [0, 3, 5, 9]] = 0
    labelled = build(index)
    split = Split(labelled.columns == 3, labelled.columns != 3)
    assert [leakage(labelled, split, reach) for reach in (0, 1, 2, 3, 6)] == [0, 0, 1 / 3, 2 / 3, 1]


def test_blocks_do_not_leak_and_random_pixels_do(spread):
    for reach in (1, 4):
        split = block_split(spread, block=16, buffer=reach, share=0.3, seed=0)
        assert leakage(spread, split, reach) == 0
        assert leakage(spread, split, reach + 40) > 0
        assert leakage(spread, random_split(spread, 50, seed=0), reach) > 0.1


def test_a_class_in_a_single_place_trains_and_is_absent_from_the_test(build):
    random = np.random.default_rng(0)
    index = np.where(random.random((80, 100)) < 0.15, random.integers(0, 2, (80, 100)), -1)
    index[33:36, 33:36] = 2
    labelled = build(index)
    for seed in range(5):
        split = block_split(labelled, block=20, buffer=1, share=0.3, seed=seed)
        assert (labelled.targets[split.training] == 2).sum() >= 2
        assert not (labelled.targets[split.test] == 2).any()


def test_a_class_that_cannot_train_does_not_test(build):
    random = np.random.default_rng(0)
    index = np.where(random.random((30, 60)) < 0.2, random.integers(0, 2, (30, 60)), -1)
    index[15, 15] = index[15, 45] = 2  # one in each of the two blocks
    labelled = build(index)
    split = block_split(labelled, block=30, buffer=3, share=0.3, seed=0)
    for part in (split.training, split.test):
        assert set(labelled.targets[part]) == {0, 1}


def test_blocks_too_large_are_refused(spread):
    with pytest.raises(ValueError, match="blocks of 200 pixels with a buffer of 4 leave no pixels of two classes to train on"):
        block_split(spread, block=200, buffer=4, share=0.3, seed=0)


@pytest.mark.parametrize(("per_class", "most"), [(5, 5), (1000, None), (0.5, None)])
def test_a_thinned_split_keeps_its_test_and_draws_from_its_training_pixels(spread, per_class, most):
    split = block_split(spread, block=16, buffer=2, share=0.3, seed=0)
    less = thinned(spread, split, per_class, seed=1)
    np.testing.assert_array_equal(less.test, split.test)
    assert not (less.training & ~split.training).any()
    before, after = (np.bincount(spread.targets[s.training]) for s in (split, less))
    expected = np.round(per_class * before) if per_class < 1 else np.minimum(before, per_class)
    np.testing.assert_array_equal(after, expected)
    assert most is None or after.max() == most
    np.testing.assert_array_equal(less.training, thinned(spread, split, per_class, seed=1).training)
    assert per_class == 1000 or (less.training != thinned(spread, split, per_class, seed=2).training).any()
