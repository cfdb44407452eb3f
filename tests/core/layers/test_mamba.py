import pytest
import torch
from torch import nn
from torch.nn import functional as F

from geovit.core.blocks.metaformer import MetaFormerBlock
from geovit.core.layers.conv import DepthwiseConv
from geovit.core.layers.mamba import BiMamba, Mamba
from geovit.core.layers.mlp import MLP
from geovit.core.layers.ssm import step_projection
from geovit.core.ops.selective_scan import selective_scan

MIXERS = {"mamba": Mamba, "bimamba": BiMamba, "tied": lambda dim, **options: BiMamba(dim, tied=True, **options)}


def make(kind: str, **options) -> nn.Module:
    torch.manual_seed(0)
    module = MIXERS[kind](8, state=4, **options).double()
    for name, parameter in module.named_parameters():
        if name.endswith(("A_log", "A_b_log")):  # as after training: rows that differ show what is mixed up
            nn.init.normal_(parameter, std=0.5)
        if "dt_proj" in name and name.endswith("bias"):
            nn.init.zeros_(parameter)  # long steps, so that the state matters
    return module


def sequence(*size: int) -> torch.Tensor:
    return torch.randn(*size, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_published_values_at_the_start():
    layer = Mamba(32, state=16)
    torch.testing.assert_close(layer.A_log.exp(), torch.arange(1.0, 17).expand(64, 16))
    assert torch.equal(layer.D, torch.ones(64))
    marked = {name for name, p in BiMamba(8).named_parameters() if hasattr(p, "_no_weight_decay")}
    assert marked == {"A_log", "A_b_log", "D", "D_b"}
    step = F.softplus(step_projection(4, 10_000).bias.detach())
    assert 0.001 <= step.min() < 0.0011
    assert 0.09 < step.max() <= 0.1
    assert step.median().item() == pytest.approx(0.01, rel=0.1)  # uniform in the logarithm


def test_names_are_those_of_mamba_ssm():
    names = {"in_proj.weight", "conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight", "dt_proj.bias", "A_log", "D"}
    assert Mamba(8).state_dict().keys() == names | {"out_proj.weight"}
    assert Mamba(8).conv1d.weight.shape == nn.Conv1d(16, 16, 4, groups=16).weight.shape


def test_mamba_sees_no_later_step_and_bimamba_sees_all():
    x = sequence(1, 9)
    for kind in MIXERS:
        layer, other = make(kind), x.clone()
        other[:, 5] += 1
        changed = (layer(x) - layer(other)).abs().amax(-1)[0] > 1e-9
        assert changed.tolist() == [kind != "mamba" or t >= 5 for t in range(9)], kind


def test_step_by_step_equals_the_whole():
    layer, x = make("mamba"), sequence(2, 7)
    want, last = layer.prefill(x)
    torch.testing.assert_close(layer(x), want)
    for start in (0, 2, 6):  # shorter and longer than the convolution
        state = layer.initial_state(2) if start == 0 else layer.prefill(x[:, :start])[1]
        for t in range(start, 7):
            before = [tensor.clone() for tensor in state]
            y, following = layer.step(x[:, t], state)
            assert all(map(torch.equal, before, state))  # a state may be gone on from twice
            torch.testing.assert_close(y, want[:, t])
            state = following
        torch.testing.assert_close(tuple(state), tuple(last))


def test_bimamba_turned_round_is_bimamba_with_its_directions_exchanged():
    layer, x = make("bimamba"), sequence(2, 9)
    other = make("bimamba")
    swapped = {}
    for name, tensor in layer.state_dict().items():
        first, *rest = name.split(".")
        pairs = {"A_log": "A_b_log", "A_b_log": "A_log", "D": "D_b", "D_b": "D"}
        first = pairs.get(first, first.removesuffix("_b") if first.endswith("_b") else f"{first}_b")
        swapped[name if name.startswith(("in_proj", "out_proj")) else ".".join([first, *rest])] = tensor
    other.load_state_dict(swapped)
    torch.testing.assert_close(other(x), layer(x.flip(1)).flip(1))


def test_forward_half_of_bimamba_is_mamba():
    both, one, x = make("bimamba"), make("mamba"), sequence(2, 9)
    one.load_state_dict({name: tensor for name, tensor in both.state_dict().items() if name in one.state_dict()})
    with torch.no_grad():
        for tensor in (both.D_b, both.x_proj_b.weight):
            tensor.zero_()  # a scan without output
    torch.testing.assert_close(both(x), one(x))


def test_average_is_half_the_sum():
    summed, averaged, x = make("bimamba"), make("bimamba", average=True), sequence(2, 9)
    torch.testing.assert_close(averaged(x), 0.5 * summed(x))


@pytest.mark.parametrize("kind", MIXERS)
def test_axes_are_read_in_row_major_order(kind):
    layer, x = make(kind), sequence(2, 3, 5)
    torch.testing.assert_close(layer(x), layer(x.flatten(1, 2)).view_as(x))


@pytest.mark.parametrize("kind", MIXERS)
@pytest.mark.parametrize("length", [1, 3])
def test_any_length_from_one(kind, length):
    assert make(kind)(sequence(2, length)).isfinite().all()


@pytest.mark.parametrize("kind", MIXERS)
def test_compiles_as_one_graph(kind):
    layer, x = make(kind).float(), sequence(2, 9).float()
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))


