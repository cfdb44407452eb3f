"""Maps do not depend on how a scene is cut into parts."""

import numpy as np
import pytest
import torch

from geovit import __version__
from geovit.apps.hyperspectral.clustering import find_groups
from geovit.apps.hyperspectral.encoder_network import EncoderNetworkConfig
from geovit.apps.hyperspectral.mapping import ModelTeller, cost_of
from geovit.apps.hyperspectral.model import Classifier, ModelInfo
from geovit.apps.hyperspectral.recipe import Recipe, TrainingConfig
from geovit.apps.hyperspectral.working import MAP, PROBABILITIES, SceneWorker, Wanted, lead_of, part_bytes, plan_of
from geovit.core.sensors.encoder import EncoderConfig
from geovit.core.streaming.plan import Area
from geovit.core.streaming.run import InMemory, Ready, run
from geovit.datasets import ClassInfo, default_color

CPU = torch.device("cpu")
CLASSES = tuple(ClassInfo(value, f"class {value}", default_color(value)) for value in (1, 2, 3))


class Held(InMemory):
    """Holds an area of a map, and what was told of its parts."""

    def __init__(self, shape):
        super().__init__({MAP: np.empty((1, *shape), np.int32), PROBABILITIES: np.empty((2, *shape), np.float32)})
        self.facts = []

    @property
    def index(self):
        return self.arrays[MAP][0] - 1

    @property
    def probabilities(self):
        return self.arrays[PROBABILITIES]

    def write(self, part, area, finished):
        super().write(part, area, finished)
        self.facts.append(finished.facts)


def mapped(scene, model, *, side, cell, area=None, mask=None, threads=1):
    area = Area(0, 0, *scene.grid.shape) if area is None else area
    plan = plan_of(scene.grid.shape, area, side=side, cell=cell, halo=model.halo)
    sink = Held((area.height, area.width))
    teller = ModelTeller(model, CPU, torch.float32)
    worker = SceneWorker(scene, teller, Wanted(area=area, mask=mask, probabilities=True), cell=cell, values=range(1, 4))
    run(plan, Ready(worker), sink, threads=threads)
    return sink


def untrained(recipe, scene):
    """A classifier of random weights whose transform suits a scene."""
    torch.manual_seed(1)
    model = Classifier(ModelInfo(__version__, scene.num_bands, scene.wavelengths.tolist(), CLASSES, recipe, {})).eval()
    values = torch.from_numpy(scene.read()).flatten(1).T
    for member in model.members:
        member.transform.fit(values[values.isfinite().all(1)])
        for parameter in member.network.head.parameters():
            torch.nn.init.normal_(parameter, std=1.0)
    return model


@pytest.fixture(scope="module")
def large(scene, make_scene):
    """530 x 270 pixels with nodata, and six bands of a scene, repeated and brightened so that no two places are alike."""
    cube = np.tile(scene.read()[::4], (1, 11, 4))[:, :530, :270]
    noise = np.random.default_rng(0).normal(1, 0.1, cube.shape).astype(np.float32)
    return make_scene(cube * noise, scene.wavelengths[::4])


@pytest.fixture(scope="module")
def swin(tiny, large):
    return untrained(tiny, large)


@pytest.fixture(scope="module")
def encoder_model(scene):
    """An encoder of random weights, as a classifier."""
    config = EncoderNetworkConfig(rank=2, context=3, probe=False, architecture=EncoderConfig(dim=16, depth=1, heads=2, patch=2))
    recipe = Recipe(network="encoder", encoder=config, training=TrainingConfig(members=1))
    torch.manual_seed(0)
    model = Classifier(ModelInfo(__version__, scene.num_bands, scene.wavelengths.tolist(), CLASSES, recipe, {})).eval()
    values = torch.from_numpy(scene.read()).flatten(1).T * 1e-4
    values = values[values.isfinite().all(1)]
    transform, network = model.members[0].transform, model.members[0].network
    transform.mean.copy_(values.mean(0))
    transform.deviation.copy_(values.std(0))
    network.wavelengths.copy_(torch.from_numpy(scene.wavelengths))
    network.gsd.fill_(30.0)
    return model


def test_parts_of_256_384_and_512_pixels_give_the_same_bits(large, swin):
    whole = mapped(large, swin, side=640, cell=64)
    assert set(np.unique(whole.index)) == {-1, 0, 1, 2}
    for border in (256, 384):
        assert 0 < (whole.index[border - 1 : border + 1] < 0).mean() < 1, "nodata goes across the border of parts"
    for side in (256, 384, 512):
        parts = mapped(large, swin, side=side, cell=64, threads=2)
        np.testing.assert_array_equal(parts.index, whole.index)
        np.testing.assert_array_equal(parts.probabilities, whole.probabilities)


def test_facts_tell_of_all_pixels(large, swin):
    found = mapped(large, swin, side=256, cell=64)
    pixels, confidence = (np.sum([fact[name] for fact in found.facts], axis=0) for name in ("pixels", "confidence"))
    np.testing.assert_array_equal(pixels, np.bincount(found.index[found.index >= 0], minlength=3))
    sums = [found.probabilities[0][found.index == k].sum(dtype=np.float64) for k in range(3)]
    np.testing.assert_allclose(confidence, sums, rtol=1e-12)


