import pytest
import torch
from torch.nn import functional as F

from geovit.core.native import native_status
from geovit.core.ops.layer_norm_residual import layer_norm_residual

needs_native = pytest.mark.skipif(not native_status()[0], reason=native_status()[1])


@pytest.mark.parametrize("rms", [False, True])
def test_is_torchs_norm_of_the_sum(rms):
    x, branch = torch.randn(2, 3, 5, 12)
    weight, bias, scale = torch.randn(3, 12)
    s, y = layer_norm_residual(x, branch, weight, bias, scale=scale, rms=rms)
    torch.testing.assert_close(s, x + scale * branch)
    want = F.rms_norm(s, (12,), weight, 1e-5) + bias if rms else F.layer_norm(s, (12,), weight, bias)
    torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)


@needs_native
def test_statistics_survive_a_large_mean():
    torch.manual_seed(0)
    x, branch = torch.randn(50, 100) + 1000, torch.randn(50, 100)
    got, want = (
        layer_norm_residual(x.to(t), branch.to(t), backend=b)[1]
        for t, b in ((torch.float32, "native"), (torch.float64, "reference"))
    )
    # s, its mean and its difference from the mean are off by some 6e-5, a unit in the last place of a thousand, and the deviation
    # is 1.4. The variance as a difference of squares would be off by 0.06 in 2.
    assert (got - want).abs().max() < 2e-4


@needs_native
def test_one_of_the_results_may_stay_unused():
    inputs = [x.requires_grad_() for x in torch.randn(2, 7, 20)]
    for used in (0, 1):
        grads = [
            torch.autograd.grad(layer_norm_residual(*inputs, backend=b)[used].square().sum(), inputs) for b in ("native", "eager")
        ]
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


@needs_native
def test_no_tokens_are_no_error():
    s, y = layer_norm_residual(torch.zeros(0, 20), torch.zeros(0, 20), backend="native")
    assert s.shape == y.shape == (0, 20)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"branch": torch.zeros(2, 3)}, r"branch must be like x, \[2, 4\] torch.float32 on cpu, got \[2, 3\]"),
        ({"scale": torch.zeros(2, 4)}, r"scale must be a floating tensor of shape \[4\] on cpu, got \[2, 4\]"),
        ({"x": torch.zeros(2, 0), "branch": torch.zeros(2, 0)}, r"no channels, its shape is \[2, 0\]"),
    ],
)
def test_mistakes_are_described(change, told):
    with pytest.raises(ValueError, match=told):
        layer_norm_residual(**{"x": torch.zeros(2, 4), "branch": torch.zeros(2, 4), **change})