@pytest.mark.parametrize("kind", MIXERS)
def test_scan_stays_in_float32_under_autocast(kind, monkeypatch):
    seen = []

    def spy(u, dt, A, B, C, **options):
        seen.append(A.dtype)
        result = selective_scan(u, dt, A, B, C, **options)
        seen.extend(t.dtype for t in result[1:] if isinstance(result, tuple))
        return result

    monkeypatch.setattr("geovit.core.layers.mamba.selective_scan", spy)
    layer, x = make(kind).float(), sequence(2, 40).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert set(seen) == {torch.float32}  # the rates and the state
    torch.testing.assert_close(y.float(), layer(x), rtol=0, atol=0.02 * layer(x).abs().max().item())


def test_mixes_tokens_in_a_block_that_learns():
    torch.manual_seed(0)
    block = MetaFormerBlock(8, Mamba(8, state=4), channel_mixer=MLP(8, 16))
    x = torch.randn(8, 12, 8)
    target = F.pad(x, (0, 0, 1, -1))  # needs the step before
    optimizer = torch.optim.Adam(block.parameters(), 0.01)
    losses = []
    for _ in range(30):
        loss = F.mse_loss(block(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad is not None for parameter in block.parameters())


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_depthwise_conv_equals_torch_s(axes):
    torch.manual_seed(0)
    size = (5, 4, 3)[:axes]
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1](6, 6, 3, padding=1, groups=6)
    ours = DepthwiseConv(6, (3,) * axes)
    ours.load_state_dict(conv.state_dict())
    x = torch.randn(2, *size, 6)
    torch.testing.assert_close(ours(x), conv(x.movedim(-1, 1)).movedim(1, -1))


def test_depthwise_conv_before_and_after_mirror_each_other():
    torch.manual_seed(0)
    before, after = DepthwiseConv(6, (4,), sees="before"), DepthwiseConv(6, (4,), sees="after")
    after.load_state_dict(before.state_dict())
    x = torch.randn(2, 9, 6)
    padded = F.pad(x.mT, (3, 0))
    torch.testing.assert_close(before(x).mT, F.conv1d(padded, before.weight, before.bias, groups=6))
    torch.testing.assert_close(after(x), before(x.flip(1)).flip(1))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kernel": (4,)}, r"kernel is \(4,\), expected 1 to 3 sizes, odd"),
        ({"kernel": ()}, r"kernel is \(\), expected 1 to 3"),
        ({"kernel": (3,), "sees": "left"}, "sees is 'left' .*allowed are around, before, after"),
    ],
)
def test_impossible_convolution_is_told(options, told):
    with pytest.raises(ValueError, match=told):
        DepthwiseConv(4, **options)


def test_input_with_other_axes_is_told():
    with pytest.raises(ValueError, match=r"shape \[2, 4\], expected \(batch, 1 axes, channels\)"):
        DepthwiseConv(4, (3,))(torch.zeros(2, 4))
