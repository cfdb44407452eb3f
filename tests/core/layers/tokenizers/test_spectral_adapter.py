import pytest
import torch
from torch import nn

from geovit.core.layers.tokenizers import SpectralAdapter, SpectralAdapterEmbed


def stack(adapter, strides):
    """The same as 3-D convolutions."""
    layers = []
    for conv, norm, stride in zip(adapter.convs, adapter.norms, strides, strict=True):
        deep = nn.Conv3d(
            conv.in_channels, conv.out_channels, (conv.kernel_size[0], 1, 1), stride=(stride, 1, 1), padding=(1, 0, 0)
        )
        deep.load_state_dict({"weight": conv.weight[..., None], "bias": conv.bias})
        batch = nn.BatchNorm3d(conv.out_channels)
        batch.load_state_dict(norm.state_dict())
        layers += [deep, batch, nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d((1, None, None)))


@pytest.mark.parametrize("bands", [75, 202])
@pytest.mark.parametrize("mode", [False, True])
def test_it_is_a_stack_of_3d_convolutions_in_training_and_evaluation(bands, mode):
    adapter = SpectralAdapter()
    for norm in adapter.norms:
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    expected = stack(adapter, (5, 5, 3)).train(mode)
    x = torch.randn(2, bands, 4, 6)
    torch.testing.assert_close(adapter.train(mode)(x), expected(x[:, None])[:, :, 0], rtol=1e-4, atol=1e-5)


def test_too_few_bands_are_an_error_that_says_how_many():
    with pytest.raises(ValueError, match="74 bands, expected at least 75"):
        SpectralAdapter()(torch.zeros(1, 74, 4, 4))
    with pytest.raises(ValueError, match=r"lengths \[3, 2, 3\]"):
        SpectralAdapter(kernels=(7, 7))
    with pytest.raises(ValueError, match="radar has codes instead"):
        SpectralAdapterEmbed(8, patch=4)(torch.zeros(1, 2, 4, 4), torch.tensor([490.0, -1.0]), 10.0)
