"""Prepared cases, their caches, and crops of them: the same for the same seed, wherever and whenever they are drawn."""

import logging
import os
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from geovit.apps.medical.augmentation import AugmentationConfig, Augmentations, crop, flip_axes
from geovit.apps.medical.plan import Channel, Plan, Target
from geovit.apps.medical.training_data import CropSampler, PreparedCases, TrainingCrops, prepare_case
from geovit.datasets.cases import Case

SIZE = (20, 18, 14)
PLAN = Plan(
    channels=(Channel(name="T1"),),
    targets=(Target(name="a", values=(1,), output=1), Target(name="b", values=(2,), output=2)),
    spacing=(1.0, 1.0, 1.0),
    roi=(16, 16, 8),
)
STILL = AugmentationConfig(flip=0, affine=0, noise=0, smooth=0, intensity=0, gamma=0)


@pytest.fixture
def cases(tmp_path):
    found = []
    for number in range(3):
        rng = np.random.default_rng(number)
        labels = np.zeros(SIZE, np.uint8)
        labels[2:9, 2:9, 2:9], labels[15 + number, 15, 12] = 1, 2
        paths = []
        for kind, x in (("i", rng.normal(50, 9, SIZE).astype(np.float32)), ("l", labels)):
            paths.append(tmp_path / f"{kind}{number}.nii.gz")
            nib.Nifti1Image(x, np.eye(4)).to_filename(paths[-1])
        found.append(Case(name=f"c{number}", images=(paths[0],), label=paths[1]))
    return found


def same(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("voxels", "label", "affine")) and all(
        torch.equal(a, b) for a, b in zip(one.places, other.places, strict=True)
    )


def files_of(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_prepared_case_knows_where_its_targets_are(cases):
    found = prepare_case(cases[0], PLAN)
    assert (found.voxels.dtype, found.label.dtype, found.label.shape) == (torch.float32, torch.uint8, (1, *SIZE))
    assert [len(place) for place in found.places] == [343, 1]
    assert found.places[1].tolist() == [[15, 15, 12]]
    regions = replace(PLAN, regions=True, targets=(Target(name="all", values=(1, 2), output=1), *PLAN.targets[1:]))
    found = prepare_case(cases[0], regions)
    assert found.label.shape == (2, *SIZE)
    assert [len(place) for place in found.places] == [344, 1]


def test_what_is_cached_is_what_was_prepared(cases, tmp_path):
    folder = tmp_path / "cache"
    plain = [prepare_case(case, PLAN) for case in cases]
    steps = []
    for _ in range(2):
        found = PreparedCases(cases, PLAN, folder=folder)
        found.fill(lambda done, total: steps.append((done, total)))
        assert all(same(one, other) for one, other in zip(found, plain, strict=True))
    assert steps == [(1, 3), (2, 3), (3, 3)] * 2
    assert all(name.endswith(".safetensors") for name in files_of(folder))
    assert len(files_of(folder)) == 3


def test_a_second_run_does_not_open_the_images(cases, tmp_path, monkeypatch):
    PreparedCases(cases, PLAN, folder=tmp_path / "cache").fill()

    def fail(case):
        raise AssertionError(f"{case.name} was opened")

    monkeypatch.setattr("geovit.apps.medical.training_data.read_case", fail)
    PreparedCases(cases, PLAN, folder=tmp_path / "cache").fill()


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        ({"spacing": (2.0, 1.0, 1.0)}, True),
        ({"orientation": "LPS"}, True),
        ({"antialias": False}, True),
        ({"channels": (Channel(name="T1", percentiles=(1.0, 99.0)),)}, True),
        ({"targets": PLAN.targets[::-1]}, True),
        ({"roi": (8, 8, 8)}, False),
        ({"targets": (replace(PLAN.targets[0], weight=2.0), PLAN.targets[1])}, False),
    ],
)
def test_another_plan_never_reads_outdated_files(cases, tmp_path, change, anew):
    folder, other = tmp_path / "cache", replace(PLAN, **change)
    PreparedCases(cases[:1], PLAN, folder=folder).fill()
    assert same(PreparedCases(cases[:1], other, folder=folder)[0], prepare_case(cases[0], other))
    assert len(files_of(folder)) == 1 + anew


