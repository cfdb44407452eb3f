import pytest
import torch

from geovit.core.layers.norm import make_norm


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
