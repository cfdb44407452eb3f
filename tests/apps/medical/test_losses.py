import math

import pytest
import torch
from monai.losses import DiceCELoss
from torch.nn import functional as F

from geovit.apps.medical.losses import Loss, LossConfig, dice
from geovit.apps.medical.plan import Channel, Plan, Target


def plan(weights=(1.0, 1.0), *, regions=False):
    values = [(1, 2), (2,)] if regions else [(1,), (2,)]
    targets = tuple(Target(name=f"t{k}", values=v, output=k + 1, weight=weights[k]) for k, v in enumerate(values[: len(weights)]))
    return Plan(channels=(Channel(name="MR"),), targets=targets, regions=regions)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 2.0)])
def test_of_classes_it_is_monais_dice_and_cross_entropy(batch, weights):
    logits, labels = torch.randn(2, 3, 5, 6, 7), torch.randint(3, (2, 1, 5, 6, 7), dtype=torch.uint8)
    given = None if weights == (1.0, 1.0) else torch.tensor([1.0, *weights])
    monai = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=batch, weight=given)
    found = Loss(LossConfig(batch=batch), plan(weights))(logits, labels)
    torch.testing.assert_close(found, monai(logits, labels))


def test_regions_that_overlap_have_a_cross_entropy_each():
    logits, labels = torch.randn(2, 2, 4, 4, 4), torch.randint(2, (2, 2, 4, 4, 4), dtype=torch.uint8)
    config = LossConfig(overlap_weight=0)
    torch.testing.assert_close(
        Loss(config, plan(regions=True))(logits, labels), F.binary_cross_entropy_with_logits(logits, labels.float())
    )
    perfect = (labels.float() * 2 - 1) * 50
    assert Loss(LossConfig(), plan(regions=True))(perfect, labels) < 1e-4
    one_of_two = [F.binary_cross_entropy_with_logits(logits[:, k], labels[:, k].float()) for k in (0, 1)]
    weighted = Loss(config, plan((3.0, 1.0), regions=True))(logits, labels)
    torch.testing.assert_close(weighted, (3 * one_of_two[0] + one_of_two[1]) / 4)


@pytest.mark.parametrize("overlap", ["dice", "generalised_dice", "tversky"])
@pytest.mark.parametrize("voxels", ["cross_entropy", "focal"])
@pytest.mark.parametrize("regions", [False, True])
def test_a_crop_without_foreground_teaches_to_find_none(overlap, voxels, regions):
    logits = torch.zeros(1, 2 if regions else 3, 4, 4, 4, requires_grad=True)
    labels = torch.zeros(1, 2 if regions else 1, 4, 4, 4, dtype=torch.uint8)
    loss = Loss(LossConfig(overlap=overlap, voxels=voxels), plan(regions=regions))(logits, labels)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert (logits.grad[:, -1] > 0).all(), "a step against the gradient finds less"


def test_the_loss_is_taken_in_float32():
    logits, labels = torch.randn(1, 3, 4, 4, 4).bfloat16(), torch.randint(3, (1, 1, 4, 4, 4))
    loss = Loss(LossConfig(), plan())(logits, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, Loss(LossConfig(), plan())(logits.float(), labels))


def test_wrong_weights_are_told():
    with pytest.raises(ValueError, match="but not all 0"):
        LossConfig(overlap_weight=0, voxel_weight=0)
    with pytest.raises(ValueError, match="label_smoothing is 1"):
        LossConfig(label_smoothing=1)


def test_dice_of_masks():
    a, b = torch.tensor([1, 1, 1, 0]).bool(), torch.tensor([0, 1, 1, 1]).bool()
    assert dice(a, b) == pytest.approx(2 / 3)
    assert dice(a, ~a) == 0
    assert math.isnan(dice(a & ~a, a & ~a))
