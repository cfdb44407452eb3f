import pytest
import torch
from torch import nn
from torch.nn import functional as F

from geovit.core.layers.norm import InstanceNormAct, make_norm, norm_residual


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_statistics_of_16_bit_input_are_taken_in_float32(kind):
    torch.manual_seed(0)
    norm, exact = make_norm(kind, 4096).bfloat16(), make_norm(kind, 4096)
    # Summed in bfloat16, which has 8 bits, the mean and the squares of this would be far off.
    x = (10 + torch.randn(3, 4096)).bfloat16()
    torch.testing.assert_close(norm(x).float(), exact(x.float()), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_each_token_is_normed_alone_over_its_channels(kind):
    norm, x = make_norm(kind, 8), torch.randn(2, 3, 5, 8)
    torch.testing.assert_close(norm(x)[0, 1, 2], norm(x[0, 1, 2]))
    torch.testing.assert_close(norm(x), norm(100 * x), rtol=1e-3, atol=1e-3)


def test_unknown_kind_is_named():
    with pytest.raises(ValueError, match="'batch', expected 'layer' or 'rms'"):
        make_norm("batch", 8)


NORMS = {
    "layer": nn.LayerNorm(12),
    "without parameters": nn.LayerNorm(12, eps=0.1, elementwise_affine=False),
    "without bias": nn.LayerNorm(12, bias=False),
    "rms": nn.RMSNorm(12),
    "over two axes": nn.LayerNorm((5, 12)),
    "another": nn.Softmax(dim=-1),
}


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("scaled", [False, True])
def test_norm_of_residual_is_the_norm_of_the_sum(kind, scaled):
    norm, (x, branch) = NORMS[kind], torch.randn(2, 3, 5, 12)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    scale = torch.randn(12) if scaled else None
    s, y = norm_residual(norm, x, branch, scale)
    torch.testing.assert_close(s, x + branch * scale if scaled else x + branch)
    torch.testing.assert_close(y, norm(s), rtol=1e-5, atol=1e-5)


def test_norm_of_residual_runs_hooks():
    norm = nn.LayerNorm(12)
    norm.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    s, y = norm_residual(norm, *torch.randn(2, 3, 12))
    torch.testing.assert_close(y, 2 * F.layer_norm(s, (12,)))


def test_norm_of_residual_keeps_a_float32_stream_under_autocast():
    x, linear = torch.randn(3, 12), nn.Linear(12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        branch = linear(x)
        assert branch.dtype == torch.bfloat16
        s, y = norm_residual(nn.LayerNorm(12), x, branch)
    assert s.dtype == y.dtype == torch.float32
    torch.testing.assert_close(s, x + branch)


@pytest.mark.parametrize("affine", [False, True])
def test_instance_norm_of_a_residual_u_net_block(affine):
    # The end of MONAI's UnetResBlock: both branches normalised, added, LeakyReLU of slope 0.01.
    norm, skip = (InstanceNormAct(6, affine=affine, activation=a) for a in ("leaky_relu", "none"))
    x, y = torch.randn(2, 2, 6, 4, 5, 3)
    got = norm(x.movedim(1, -1), residual=skip(y.movedim(1, -1))).movedim(-1, 1)
    torch.testing.assert_close(got, F.leaky_relu(F.instance_norm(x) + F.instance_norm(y), 0.01), rtol=1e-5, atol=1e-5)
    assert set(norm.state_dict()) == ({"weight", "bias"} if affine else set())
