"""Swin UNETR against the installed MONAI: state dicts, logits, gradients; what it takes and what it refuses."""

import copy
import io
import logging
import subprocess
import sys

import pytest
import torch
from monai.networks.nets import swin_unetr as monai_unetr
from torch import Tensor, nn
from torch.func import functional_call

from geovit.apps.medical import SwinUNETR
from geovit.core.native import native_status


class LegacyMerging(nn.Module):
    """What MONAI 1.4 does with volumes, written from the order in which it takes a cube's tokens: two twice, two never."""

    def __init__(self, dim: int, norm_layer: type[nn.Module], spatial_dims: int) -> None:
        super().__init__()
        assert spatial_dims == 3
        self.reduction, self.norm = nn.Linear(8 * dim, 2 * dim, bias=False), norm_layer(8 * dim)

    def forward(self, x: Tensor) -> Tensor:
        taken = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))
        return self.reduction(self.norm(torch.cat([x[:, d::2, h::2, w::2] for d, h, w in taken], -1)))


# Windows that are filled up, shifted and cut; both versions; two and three axes; grids that are no cube
CASES = {
    "3-D": ({"feature_size": 12, "window_size": 5}, (32, 64, 32)),
    "3-D, windows of unlike sides": ({"feature_size": 12, "window_size": (7, 4, 3), "patch_norm": True}, (32, 32, 64)),
    "3-D, version 2": ({"feature_size": 12, "use_v2": True, "downsample": "mergingv2", "window_size": 3}, (32, 64, 32)),
    "3-D, affine": (
        {"feature_size": 12, "norm_name": ("instance", {"affine": True}), "qkv_bias": False, "window_size": 4},
        (32, 32, 64),
    ),
    "2-D": ({"feature_size": 24, "spatial_dims": 2}, (96, 160)),
    "2-D, version 2": ({"feature_size": 12, "spatial_dims": 2, "use_v2": True, "normalize": False, "mlp_ratio": 2.0}, (64, 224)),
}


def pair(arguments, *, order="fixed", channels=1) -> tuple[nn.Module, SwinUNETR]:
    """MONAI's network, and ours with its weights."""
    torch.manual_seed(0)
    other = {"downsample": LegacyMerging} if order == "legacy" else {}
    theirs = monai_unetr.SwinUNETR(in_channels=channels, out_channels=3, **arguments | other).eval()
    with torch.no_grad():  # norms and position biases that matter
        for name, parameter in theirs.named_parameters():
            if parameter.ndim == 1 or "bias_table" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    ours = SwinUNETR(in_channels=channels, out_channels=3, **arguments, merging_order=order).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("name", CASES)
def test_state_dicts_of_both_load_into_each_other_as_they_are(name):
    arguments, _ = CASES[name]
    theirs, ours = pair(arguments)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    fresh = monai_unetr.SwinUNETR(in_channels=1, out_channels=3, **arguments)
    fresh.load_state_dict(ours.state_dict(), strict=True)
    assert all(torch.equal(t, theirs.state_dict()[key]) for key, t in fresh.state_dict().items())


# The orders differ for "merging" in volumes only.
ORDERED = [name for name, (arguments, size) in CASES.items() if len(size) == 3 and "downsample" not in arguments]


@pytest.mark.parametrize(("name", "order"), [*((name, "fixed") for name in CASES), *((name, "legacy") for name in ORDERED)])
def test_logits_are_those_of_monai(name, order):
    arguments, size = CASES[name]
    theirs, ours = pair(arguments, order=order)
    image = torch.randn(2, 1, *size)
    with torch.inference_mode():
        logits = ours(image)
        assert logits.is_contiguous()
        want = theirs(image)
    assert (logits - want).abs().max() <= 1e-4
    assert (ours(image) - want).abs().max() <= 1e-4, "with gradients, which takes other kernels"


@pytest.mark.parametrize(
    ("name", "order"),
    [("3-D", "legacy"), ("3-D, windows of unlike sides", "fixed"), ("3-D, version 2", "fixed"), ("2-D, version 2", "fixed")],
)
def test_gradients_are_those_of_monai(name, order):
    # In float64: rounding of float32 puts an activation of the many on the other side of leaky ReLU's kink now and then.
    arguments, size = CASES[name]
    arguments = arguments | {"depths": (2, 1, 1, 2)}
    theirs, ours = (network.double() for network in pair(arguments, order=order))
    image = torch.randn(1, 1, *size, dtype=torch.float64)
    weights = torch.randn(1, 3, *size, dtype=torch.float64)
    for network in (theirs, ours):
        (network(image) * weights).sum().backward()
    for (name, want), got in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        assert (got.grad - want.grad).abs().max() <= 1e-9 * want.grad.abs().max(), name


