"""The U-net of scans: shapes, far sight, bfloat16 without NaN, and that it learns."""

import pytest
import torch
from torch.nn import functional as F

from geovit.apps.medical.vssm_unet import Down, Up, VSSMUNet


def small(axes=3, **options):
    torch.manual_seed(0)
    return VSSMUNet(1, 2, axes=axes, features=(8, 12, 16), state=4, **options)


def blobs(axes, count, size, seed):
    """Images (count, 1, *size) of bright and dark blobs under noise, and labels (count, *size) of the bright ones."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, *(size,) * axes, generator=g)
    for _ in range(3):
        x = F.avg_pool2d(x, 3, 1, 1) if axes == 2 else F.avg_pool3d(x, 3, 1, 1)
    x = x / x.std()
    return x + 0.2 * torch.randn(x.shape, generator=g), (x[:, 0] > 0.5).long()


@pytest.mark.parametrize("axes", [2, 3])
def test_any_size_gives_logits_of_that_size(axes):
    network = small(axes).eval()
    for size in ((4, 8, 4), (7, 5, 9), (1, 1, 2)):
        with torch.inference_mode():
            y = network(torch.randn(2, 1, *size[:axes]))
        assert y.shape == (2, 2, *size[:axes])
        assert bool(y.isfinite().all())


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_down_and_up_are_strided_convolutions(axes):
    conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[axes]
    transposed = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[axes]
    size, two = (4, 6, 2)[:axes], (2,) * axes
    down, up, x = Down(3, 5, axes=axes), Up(3, 5, axes=axes), torch.randn(2, *size, 3)
    images = x.movedim(-1, 1)
    weight = down.proj.weight.view(5, *two, 3).movedim(-1, 1)
    torch.testing.assert_close(down(x).movedim(-1, 1), conv(images, weight, down.proj.bias, stride=2))
    weight = up.proj.weight.view(*two, 5, 3).movedim(-1, 0).movedim(-1, 1)
    bias = up.proj.bias.view(-1, 5)
    assert up(x).shape == (2, *(2 * n for n in size), 5)
    up.proj.bias.data.copy_(bias[0].repeat(2**axes))
    torch.testing.assert_close(up(x).movedim(-1, 1), transposed(images, weight, bias[0], stride=2))


def test_one_voxel_is_felt_in_every_other():
    network = small().double().eval()
    x = torch.zeros(1, 1, 24, 24, 24, dtype=torch.float64)
    x[0, 0, 12, 12, 12] = 1
    x.requires_grad_()
    network(x)[0, 0, 0, 0, 0].backward()
    assert bool((x.grad[0, 0, [0, 0, 23, 23], [0, 23, 0, 23], [23, 0, 0, 23]] != 0).all())


def test_scans_take_their_sums_in_float32_under_bfloat16():
    """Large intensities and long training in 16 bit have made other implementations return NaN."""
    network = small(drop_path=0.1).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    x, labels = blobs(3, 2, 12, seed=1)
    for scale in (1.0, 1e4, 1e-4, 1e6) * 3:
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(network(scale * x).float(), labels)
        loss.backward()
        assert bool(loss.isfinite())
        assert all(bool(p.grad.isfinite().all()) for p in network.parameters())
        optimizer.step()
        optimizer.zero_grad()


def test_bfloat16_is_near_float32():
    network, (x, _) = small().eval(), blobs(3, 1, 16, seed=2)
    with torch.inference_mode():
        exact = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(x).float()
    assert float((rounded - exact).norm() / exact.norm()) < 0.03


@pytest.mark.parametrize("axes", [2, 3])
def test_it_learns_blobs_under_noise(axes):
    network = small(axes).train()
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    for step in range(60):
        x, labels = blobs(axes, 4, 12 if axes == 3 else 24, seed=step)
        loss = F.cross_entropy(network(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    x, labels = blobs(axes, 4, 12 if axes == 3 else 24, seed=1000)
    with torch.inference_mode():
        found = network(x).argmax(1)
    overlap = 2 * float((found * labels).sum()) / float(found.sum() + labels.sum())
    assert overlap > 0.85


def test_checkpointing_changes_no_gradient():
    x = torch.randn(1, 1, 8, 8, 8)
    grads = []
    for use_checkpoint in (False, True):
        network = small(use_checkpoint=use_checkpoint).train()
        network(x).square().mean().backward()
        grads.append([p.grad for p in network.parameters()])
    for plain, again in zip(*grads, strict=True):
        torch.testing.assert_close(plain, again)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"axes": 1}, "axes is 1, allowed are 2 and 3"),
        ({"features": (8,)}, r"features \[8\] and depths \[\]"),
        ({"features": (8, 16), "depths": (1, 1)}, "expected two or more features and one depth fewer"),
        ({"routes": ("abc",)}, "route is 'abc'"),
    ],
)
def test_options_that_are_not_allowed(options, match):
    with pytest.raises(ValueError, match=match):
        VSSMUNet(1, 2, **options)


def test_another_number_of_axes_is_told():
    with pytest.raises(ValueError, match=r"expected \(batch, channels, 3 axes\)"):
        small()(torch.randn(1, 1, 8, 8))
