import pytest
import torch

from geovit.core.backbones.vssd import vssd_backbone
from geovit.core.layers.global_attention import GlobalAttention
from geovit.core.layers.ssd import VSSD

SMALL = {"dims": (8, 16), "depths": (1, 2), "heads": (2, 2), "states": 4, "mlp_ratio": 2.0}


@pytest.mark.parametrize("simple", [(False, False), (True, True)])
@pytest.mark.parametrize("size", [(32,), (32, 40), (16, 8, 24)])
def test_pyramid_for_any_number_of_axes(size, simple):
    backbone = vssd_backbone(2, **SMALL, kinds=("ssd", "attention"), axes=len(size), simple=simple)
    fine, coarse = backbone.features(torch.randn(2, 2, *size))
    assert fine.shape == (2, *(n // 4 for n in size), 8)
    assert coarse.shape == (2, *(n // 8 for n in size), 16)
    assert [type(block.mixer) for stage in backbone.stages for block in stage] == [VSSD, GlobalAttention, GlobalAttention]


def test_every_parameter_learns():
    torch.manual_seed(0)
    backbone = vssd_backbone(2, **SMALL, kinds=("ssd", "ssd"), groups=None)
    backbone(torch.randn(2, 2, 30, 37)).square().mul(torch.randn(16)).sum().backward()
    assert not [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("kinds", [("ssd",), ("ssd", "mamba")])
def test_wrong_kinds_are_named(kinds):
    with pytest.raises(ValueError, match="expected one of ssd, attention for each of 2 stages"):
        vssd_backbone(2, **SMALL, kinds=kinds)