@pytest.mark.parametrize("name", ["3-D", "2-D, version 2"])
def test_gradients_in_single_precision(name):
    # Without the kink, at which a gradient has no one value.
    arguments, size = CASES[name]
    theirs, ours = pair(arguments)
    for module in theirs.modules():
        if isinstance(module, nn.LeakyReLU):
            module.negative_slope = 1.0
    for module in ours.modules():
        if hasattr(module, "slope"):
            module.slope = 1.0
    image, weights = torch.randn(1, 1, *size), torch.randn(1, 3, *size)
    for network in (theirs, ours):
        (network(image) * weights).sum().backward()
    for (name, want), got in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        if name != "encoder1.layer.conv3.conv.weight":  # the scale of one channel, which the norm takes out: all but zero
            assert (got.grad - want.grad).abs().max() <= 1e-3 * want.grad.abs().max(), name


def test_the_order_of_merging_can_be_told_and_set_and_changes_the_result():
    theirs, ours = pair({"feature_size": 12, "window_size": 3}, order="legacy")
    image = torch.randn(1, 1, 32, 32, 64)
    assert ours.merging_order == "legacy"
    assert SwinUNETR(1, 2, feature_size=12).merging_order == "fixed"
    with torch.no_grad():
        before = ours(image)
        ours.merging_order = "fixed"
        assert ours.merging_order == "fixed"
        assert (ours(image) - before).abs().max() > 1e-2
        theirs.swinViT.layers1[0].downsample.norm.weight.mul_(1)  # theirs has its own class, and keeps the old order
        assert (theirs(image) - before).abs().max() <= 1e-4