def test_changed_files_are_prepared_anew(cases, tmp_path):
    folder = tmp_path / "cache"
    PreparedCases(cases, PLAN, folder=folder).fill()
    labels = np.zeros(SIZE, np.uint8)
    labels[1, 1, 1] = 2
    nib.Nifti1Image(labels, np.eye(4)).to_filename(cases[0].label)
    assert PreparedCases(cases, PLAN, folder=folder)[0].label.sum() == 2


def test_moved_files_are_not_prepared_anew(cases, tmp_path):
    folder = tmp_path / "cache"
    PreparedCases(cases[:1], PLAN, folder=folder).fill()
    moved = cases[0].images[0].rename(tmp_path / "moved.nii.gz")
    os.utime(moved, (0, 0))
    PreparedCases([replace(cases[0], images=(moved,))], PLAN, folder=folder).fill()
    assert len(files_of(folder)) == 1


def test_a_damaged_cache_is_made_anew(cases, tmp_path, caplog):
    folder = tmp_path / "cache"
    PreparedCases(cases[:1], PLAN, folder=folder).fill()
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:200])
    with caplog.at_level(logging.WARNING):
        assert same(PreparedCases(cases[:1], PLAN, folder=folder)[0], prepare_case(cases[0], PLAN))
    assert "is made anew" in caplog.text
    assert same(PreparedCases(cases[:1], PLAN, folder=folder)[0], prepare_case(cases[0], PLAN))


def test_memory_is_kept_to_its_limit(cases):
    one = prepare_case(cases[0], PLAN).bytes
    found = PreparedCases(cases, PLAN, memory=2 * one)
    found.fill()
    assert found[0] is found[0]
    assert found[1] is found[1]
    assert found[2] is not found[2]


def test_cases_without_label_are_refused(cases):
    with pytest.raises(ValueError, match="c1 has no label"):
        PreparedCases([cases[0], replace(cases[1], label=None)], PLAN)
    with pytest.raises(ValueError, match="no cases"):
        TrainingCrops(PreparedCases([], PLAN), PLAN)


def batches(crops, sampler, **options):
    return list(DataLoader(crops, batch_size=2, sampler=sampler, **options))


def equal(one, other):
    return len(one) == len(other) and all(torch.equal(a[key], b[key]) for a, b in zip(one, other, strict=True) for key in a)


def test_batches_follow_from_seed_and_epoch_alone(cases):
    prepared, sampler = PreparedCases(cases, PLAN), CropSampler(6)
    always = AugmentationConfig(affine=1, noise=1, smooth=1, intensity=1, gamma=1)
    first = batches(TrainingCrops(prepared, PLAN, always, seed=5), sampler)
    crops = TrainingCrops(prepared, PLAN, always, seed=5)
    crops[9, 3]  # what was drawn before does not count
    assert equal(batches(crops, sampler), first)
    assert equal(batches(crops, sampler, num_workers=2), first)
    assert not equal(batches(TrainingCrops(prepared, PLAN, always, seed=6), sampler), first)
    sampler.set_epoch(1)
    assert not equal(batches(crops, sampler), first)
    sampler.set_epoch(0)
    assert equal(batches(crops, sampler), first)


def test_drawing_leaves_the_global_generators_alone(cases):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002 (the one that others may use)
    TrainingCrops(PreparedCases(cases, PLAN), PLAN, AugmentationConfig(affine=1, noise=1))[0, 0]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


def test_every_case_comes_as_often_as_any_other(cases):
    prepared = PreparedCases(cases, PLAN)
    marks = [case.label.clone() for case in prepared]
    for number, mark in enumerate(marks):
        prepared[number].voxels.fill_(number)
        assert mark.shape == (1, *SIZE)
    crops = TrainingCrops(prepared, PLAN, STILL)
    drawn = [int(crops[epoch, number]["image"].max()) for epoch in range(4) for number in range(6)]
    assert [drawn.count(number) for number in range(3)] == [8, 8, 8]
    assert len({tuple(drawn[begin : begin + 3]) for begin in range(0, 24, 3)}) > 1


