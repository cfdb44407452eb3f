"""Small networks as checkpoint files."""

import pytest
import torch
from torch import nn

from geovit.apps.restoration.cfsr import CFSR
from geovit.apps.restoration.weights import ARCHITECTURES, save_restorer

CFSR_ENTRY = next(architecture for architecture in ARCHITECTURES if architecture.name == "cfsr")


@pytest.fixture(scope="session")
def make_weights(tmp_path_factory):
    """Write a small network of random weights that roughly repeats pixels, so that results look like their inputs."""
    folder = tmp_path_factory.mktemp("weights")

    def make(scale=2, channels=3):
        path = folder / f"small_{channels}x{scale}.safetensors"
        if not path.is_file():
            with torch.random.fork_rng():
                torch.manual_seed(0)
                network = CFSR(8, (1,), scale=scale, in_channels=channels, kernel=3, layer_scale=0.1, residual=scale == 1)
                if scale > 1:
                    _repeat(network, scale, channels)
                save_restorer(path, network, CFSR_ENTRY, {"scale": str(scale), "licence": "CC0-1.0"})
        return path

    return make


@torch.no_grad()
def _repeat(network, scale, channels):
    """Carry the channels through the network's long way around, with a little of its body added."""
    nn.init.normal_(network.conv_after_body.weight, std=0.002)
    for conv in (network.conv_first, network.upsample):
        nn.init.normal_(conv.weight, std=0.002)
        nn.init.zeros_(conv.bias)
    for channel in range(channels):
        network.conv_first.weight[channel, channel, 1, 1] += 1
        network.upsample.weight[channel * scale**2 : (channel + 1) * scale**2, channel, 1, 1] += 1
