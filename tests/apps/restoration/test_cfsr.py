"""CFSR: published quality, edge detectors that fold away, what a tile needs to see."""

import numpy as np
import pytest
import torch
from PIL import Image

from geovit.apps.restoration.cfsr import CFSR
from geovit.apps.restoration.weights import load_restorer, restorer_from, save_restorer
from geovit.apps.restoration.weights.cfsr import LAYOUT

SMALL = {"dim": 8, "depths": (1, 2), "kernel": 5, "layer_scale": 0.5}


def luma(image: np.ndarray) -> np.ndarray:
    """Y of BT.601 in 16 to 235, of (H, W, 3) values in 0 to 255."""
    return image.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255 + 16


@pytest.mark.parametrize(("scale", "published"), [(2, 38.07), (4, 32.33)])
def test_published_weights_reach_their_published_quality(data_dir, scale, published):
    """Set5, PSNR of Y, a border as wide as the scale left out, the result rounded to eight bits."""
    network = load_restorer(data_dir / "checkpoints" / "cfsr" / f"CFSR_x{scale}.pth").network
    found = []
    for path in sorted((data_dir / "restoration" / "Set5" / "HR").glob("*.png")):
        low = data_dir / "restoration" / "Set5" / "LR_bicubic" / f"X{scale}" / f"{path.stem}x{scale}.png"
        x = torch.from_numpy(np.array(Image.open(low).convert("RGB"))).permute(2, 0, 1)[None] / 255
        with torch.inference_mode():
            y = (network(x)[0].permute(1, 2, 0) * 255).round().clamp(0, 255).numpy()
        want = np.array(Image.open(path).convert("RGB"))[: y.shape[0], : y.shape[1]]
        error = (luma(y) - luma(want))[scale:-scale, scale:-scale]
        found.append(10 * np.log10(255**2 / np.square(error).mean()))
    assert len(found) == 5
    assert abs(np.mean(found) - published) <= 0.01


def separate(network, x):
    """The small convolution of the first block, branch by branch, as the paper draws it."""
    conv = network.groups[0].blocks[0].channel_mixer.conv
    y = torch.nn.functional.conv2d(x, conv.weight, conv.bias, padding=1, groups=len(conv.weight))
    for strength, taps in zip(conv.edges, conv.filters, strict=True):
        kernel = strength[:, None, None, None] * taps
        y = y + torch.nn.functional.conv2d(x, kernel, padding=1, groups=len(conv.weight))
    return conv, torch.nn.functional.gelu(y)


def test_the_small_convolution_is_the_sum_of_its_branches():
    network = CFSR(**SMALL, edges=True)
    torch.nn.init.normal_(network.groups[0].blocks[0].channel_mixer.conv.edges)
    conv, want = separate(network, x := torch.randn(2, 16, 6, 7))
    got = conv(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(conv.folded()(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), want)


def test_edge_detectors_learn_and_fold_into_the_published_layout(tmp_path):
    network = CFSR(**SMALL, edges=True)
    for name, parameter in network.named_parameters():
        if name.endswith("edges"):
            torch.nn.init.normal_(parameter)
    x = torch.rand(2, 3, 9, 13)
    network(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    folded = network.folded()
    torch.testing.assert_close(folded(x), network(x), atol=1e-5, rtol=0)
    assert not [name for name in folded.state_dict() if "edges" in name]
    assert [name for name in network.state_dict() if "edges" in name], "the network itself can be trained on"
    restored = restorer_from(LAYOUT.to_published(folded.state_dict()))
    torch.testing.assert_close(restored.network(x), network(x), atol=1e-5, rtol=0)


def test_a_trained_network_is_saved_folded(tmp_path):
    network = CFSR(**SMALL, edges=True)
    restored = restorer_from(LAYOUT.to_published(network.folded().state_dict()))
    path = tmp_path / "cfsr.safetensors"
    save_restorer(path, network, restored.architecture, {"scale": "2"})
    again = load_restorer(path)
    x = torch.rand(1, 3, 5, 6)
    assert again.metadata["scale"] == "2"
    torch.testing.assert_close(again.network(x), network(x), atol=1e-5, rtol=0)


def test_the_halo_is_what_a_pixel_sees_and_no_less():
    network = CFSR(**SMALL, scale=1).double()
    x = torch.rand(1, 3, 1, 2 * network.halo + 7, dtype=torch.float64, requires_grad=True)
    middle = network.halo + 3
    network(x)[..., middle].sum().backward()
    (seen,) = torch.where(x.grad.abs().sum((0, 1, 2)) > 0)
    assert (seen.min(), seen.max()) == (middle - network.halo, middle + network.halo)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("options", [{"scale": 4}, {"scale": 3, "in_channels": 1}, {"scale": 1, "residual": True}], ids=str)
def test_every_size_and_scale(size, options):
    network = CFSR(**SMALL, **options)
    y = network(torch.rand(2, network.in_channels, *size))
    assert y.shape == (2, network.in_channels, *(network.scale * n for n in size))
    assert y.isfinite().all()


def test_a_residual_network_has_scale_one():
    with pytest.raises(ValueError, match="scale is 2, but a residual network has scale 1"):
        CFSR(residual=True)
