import numpy as np
import pytest
import torch

from geovit.apps.hyperspectral.clustering import find_groups
from geovit.apps.hyperspectral.mapping import map_in_memory, predict
from geovit.apps.hyperspectral.samples import read_padded
from geovit.apps.hyperspectral.working import MAP, Wanted

CPU = torch.device("cpu")


def bands_of(scene):
    return list(range(scene.num_bands))


def cluster(scene, clusters, **options):
    groups = find_groups(scene, Wanted.all_of(scene).area, clusters, **options)
    return map_in_memory(scene, groups, clusters, cell=128)[MAP][0] - 1


def map_with(model, scene, tile=64):
    return predict(scene, model, bands_of(scene), device=CPU, tile=tile)


@pytest.fixture(scope="module")
def mapped(model, scene):
    return map_with(model, scene)


@pytest.mark.parametrize("tile", [16, 40, 128, 1000])
def test_the_map_does_not_depend_on_the_tiles(model, scene, mapped, tile):
    other = map_with(model, scene, tile)
    np.testing.assert_array_equal(other.index, mapped.index)
    np.testing.assert_allclose(other.confidence, mapped.confidence, rtol=0, atol=1e-5)
    np.testing.assert_allclose(other.entropy, mapped.entropy, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tile", [16, 128])
def test_a_patch_network_s_map_does_not_depend_on_the_tiles_either(patch_model, scene, make_scene, tile):
    scene = make_scene(scene.read()[:, :26, :37])
    small, other = map_with(patch_model, scene, 11), map_with(patch_model, scene, tile)
    np.testing.assert_array_equal(small.index, other.index)
    np.testing.assert_allclose(small.confidence, other.confidence, rtol=0, atol=1e-5)


def test_nodata_in_is_nodata_out(scene, mapped):
    nodata = ~np.isfinite(scene.read()).all(0)
    assert 0 < nodata.mean() < 0.5
    np.testing.assert_array_equal(mapped.index == -1, nodata)
    np.testing.assert_array_equal(np.isnan(mapped.confidence), nodata)
    np.testing.assert_array_equal(np.isnan(mapped.entropy), nodata)


def test_confidence_and_entropy_are_what_they_say(mapped, model):
    valid = mapped.index >= 0
    assert set(np.unique(mapped.index[valid])) == set(range(len(model.info.classes)))
    assert mapped.confidence[valid].std() > 0.01
    assert (mapped.confidence[valid] >= 1 / 3).all()
    assert (mapped.confidence[valid] <= 1).all()
    assert ((mapped.entropy[valid] >= 0) & (mapped.entropy[valid] <= 1)).all()
    assert np.corrcoef(mapped.confidence[valid], mapped.entropy[valid])[0, 1] < -0.8
    assert mapped.index.dtype == np.int32
    assert mapped.confidence.dtype == mapped.entropy.dtype == np.float32


def test_nan_does_not_spread(model, scene, mapped, make_scene):
    cube = scene.read()
    row, column = 25, 35
    assert mapped.index[row, column] >= 0
    cube[4, row, column] = np.nan  # in a single band
    holed = map_with(model, make_scene(cube, scene.wavelengths))
    before, after = mapped.index >= 0, holed.index >= 0
    assert not after[row, column]
    after[row, column] = True
    np.testing.assert_array_equal(after, before)
    far = np.ones_like(before)
    reach = model.receptive_field
    far[row - reach : row + reach + 1, column - reach : column + reach + 1] = False
    np.testing.assert_array_equal(holed.index[far], mapped.index[far])
    assert np.isfinite(holed.confidence[after & (holed.index >= 0)]).all()


@torch.inference_mode()
def test_a_pixel_s_class_is_that_of_a_patch_around_it(model, scene, mapped):
    """The network run on a patch for each pixel, its corner on the window grid, is what the map is measured against."""
    rows, columns = (axis[::97] for axis in np.nonzero(mapped.index >= 0))
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        top, left = ((place - model.halo) // model.window * model.window for place in (row, column))
        side = 2 * model.halo + model.window
        probabilities = model(torch.from_numpy(read_padded(scene, top, left, side, side))[None])[0, :, row - top, column - left]
        assert probabilities.argmax() == mapped.index[row, column]
        assert probabilities.max().item() == pytest.approx(mapped.confidence[row, column], abs=1e-5)


def test_the_bands_of_the_model_are_taken(model, scene, mapped, make_scene):
    cube = scene.read()
    order = np.random.default_rng(0).permutation(len(cube) + 2)
    mixed = make_scene(np.concatenate([cube, cube[:2] * 100])[order])
    bands = [int(np.flatnonzero(order == band)[0]) for band in range(len(cube))]
    np.testing.assert_array_equal(predict(mixed, model, bands, device=CPU).index, mapped.index)


@pytest.mark.parametrize("factor", [10.0, 1e-2, 1e-4])
def test_another_radiometry_is_warned_of(model, scene, make_scene, caplog, factor):
    map_with(model, make_scene(scene.read() * np.float32(factor), scene.wavelengths))
    assert "its spectra are unlike the model's training pixels" in caplog.text


def test_the_same_radiometry_is_not(model, scene, make_scene, caplog):
    map_with(model, scene)
    map_with(model, make_scene(scene.read()[:, 20:30, 30:40] * np.float32(1.2)))  # a part, in brighter light
    assert not caplog.records


def test_a_scene_without_a_pixel_valid_in_all_bands_is_refused(model, scene, make_scene):
    cube = scene.read()
    cube[0, ::2], cube[1, 1::2] = np.nan, np.nan
    with pytest.raises(ValueError, match="memory: no pixel is valid in all of the model's bands"):
        map_with(model, make_scene(cube))


def test_bfloat16_agrees_with_float32(model, scene, mapped):
    other = predict(scene, model, bands_of(scene), device=CPU, precision=torch.bfloat16)
    assert (other.index == mapped.index).mean() > 0.97


class TestCluster:
    def test_it_is_the_same_again(self, scene):
        np.testing.assert_array_equal(cluster(scene, 5, seed=1), cluster(scene, 5, seed=1))

    def test_every_valid_pixel_gets_a_cluster_and_no_other(self, scene):
        index = cluster(scene, 5, seed=0)
        np.testing.assert_array_equal(index >= 0, np.isfinite(scene.read()).all(0))
        assert set(np.unique(index)) == {-1, 0, 1, 2, 3, 4}
        assert index.dtype == np.int32

    def test_the_brightest_comes_first(self, scene):
        index = cluster(scene, 4, seed=0)
        level = [scene.read()[:, index == k].mean() for k in range(4)]
        assert level == sorted(level, reverse=True)

    def test_plain_groups_are_found(self, make_scene):
        truth = np.random.default_rng(0).integers(0, 3, (30, 40))
        spectra = np.array([[9, 9, 9, 9], [1, 5, 1, 5], [0, 0, 1, 1]], dtype=np.float32)
        cube = spectra[truth].transpose(2, 0, 1) + np.random.default_rng(1).normal(0, 0.1, (4, 30, 40)).astype(np.float32)
        np.testing.assert_array_equal(cluster(make_scene(cube), 3, seed=0), truth)

    def test_too_few_pixels_are_named(self, make_scene):
        cube = np.full((3, 20, 20), np.nan, dtype=np.float32)
        cube[:, 0, :4] = np.arange(4)
        with pytest.raises(ValueError, match="memory: 4 valid pixels sampled, too few for 5 clusters"):
            cluster(make_scene(cube), 5, seed=0)

    def test_a_sample_is_enough(self, scene):
        some, all_pixels = cluster(scene, 3, seed=0, sample=800), cluster(scene, 3, seed=0)
        assert (some == all_pixels).mean() > 0.8