@pytest.mark.parametrize(("size", "axes"), [((33, 50, 20), 3), ((1, 70), 2), ((32, 32, 32), 3)])
def test_any_size_is_that_of_monai_for_the_image_filled_up_with_zeros(size, axes):
    theirs, ours = pair({"feature_size": 12, "window_size": 3, "spatial_dims": axes})
    image = torch.randn(1, 1, *size)
    filled = torch.zeros(1, 1, *(max(-(-n // 32) * 32, 32) for n in size))
    filled[(..., *(slice(n) for n in size))] = image
    with torch.inference_mode():
        got = ours(image)
        assert got.shape == (1, 3, *size)
        assert torch.isfinite(got).all()
        if size != (32, 32, 32):  # of which MONAI refuses the single token that is left
            want = theirs(filled)[(..., *(slice(n) for n in size))]
            assert (got - want).abs().max() <= 1e-4


def test_several_channels_and_hidden_states():
    theirs, ours = pair({"feature_size": 12, "window_size": 3}, channels=4)
    image = torch.randn(1, 4, 64, 32, 32)
    with torch.inference_mode():
        assert (ours(image) - theirs(image)).abs().max() <= 1e-4
        for got, want in zip(ours.swinViT(image), theirs.swinViT(image), strict=True):
            assert (got - want).abs().max() <= 1e-4


def test_clamped_biases_and_zero_padding_can_be_left():
    arguments, size = CASES["3-D"]
    _, ours = pair(arguments)
    image = torch.randn(1, 1, *size)
    with torch.inference_mode():
        want = ours(image)
        for option in ("clamped_bias", "zero_padding"):
            other = SwinUNETR(1, 3, **arguments, **{option: False}).eval()
            other.load_state_dict(ours.state_dict())
            assert (other(image) - want).abs().max() > 1e-4, option


def test_another_index_of_positions_is_refused():
    ours = SwinUNETR(1, 2, feature_size=12, window_size=3)
    state = ours.state_dict()
    key = "swinViT.layers2.0.blocks.1.attn.relative_position_index"
    state[key] = state[key].flip(0)
    with pytest.raises(RuntimeError, match=r"layers2.*relative_position_index is not that of windows of \(3, 3, 3\)"):
        ours.load_state_dict(state)


def test_checkpointing_keeps_results_and_gradients():
    arguments, size = CASES["3-D"]
    _, ours = pair(arguments)
    _, sparing = pair(arguments | {"use_checkpoint": True})
    image = torch.randn(1, 1, *size)
    for network in (ours, sparing):
        network.train()
        network(image).square().mean().backward()
    for a, b in zip(ours.parameters(), sparing.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_dropping_is_for_training_and_keeps_the_scale():
    rates = {"drop_rate": 0.1, "attn_drop_rate": 0.2, "dropout_path_rate": 0.3}
    arguments, size = CASES["2-D"]
    _, plain = pair(arguments)
    _, ours = pair(arguments | rates)
    image = torch.randn(1, 1, *size)
    with torch.no_grad():
        assert torch.equal(ours(image), plain(image))
        ours.train()
        one, other = ours(image), ours(image)
    assert (one - other).abs().max() > 1e-3
    ours(image).mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in ours.parameters())
    assert 0.5 < one.std() / plain(image).std() < 2


def test_bfloat16_under_autocast_is_near_and_results_repeat():
    arguments, size = CASES["3-D"]
    _, ours = pair(arguments)
    image = torch.randn(1, 1, *size)
    with torch.inference_mode():
        want = ours(image)
        assert torch.equal(ours(image), want)
        with torch.autocast("cpu", torch.bfloat16):
            low = ours(image)
    assert low.dtype == torch.bfloat16
    assert (low - want).abs().mean() <= 0.02 * want.abs().mean()
    with torch.autocast("cpu", torch.bfloat16):
        ours(image).float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in ours.parameters())


def test_copies_pickles_and_functional_calls():
    arguments, size = CASES["3-D"]
    _, ours = pair(arguments)
    image = torch.randn(1, 1, *size)
    stored = io.BytesIO()
    torch.save(ours, stored)
    stored.seek(0)
    with torch.inference_mode():
        want = ours(image)
        fresh = SwinUNETR(1, 3, **arguments).eval()
        copies = (
            copy.deepcopy(ours),
            torch.load(stored, weights_only=False),
            lambda x: functional_call(fresh, dict(ours.state_dict()), x),
        )
        for network in copies:
            assert (network(image) - want).abs().max() <= 1e-5


@pytest.mark.skipif(not native_status()[0], reason="the eager form is compiled elsewhere")
def test_the_whole_network_is_one_graph():
    ours = SwinUNETR(1, 2, feature_size=12, window_size=3, depths=(2, 1, 1, 1)).eval()
    image = torch.randn(1, 1, 32, 32, 64)
    with torch.no_grad():
        compiled = torch.compile(ours, fullgraph=True, backend="eager")
        assert (compiled(image) - ours(image)).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"in_channels": (96, 96, 96), "out_channels": 1}, "img_size.*by its name"),
        ({"spatial_dims": 4}, "spatial_dims is 4, expected 2 or 3"),
        ({"patch_size": 4}, "patch_size is 4, expected 2"),
        ({"depths": (2, 2)}, "expected four of each"),
        ({"feature_size": 20}, "feature_size is 20, expected a multiple of 12"),
        ({"norm_name": "batch"}, "norm_name is 'batch', expected \"instance\""),
        ({"norm_name": ("instance", {"track_running_stats": True})}, "norm_name is"),
        ({"drop_rate": 1.5}, "drop_rate is 1.5"),
        ({"window_size": (7, 7)}, "window_size"),
        ({"use_hyena": True}, "Hyena blocks are not here"),
        ({"hyena_stages": (True, False, False, False)}, "Hyena blocks are not here"),
        ({"downsample": "pooling"}, "downsample is 'pooling'"),
        ({"downsample": "mergingv2", "merging_order": "legacy"}, "that order is of 'merging'"),
        ({"downsample": LegacyMerging, "merging_order": "legacy"}, "has its own order"),
        ({"merging_order": "old"}, "merging_order is 'old'"),
        ({"num_heads": (3, 6, 12, 25)}, "25 heads"),
    ],
)
def test_what_it_cannot_honour_it_refuses_in_one_line(arguments, told):
    with pytest.raises(ValueError, match=told) as error:
        SwinUNETR(**{"in_channels": 1, "out_channels": 2} | arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(1, 2, 32, 32, 64), (1, 1, 32, 32), (1, 32, 32, 64)])
def test_an_image_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="the image has shape .*, expected"):
        SwinUNETR(1, 2, feature_size=12, window_size=3)(torch.zeros(shape))


def test_arguments_of_older_and_newer_monai_are_taken(caplog):
    with caplog.at_level(logging.INFO):
        network = SwinUNETR(img_size=(96, 96, 96), in_channels=1, out_channels=2, feature_size=12, use_flash_attention=True)
    assert "any size will do" in caplog.text
    assert network.out.conv.conv.weight.shape == (2, 12, 1, 1, 1)
    # By position, as in MONAI's newest constructor.
    assert SwinUNETR(1, 2, 2, (1, 1, 1, 1), (2, 4, 8, 16), 3, True, 2.0, 24).encoder1.layer.conv2.conv.weight.shape[0] == 24


def test_its_package_imports_no_torch():
    code = "import geovit.apps.medical, sys; assert 'torch' not in sys.modules; from geovit.apps.medical import SwinUNETR"
    subprocess.run([sys.executable, "-c", code], check=True)
