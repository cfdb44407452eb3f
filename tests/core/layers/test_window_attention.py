import pytest
import torch

from geovit.core.layers.attention import WindowAttention


def randomised(attention: WindowAttention) -> WindowAttention:
    torch.manual_seed(0)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return attention


@pytest.mark.parametrize(("size", "window"), [((11,), (4,)), ((6, 9), (4, 4)), ((3, 5, 4), (2, 3, 4))])
@pytest.mark.parametrize("border", ["partial", "zeros"])
def test_backends_agree_for_any_number_of_axes(size, window, border):
    options = {"heads": 2, "window": window, "shift": tuple(w // 2 for w in window), "border": border}
    eager = randomised(WindowAttention(12, **options))
    reference = WindowAttention(12, **options, backend="reference")
    reference.load_state_dict(eager.state_dict())
    x = torch.randn(2, *size, 12)
    torch.testing.assert_close(eager(x), reference(x))


def test_border_zeros_equals_zero_tokens_before_the_projection():
    small = randomised(WindowAttention(8, heads=2, window=(5, 5), border="zeros"))
    x = torch.randn(2, 3, 7, 8)
    padded = torch.zeros(2, 5, 10, 8)
    padded[:, :3, :7] = x
    torch.testing.assert_close(small(x), small(padded)[:, :3, :7])


def test_options_without_parameters_have_none():
    attention = WindowAttention(8, heads=2, window=(4, 4), qkv_bias=False, position_bias=None)
    assert {name for name, _ in attention.named_parameters()} == {"qkv.weight", "proj.weight", "proj.bias"}
    assert attention(torch.randn(1, 5, 5, 8)).shape == (1, 5, 5, 8)


def test_heads_that_do_not_divide_the_channels_are_named():
    with pytest.raises(ValueError, match="dim 10 is not a multiple of heads 3"):
        WindowAttention(10, heads=3, window=(4, 4))