def test_devices_share_an_epoch():
    sampler = [CropSampler(7, rank=rank, devices=2) for rank in range(2)]
    assert [len(one) for one in sampler] == [4, 3]
    assert sorted([*sampler[0], *sampler[1]]) == [(0, number) for number in range(7)]


def test_rare_targets_are_seen_as_often_as_frequent_ones(cases):
    prepared = PreparedCases(cases, PLAN)
    small = replace(PLAN, roi=(4, 4, 4))
    crops = TrainingCrops(prepared, small, replace(STILL, foreground=1.0))
    seen = [set(crops[0, number]["label"].unique().tolist()) for number in range(200)]
    assert 70 < sum(2 in labels for labels in seen) < 130  # a single voxel of each case
    assert all(labels - {0} for labels in seen)
    anywhere = TrainingCrops(prepared, small, replace(STILL, foreground=0.0))
    assert sum(2 in anywhere[0, number]["label"] for number in range(200)) < 10


@pytest.mark.parametrize("roi", [(16, 16, 8), (32, 16, 16), (32, 32), (7, 5, 3)])
@pytest.mark.parametrize("affine", [0.0, 1.0])
def test_crops_have_the_size_of_the_roi(cases, roi, affine):
    plan = replace(PLAN, roi=roi)
    found = TrainingCrops(PreparedCases(cases, plan), plan, AugmentationConfig(affine=affine))[0, 0]
    assert found["image"].shape == (1, *roi) == found["label"].shape
    assert (found["image"].dtype, found["label"].dtype) == (torch.float32, torch.uint8)
    assert type(found["image"]) is torch.Tensor


def test_image_and_label_are_altered_alike(cases):
    case = prepare_case(cases[0], PLAN)
    voxels = (case.label == 1).float()
    alter = Augmentations(replace(STILL, flip=1.0, affine=1.0), replace(PLAN, roi=(16, 16, 16)))
    for seed in range(5):
        found = alter(voxels, case.label, case.places, np.random.default_rng(seed))
        assert torch.mean(((found["image"] > 0.5) == (found["label"] == 1)).float()) > 0.97


def test_without_alterations_a_crop_is_a_piece_of_the_case(cases):
    case = prepare_case(cases[0], PLAN)
    found = Augmentations(STILL, PLAN)(case.voxels, case.label, case.places, np.random.default_rng(0))
    pieces = case.voxels.unfold(1, 16, 1).unfold(2, 16, 1).unfold(3, 8, 1).reshape(-1, 16, 16, 8)
    assert any(torch.equal(found["image"][0], piece) for piece in pieces)


def test_small_images_lie_in_the_middle_of_zeros():
    x = torch.ones(2, 3, 6, 5)
    found = crop(x, (1, 5, 2), (6, 4, 5))
    assert found.shape == (2, 6, 4, 5)
    assert found[:, 1:4].min() == 1
    assert found[:, [0, 4, 5]].max() == 0


def test_sides_are_not_exchanged_where_targets_have_them():
    assert flip_axes(PLAN) == (0, 1, 2)
    sided = replace(PLAN, targets=(Target(name="left kidney", values=(1,), output=1),), orientation="ASR")
    assert flip_axes(sided) == (0, 1)
    assert flip_axes(replace(sided, targets=(Target(name="cleft", values=(1,), output=1),))) == (0, 1, 2)


@pytest.mark.parametrize(
    ("config", "pattern"),
    [
        (AugmentationConfig(noise=1.5), "noise is a probability"),
        (AugmentationConfig(zoom=1.0), "zoom 1.0"),
        (AugmentationConfig(flip_axes=(3,)), "no axis 3 to flip"),
    ],
)
def test_impossible_alterations_are_refused(config, pattern):
    with pytest.raises(ValueError, match=pattern):
        Augmentations(config, PLAN)
