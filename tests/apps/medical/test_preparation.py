"""Volumes on the way to the network and labels on the way back: exact where they can be, MONAI's values else."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from geovit.apps.medical.plan import Channel, Plan, Target, plan_from_dict
from geovit.apps.medical.preparation import encode_labels, labels_on, prepare, prepare_labels, values_on
from geovit.datasets.cases import Case, read_case
from geovit.datasets.volumes import Volume

CODES = ["".join(c) for order in itertools.permutations(("RL", "AP", "SI")) for c in itertools.product(*order)]
SAME = Channel(name="CT", scheme="range", low=0.0, high=1.0)
THREE = tuple(Target(name=f"t{value}", values=(value,), output=value) for value in (1, 2, 3))


def plan_with(**options):
    return Plan(**{"channels": (SAME,), "targets": THREE, **options})


def affine_of(codes="RAS", spacing=(0.8, 0.9, 2.5), degrees=0.0):
    affine = np.zeros((4, 4))
    for axis, code in enumerate(codes):
        row = next(row for row, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        affine[row, axis] = spacing[axis] * (1 if code in "RAS" else -1)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ affine[:3, :3]
    affine[:, 3] = 10, -20, 5, 1
    return affine


def volume_of(size=(20, 17, 9), affine=None, smooth=1.5, seed=0):
    x = gaussian_filter(np.random.default_rng(seed).normal(size=size), smooth)
    x = (x - x.min()) / np.ptp(x)
    return Volume(voxels=x[None].astype(np.float32), affine=affine_of() if affine is None else affine)


def labels_of(volume):
    return np.digitize(volume.voxels[0], (0.4, 0.55, 0.7)).astype(np.uint8)


def places(affine, size):
    indices = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1)
    return indices @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize("codes", CODES)
def test_turning_moves_voxels_and_changes_none(codes):
    volume = volume_of(affine=affine_of(codes, degrees=7))
    found = prepare(volume, plan_with(orientation="LPS"))
    # Each value lies where it lay, and there are the same.
    value = found.voxels[0].numpy()
    here, there = places(volume.affine, volume.size), places(found.affine, value.shape)
    order, turned = np.argsort(volume.voxels[0], axis=None), np.argsort(value, axis=None)
    np.testing.assert_array_equal(volume.voxels[0].ravel()[order], value.ravel()[turned])
    np.testing.assert_allclose(here.reshape(-1, 3)[order], there.reshape(-1, 3)[turned], atol=1e-9)
    labels = labels_of(volume)
    label = prepare_labels(volume, labels, plan_with(orientation="LPS"))[0].numpy()
    np.testing.assert_array_equal(labels_on(volume, label, found), labels)
    np.testing.assert_array_equal(values_on(volume, value, found), volume.voxels[0])


@pytest.mark.parametrize("spacing", [None, (0.8, 0.9, 2.5), (0.8001, 0.0, 2.4999)])
def test_voxels_of_the_wanted_spacing_stay_bit_for_bit(spacing):
    volume = volume_of()
    found = prepare(volume, plan_with(spacing=spacing))
    np.testing.assert_array_equal(found.voxels.numpy(), volume.voxels)
    np.testing.assert_array_equal(found.affine, volume.affine)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SRA", "PIR"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.7, 1.9), (2.0, 2.1, 4.0)])
def test_resampling_is_that_of_monai(codes, spacing):
    from monai.data import MetaTensor
    from monai.transforms import Orientation, Spacing

    volume = volume_of(affine=affine_of(codes, degrees=12))
    found = prepare(volume, plan_with(spacing=spacing, antialias=False))
    x = MetaTensor(torch.from_numpy(volume.voxels), affine=torch.from_numpy(volume.affine))
    x = Spacing(pixdim=spacing, mode="bilinear", dtype=torch.float64)(Orientation(axcodes="RAS", labels=None)(x))
    assert found.voxels.shape == x.shape
    np.testing.assert_allclose(found.voxels.numpy(), x.as_tensor().numpy(), atol=1e-6)
    np.testing.assert_allclose(found.affine, x.affine.numpy(), atol=1e-9)


@pytest.mark.parametrize("antialias", [True, False])
def test_a_ramp_stays_a_ramp(antialias):
    x = np.broadcast_to(np.arange(40) / 40, (6, 5, 40)).astype(np.float32)
    found = prepare(Volume(voxels=x[None], affine=np.eye(4)), plan_with(spacing=(1, 1, 1.7), antialias=antialias)).voxels[0]
    inner = found[:, :, 2:-2]
    wanted = (torch.arange(found.shape[2]) * 1.7 / 40)[2:-2].expand_as(inner)
    torch.testing.assert_close(inner, wanted, atol=1e-6, rtol=0)


def test_fine_stripes_fade_where_voxels_grow():
    x = np.broadcast_to(np.arange(60) % 2, (3, 4, 60)).astype(np.float32)
    volume = Volume(voxels=x[None], affine=np.eye(4))
    smooth = prepare(volume, plan_with(spacing=(1, 1, 2.3))).voxels[..., 2:-2]
    plain = prepare(volume, plan_with(spacing=(1, 1, 2.3), antialias=False)).voxels[..., 2:-2]
    assert smooth.std() < 0.2 < plain.std()
    assert abs(smooth.mean() - 0.5) < 0.02


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, ">i2", np.uint16, np.int32, np.float64, ">f4"])
def test_every_dtype_gives_the_same(dtype):
    voxels = (volume_of().voxels * 200).round()
    wide = plan_with(channels=(Channel(name="x", scheme="range", low=0, high=300),), spacing=(1, 1.0, 1))
    wanted = prepare(Volume(voxels=voxels, affine=affine_of()), wide)
    found = prepare(Volume(voxels=voxels.astype(dtype), affine=affine_of()), wide)
    assert torch.equal(found.voxels, wanted.voxels)


def test_labels_come_back_better_than_by_nearest_neighbour():
    volume = volume_of((31, 29, 27), np.eye(4), smooth=3)
    labels = labels_of(volume)
    plan = plan_with(spacing=(2.0, 2.0, 2.0))
    image, coarse = prepare(volume, plan), prepare_labels(volume, labels, plan)[0].numpy()
    found = labels_on(volume, coarse, image)
    nearest = coarse[np.ix_(*(np.arange(n) // 2 for n in volume.size))]
    assert found.dtype == np.uint8
    assert np.mean(found != labels) < 0.8 * np.mean(nearest != labels)


def test_each_voxel_has_the_label_with_the_greatest_share():
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 6, size=(7, 6, 5)) * 50 - 50  # any values, negative and unevenly many
    volume = volume_of((13, 16, 9), affine_of(spacing=(1.0, 1.0, 1.0)))
    like = prepare(volume, plan_with(spacing=(1.9, 2.7, 1.0)))
    coarse = rng.integers(0, 6, size=like.voxels.shape[1:]) * 50 - 50
    shares = {value: values_on(volume, (coarse == value).astype(np.float32), like) for value in np.unique(coarse)}
    found = labels_on(volume, coarse, like)
    chosen = np.select([found == value for value in shares], list(shares.values()))
    np.testing.assert_allclose(chosen, np.max(list(shares.values()), axis=0), atol=1e-6)


def test_a_single_label_fills_all():
    volume = volume_of(affine=affine_of("LPI"))
    like = prepare(volume, plan_with(spacing=(1, 2, 3)))
    assert np.all(labels_on(volume, np.full(like.voxels.shape[1:], 7, np.int16), like) == 7)


def test_memory_does_not_grow_with_the_number_of_labels():
    volume = volume_of((90, 80, 70), affine_of(spacing=(1.0, 1.0, 1.0)), smooth=0.5)
    like = prepare(volume, plan_with(spacing=(1.4, 1.4, 1.4)))
    peaks = []
    for count in (3, 60):
        labels = np.random.default_rng(0).integers(0, count, like.voxels.shape[1:], dtype=np.uint8)
        tracemalloc.start()
        found = labels_on(volume, labels, like)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(np.unique(found)) == count
    assert peaks[1] < 1.1 * peaks[0]


def test_labels_of_another_volume_are_refused():
    volume = volume_of()
    like = prepare(volume, plan_with(spacing=(1, 1, 1)))
    with pytest.raises(ValueError, match="for a prepared image of"):
        labels_on(volume, np.zeros((2, 2, 2), np.uint8), like)
    other = volume_of(affine=affine_of(degrees=30))
    with pytest.raises(ValueError, match="axes are not parallel"):
        labels_on(other, np.zeros(like.voxels.shape[1:], np.uint8), like)


def test_slices_keep_their_distance():
    found = prepare(volume_of(), plan_with(spacing=(1.0, 1.0, 0.0), roi=(32, 32)))
    assert np.linalg.norm(found.affine[:3, :3], axis=0) == pytest.approx([1.0, 1.0, 2.5])


def test_a_slice_is_a_volume():
    volume = Volume(voxels=volume_of((9, 8, 1)).voxels, affine=np.eye(4))
    found = prepare(volume, plan_with(spacing=(0.5, 0.5, 3.0)))
    assert found.voxels.shape == (1, 17, 15, 1)
    assert labels_on(volume, np.ones((17, 15, 1), np.uint8), found).shape == (9, 8, 1)


def test_normalisation():
    x = np.concatenate([np.zeros(40), np.arange(1.0, 100.0), [1e6]]).astype(np.float32).reshape(1, 7, 10, 2)

    def normalised(**options):
        plan = plan_with(channels=(Channel(name="x", **options),))
        return prepare(Volume(voxels=x, affine=np.eye(4)), plan).voxels.numpy()

    np.testing.assert_allclose(normalised(), (x - x.mean()) / x.std(), rtol=1e-4, atol=1e-5)
    inside = x[x != 0].astype(np.float64)
    found = normalised(nonzero=True)
    np.testing.assert_allclose(found[x != 0], (inside - inside.mean()) / inside.std(), atol=1e-4)
    assert np.all(found[x == 0] == 0)
    clipped = np.clip(x, *np.percentile(x, (0.5, 99)))
    np.testing.assert_allclose(normalised(percentiles=(0.5, 99)), (clipped - clipped.mean()) / clipped.std(), atol=1e-4)
    found = normalised(percentiles=(1, 98), nonzero=True)
    assert np.all(found[x == 0] == 0)
    assert np.abs(found).max() < 3
    found = normalised(scheme="clip_zscore", low=10, high=50, mean=20, std=4)
    np.testing.assert_allclose(found, (np.clip(x, 10, 50) - 20) / 4, rtol=1e-6)
    np.testing.assert_allclose(normalised(scheme="range", low=10, high=50), (np.clip(x, 10, 50) - 10) / 40, atol=1e-6)


def test_a_constant_image_becomes_zero():
    plan = plan_with(channels=(Channel(name="x"),))
    found = prepare(Volume(voxels=np.full((1, 4, 4, 4), 7, np.int16), affine=np.eye(4)), plan)
    assert torch.equal(found.voxels, torch.zeros(1, 4, 4, 4))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_numbers_are_refused(value):
    volume = volume_of()
    volume.voxels[0, 1, 2, 3] = value
    with pytest.raises(ValueError, match="1 voxels are NaN|1 infinite"):
        prepare(volume, plan_with())


def test_other_channels_and_orientations_are_refused():
    two = Volume(voxels=np.zeros((2, 3, 3, 3)), affine=np.eye(4))
    with pytest.raises(ValueError, match="has 2 channels, the model wants 1: CT"):
        prepare(two, plan_with())
    with pytest.raises(ValueError, match="orientation 'RLS'"):
        prepare(volume_of(), plan_with(orientation="RLS"))
    with pytest.raises(ValueError, match="no low and high"):
        prepare(volume_of(), plan_with(channels=(Channel(name="CT", scheme="range"),)))


def test_labels_are_encoded_as_a_network_learns_them():
    labels = np.array([0, 10, 20, 20, 10, 4]).reshape(1, 2, 3)
    classes = tuple(Target(name=str(v), values=(v,), output=v) for v in (4, 10, 20))
    found = encode_labels(labels, plan_with(targets=classes))
    assert found.dtype == torch.uint8
    assert found.tolist() == [[[[0, 2, 3], [3, 2, 1]]]]
    regions = (Target(name="all", values=(4, 10, 20), output=1), Target(name="core", values=(20,), output=2))
    found = encode_labels(labels, plan_with(targets=regions, regions=True))
    assert found.tolist() == [[[[0, 1, 1], [1, 1, 1]]], [[[0, 0, 1], [1, 0, 0]]]]
    with pytest.raises(ValueError, match="x has the label value 20; those of the plan are 0, 4, 10"):
        encode_labels(labels, plan_with(targets=classes[:2]), name="x")


def test_a_region_is_not_painted_over_one_that_it_holds():
    whole, core = Target(name="whole", values=(1, 2), output=1), Target(name="core", values=(2,), output=2)
    assert plan_with(targets=(whole, core), regions=True).outputs == 2
    with pytest.raises(ValueError, match="region whole would be painted over all of core, which is in it: name it before"):
        plan_with(targets=(core, whole), regions=True)


def test_plans_survive_json_and_older_ones_are_read():
    plan = plan_with(channels=(Channel(name="x", percentiles=(0.5, 99.5)),), spacing=(1, 1, 0.0), antialias=False)
    assert plan_from_dict(plan.to_dict()) == plan
    given = plan.to_dict()
    del given["antialias"], given["channels"][0]["percentiles"]
    assert plan_from_dict(given).antialias


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"channels": ()}, "0 channels"),
        ({"targets": ()}, "0 targets"),
        ({"targets": (Target(name="a", values=(1, 2), output=1),)}, "class a has 2 label values"),
        ({"targets": THREE[:1] * 2}, "same name"),
        ({"roi": (32,)}, "a ROI of 1 numbers"),
    ],
)
def test_plans_that_cannot_work_are_refused(options, pattern):
    with pytest.raises(ValueError, match=pattern):
        plan_with(**options)


@pytest.mark.parametrize(("image", "map_name", "least"), [("ct_sm", "seg", 0.93), ("mr_sm", "seg_mr", 0.93)])
def test_real_labels_survive_the_way_there_and_back(data_dir, image, map_name, least):
    folder = data_dir / "medical/totalsegmentator"
    case = Case(name="x", images=(folder / f"example_{image}.nii.gz",), label=folder / f"example_{map_name}.nii.gz")
    volume, labels = read_case(case)
    values = [value for value in np.unique(labels).tolist() if value]
    classes = tuple(Target(name=str(value), values=(value,), output=value) for value in values)
    plan = plan_with(targets=classes, spacing=(2.5, 2.5, 2.5))
    prepared, learned = prepare(volume, plan), prepare_labels(volume, labels, plan)[0].numpy()
    assert learned.shape == tuple(prepared.voxels.shape[1:])
    back = np.array([0, *values])[labels_on(volume, learned, prepared)]
    assert back.shape == volume.size
    dice = [2 * np.sum((back == v) & (labels == v)) / (np.sum(back == v) + np.sum(labels == v)) for v in values]
    sizes = [np.sum(labels == v) for v in values]
    assert np.average(dice, weights=sizes) > least