@pytest.mark.parametrize(
    ("network", "area"),
    [
        ("model", Area(13, 7, 29, 40)),
        ("model", Area(0, 33, 50, 38)),
        ("model", Area(49, 70, 1, 1)),
        ("encoder_model", Area(13, 7, 29, 40)),
        ("encoder_model", Area(0, 33, 50, 38)),
        ("patch_model", Area(5, 9, 14, 17)),
    ],
)
def test_the_map_of_an_area_is_cut_out_of_the_map(request, scene, make_scene, wholes, network, area):
    model = request.getfixturevalue(network)
    cell = {"model": 16, "encoder_model": 12}.get(network, 8)
    if network == "patch_model":
        scene = make_scene(scene.read()[:, 10:32, 20:50], scene.wavelengths)
    whole = wholes(scene, network, model, cell)
    place = slice(area.row, area.row + area.height), slice(area.column, area.column + area.width)
    for side in (cell, 2 * cell):
        piece = mapped(scene, model, side=side, cell=cell, area=area)
        np.testing.assert_array_equal(piece.index, whole.index[place])
        np.testing.assert_array_equal(piece.probabilities, whole.probabilities[:, place[0], place[1]])


@pytest.fixture(scope="module")
def wholes():
    """Maps of whole scenes, made once for each network."""
    known = {}

    def of(scene, network, model, cell):
        if network not in known:
            known[network] = mapped(scene, model, side=cell * 8, cell=cell)
        return known[network]

    return of


@pytest.mark.parametrize("network", ["model", "patch_model", "encoder_model"])
def test_a_scene_cut_at_whole_windows_has_the_same_classes_where_the_cut_is_out_of_sight(request, scene, make_scene, network):
    model = request.getfixturevalue(network)
    if network == "patch_model":
        scene = make_scene(scene.read()[:, 10:45, 20:60], scene.wavelengths)
    row, column = (3 * model.window, 2 * model.window) if model.window > 1 else (5, 3)
    cropped = make_scene(scene.read()[:, row:, column:], scene.wavelengths)
    cell = max(16 // model.window, 1) * model.window
    whole, moved = mapped(scene, model, side=cell * 4, cell=cell), mapped(cropped, model, side=cell * 2, cell=cell)
    seen = slice(row + model.receptive_field, None), slice(column + model.receptive_field, None)
    here = slice(model.receptive_field, None), slice(model.receptive_field, None)
    assert whole.index[seen].size > 500
    np.testing.assert_array_equal(moved.index[here], whole.index[seen])
    np.testing.assert_allclose(
        moved.probabilities[:, here[0], here[1]], whole.probabilities[:, seen[0], seen[1]], rtol=0, atol=2e-5
    )


def test_no_seam_is_measurable_at_the_borders_of_parts_and_cells(large, swin):
    """The steps of the probability across a border are those of a map that was made in one cell."""
    cell = 64
    parts = mapped(large, swin, side=128, cell=cell).probabilities[0]
    seamless = mapped(large, swin, side=768, cell=768).probabilities[0]
    steps, smooth = (np.abs(np.diff(image, axis=0)) for image in (parts, seamless))
    at_border = (np.arange(len(steps)) + lead_of(cell, swin.halo)) % cell == cell - 1
    assert np.nanmean(steps[at_border]) > 0.01, "the map is not flat"
    assert abs(np.nanmean(steps[at_border]) - np.nanmean(smooth[at_border])) < 1e-6
    ratio = np.nanmean(steps[at_border]) / np.nanmean(steps[~at_border])
    expected = np.nanmean(smooth[at_border]) / np.nanmean(smooth[~at_border])
    assert ratio == pytest.approx(expected, abs=1e-5)
    assert np.nanmax(np.abs(parts - seamless)) < 2e-5


class Half:
    """A mask of the pixels right of a diagonal."""

    def read(self, row, column, height, width):
        return np.add.outer(-np.arange(row, row + height), np.arange(column, column + width)) > 0


def test_a_mask_hides_pixels_and_changes_no_other(scene, model):
    whole = mapped(scene, model, side=32, cell=16)
    masked = mapped(scene, model, side=32, cell=16, mask=Half())
    inside = Half().read(0, 0, *scene.grid.shape)
    assert (masked.index[~inside] == -1).all()
    np.testing.assert_array_equal(masked.index[inside], whole.index[inside])
    assert np.isnan(masked.probabilities[:, ~inside]).all()
    np.testing.assert_array_equal(masked.probabilities[:, inside], whole.probabilities[:, inside])


def test_parts_without_a_pixel_that_is_asked_for_are_not_read(scene, model, monkeypatch):
    class Nothing:
        def read(self, row, column, height, width):
            return np.zeros((height, width), np.bool_)

    monkeypatch.setattr("geovit.apps.hyperspectral.working.PieceReader.read", lambda *_: pytest.fail("read"))
    assert (mapped(scene, model, side=32, cell=16, mask=Nothing()).index == -1).all()


def test_groups_do_not_depend_on_parts_either(large):
    area = Area(0, 0, *large.grid.shape)
    groups = find_groups(large, area, 5, seed=0)
    maps = []
    for side in (128, 384):
        sink = InMemory({MAP: np.empty((1, *large.grid.shape), np.int32)})
        worker = SceneWorker(large, groups, Wanted(area=area), cell=128, values=range(1, 6))
        run(plan_of(large.grid.shape, area, side=side, cell=128, halo=0), Ready(worker), sink, threads=2)
        maps.append(sink.arrays[MAP] - 1)
    np.testing.assert_array_equal(*maps)
    assert set(np.unique(maps[0])) == {-1, 0, 1, 2, 3, 4}


@pytest.mark.parametrize("network", ["model", "patch_model", "encoder_model"])
def test_cells_are_whole_windows_and_their_cost_is_told(request, network):
    model = request.getfixturevalue(network)
    cost = cost_of(model, device=CPU, precision=torch.float32)
    assert cost.cell % model.window == 0
    assert cost.largest % cost.cell == 0
    assert 0 < cost.bytes < 1e9
    small, large = (part_bytes(side, 1, cost, width=600, pixel=46, channels=3, halo=model.halo) for side in (256, 512))
    assert cost.bytes < small < large
