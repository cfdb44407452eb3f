"""The Lightning module by itself, with transforms and loaders of MONAI."""

import lightning as L
import pytest
import torch
from monai.data import CacheDataset, DataLoader
from monai.transforms import Compose, EnsureChannelFirstd, RandFlipd

from geovit.apps.medical.losses import LossConfig
from geovit.apps.medical.model import new_segmenter
from geovit.apps.medical.networks import NetworkConfig
from geovit.apps.medical.plan import Channel, Plan, Target
from geovit.apps.medical.task import SegmentationOptimizer, SegmentationTask

UNET = NetworkConfig(name="monai_unet", arguments={"channels": [4, 8, 16], "strides": [2, 2]})


def plan(*, regions=False):
    values = ((1, 2), (2,)) if regions else ((1,), (2,))
    targets = tuple(Target(name=name, values=v, output=10 * k) for k, (name, v) in enumerate(zip("ab", values, strict=True), 1))
    return Plan(channels=(Channel(name="MR"),), targets=targets, regions=regions, roi=(16, 16, 16))


def volumes(count):
    grid = torch.stack(torch.meshgrid(*(torch.arange(20.0),) * 3, indexing="ij"))
    for number in range(count):
        distance = (grid - 10 + number / 2).norm(dim=0)
        label = (distance < 7).long() + (distance < 4)
        yield {"image": label + 0.3 * torch.randn(20, 20, 20), "label": label, "name": f"case{number}"}


def trainer(**options):
    return L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip


def test_it_trains_in_a_trainer_of_ones_own():
    steps = [EnsureChannelFirstd(("image", "label"), channel_dim="no_channel"), RandFlipd(("image", "label"), prob=0.5)]
    data = CacheDataset(list(volumes(4)), Compose(steps), progress=False)
    task = SegmentationTask(new_segmenter(UNET, plan()), optimizer=SegmentationOptimizer(lr=1e-2, warmup=2))
    run = trainer(max_epochs=10)
    run.fit(task, DataLoader(data, batch_size=2), DataLoader(data, batch_size=1))
    first, last = task.history[1], task.history[-1]  # the first is the trainer's check of the validation
    assert last["loss"] < first["loss"]
    assert last["dice"] > max(first["dice"], 0.6)
    assert run.callback_metrics["dice"] == pytest.approx(last["dice"], abs=1e-6)
    assert run.callback_metrics["dice/b"] == pytest.approx(last["targets"]["b"], abs=1e-6)
    assert run.optimizers[0].param_groups[0]["lr"] < 1e-4, "the steps are asked of the trainer"


class Known(torch.nn.Module):
    """Knows the classes of voxels whose intensity is their label."""

    def __init__(self, regions):
        super().__init__()
        self.regions, self.weight = regions, torch.nn.Parameter(torch.zeros(()))

    def forward(self, x):
        wanted = [x > 0.5, x > 1.5] if self.regions else [x < 0.5, (x - 1).abs() < 0.5, x > 1.5]
        return 20 * torch.cat(wanted, 1).float() - 10 + self.weight


@pytest.mark.parametrize("regions", [False, True])
def test_dice_is_that_of_whole_volumes_and_regions_may_overlap(regions):
    from dataclasses import replace

    segmenter = replace(new_segmenter(UNET, plan(regions=regions)), network=Known(regions))
    task = SegmentationTask(segmenter, loss=LossConfig())
    label = next(volumes(1))["label"][None, None]
    given = torch.cat([label > 0, label > 1], 1).byte() if regions else label.byte()
    wrong = label.clone().float()
    wrong[label == 2] = 0
    data = [{"image": label.float(), "label": given}, {"image": wrong, "label": given}]
    trainer(num_sanity_val_steps=0).validate(task, torch.utils.data.DataLoader(data, batch_size=None), verbose=False)
    outer, inner = (label > 0).sum().item(), (label > 1).sum().item()
    shell = (1 + 2 * (outer - inner) / (2 * outer - inner)) / 2 if regions else 1.0
    assert task.history[0]["targets"] == pytest.approx({"a": shell, "b": 0.5})


def test_volumes_of_different_sizes_come_one_by_one():
    task = SegmentationTask(new_segmenter(UNET, plan()))
    batch = {"image": torch.zeros(2, 1, 16, 16, 16), "label": torch.zeros(2, 1, 16, 16, 16)}
    with pytest.raises(ValueError, match="a validation batch of 2 volumes: expected one"):
        task.validation_step(batch)
