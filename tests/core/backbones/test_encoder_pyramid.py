import pytest
import torch
from torch import nn
from torch.nn import functional as F

from geovit.core.backbones.encoder_pyramid import pyramid
from geovit.core.sensors.encoder import EncoderConfig, build_encoder

WAVELENGTHS = [450.0, 550.0, 660.0]


def made(patch: int, dim: int = 8):
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(dim=16, depth=1, heads=2, patch=patch))
    return pyramid(encoder, wavelengths=WAVELENGTHS, gsd=10.0, dim=dim)


@pytest.mark.parametrize("patch", [2, 4, 8, 16, 32])
def test_features_lie_at_the_four_strides(patch):
    backbone = made(patch)
    found = backbone.features(torch.randn(2, 3, 70, 41))
    assert [tuple(f.shape) for f in found] == [(2, 18, 11, 8), (2, 9, 6, 8), (2, 5, 3, 8), (2, 3, 2, 8)]
    assert backbone.dims == (8, 8, 8, 8)
    assert torch.equal(backbone(torch.ones(1, 3, 32, 32)), backbone.features(torch.ones(1, 3, 32, 32))[-1])


def test_a_patch_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match="patch is 6"):
        made(6)


class Head(nn.Module):
    """Lateral sums from coarse to fine, as in feature pyramid networks."""

    def __init__(self, dims, classes):
        super().__init__()
        self.out = nn.Conv2d(dims[0], classes, 1)

    def forward(self, features, size):
        y = features[-1].permute(0, 3, 1, 2)
        for finer in reversed(features[:-1]):
            y = F.interpolate(y, size=finer.shape[1:3]) + finer.permute(0, 3, 1, 2)
        return F.interpolate(self.out(y), size=size, mode="bilinear")


def test_a_segmentation_network_on_it_learns():
    backbone = made(8, dim=16)
    head = Head(backbone.dims, 2)
    generator = torch.Generator().manual_seed(0)
    y = F.interpolate((torch.rand(4, 1, 4, 4, generator=generator) > 0.5).float(), size=(32, 32))[:, 0].long()
    x = torch.randn(4, 3, 32, 32, generator=generator) * 0.1 + y[:, None]
    optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], 5e-3)
    losses = []
    for _ in range(25):
        loss = F.cross_entropy(head(backbone.features(x), (32, 32)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert all(p.grad is not None for name, p in backbone.named_parameters() if not name.endswith("prefix"))


def test_decoders_of_segmentation_models_take_the_features():
    import segmentation_models_pytorch as smp

    backbone = made(8)
    decoder = smp.decoders.fpn.decoder.FPNDecoder(encoder_channels=(3, 0, *backbone.dims), encoder_depth=5)
    x = torch.randn(1, 3, 64, 64)
    features = [f.permute(0, 3, 1, 2) for f in backbone.features(x)]
    assert decoder([x, x[:, :0], *features]).shape[2:] == (16, 16)
