"""What holds for every network, whatever it is made of."""

import pytest
import torch
from torch import nn

from geovit.apps.restoration.catanet import CATANet
from geovit.apps.restoration.cfsr import CFSR
from geovit.apps.restoration.compact import Compact
from geovit.apps.restoration.dlgsanet import DLGSANet
from geovit.apps.restoration.drct import DRCT
from geovit.apps.restoration.hat import HAT
from geovit.apps.restoration.lmdvit import LMDViT
from geovit.apps.restoration.mambair import MambaIR
from geovit.apps.restoration.nafnet import NAFNet
from geovit.apps.restoration.restormer import Restormer
from geovit.apps.restoration.swinir import SwinIR
from geovit.apps.restoration.weights import architecture_of, restorer_from
from geovit.core.layers.lora import LoRALinear, add_lora, merge_lora

MAKE = {
    "swinir": lambda: SwinIR(2, 8, depths=(1, 1), heads=(2, 2), window=4),
    "swinir real": lambda: SwinIR(4, 8, depths=(2,), heads=(2,), window=4, upsampler="nearest+conv"),
    "hat": lambda: HAT(2, 8, depths=(1,), heads=(2,), window=4, overlap=1, narrow=4, squeezed=2),
    "drct": lambda: DRCT(2, 36, heads=(6,), window=4, growth=18),
    "cfsr": lambda: CFSR(8, (1,), scale=2, layer_scale=0.5),
    "nafnet": lambda: NAFNet(8, (1,), decoder=(1,)),
    "restormer": lambda: Restormer(8, (1, 1, 1, 1), heads=(1, 1, 2, 2), refinement=1, bias=True),
    "mambair": lambda: MambaIR(2, 60, depths=(1,), state=2),
    "dlgsanet": lambda: DLGSANet(2, 12, groups=1, pairs=1, tile=6),
    "compact": lambda: Compact(2, width=8, depth=2),
}
UNPUBLISHED = {
    "catanet": lambda: CATANet(2, 8, centres=(2,), group=(8,), patch=(8,), steps=(1,), key_dim=8, hidden=8, heads=2),
    "lmdvit": lambda: LMDViT(16, (1, 1), window=4, threshold=0.0),
}


@pytest.fixture(params=[*MAKE, *UNPUBLISHED])
def network(request):
    torch.manual_seed(0)
    network = (MAKE | UNPUBLISHED)[request.param]().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)  # so that no branch is off
    return network


def test_an_adapter_may_stand_for_any_linear_layer(network):
    layers = {name.rpartition(".")[2] for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}
    if not layers:
        with pytest.raises(ValueError, match="no linear layer"):
            add_lora(network, rank=1)
        return
    add_lora(network, rank=1, targets=sorted(layers))
    for layer in network.modules():
        if isinstance(layer, LoRALinear):
            nn.init.normal_(layer.up, std=0.1)
    x = torch.rand(2, network.in_channels, 9, 13)
    adapted = network(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(network(x), adapted, rtol=1e-5, atol=1e-5)
    merge_lora(network)
    torch.testing.assert_close(network(x).detach(), adapted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_image_is_left_as_it_is_and_gives_the_same_again(network):
    x = torch.rand(2, network.in_channels, 24, 24)
    for given in (x, x.contiguous(memory_format=torch.channels_last), x[:, :, 4:20, 4:20]):
        before = given.clone()
        first = network(given)
        torch.testing.assert_close(network(given), first, rtol=0, atol=0)
        assert torch.equal(given, before)


def test_an_image_without_pixels_is_refused(network):
    for size in ((0, 8, 8), (1, 0, 8), (1, 8, 0)):
        with pytest.raises(ValueError, match="none of them zero"):
            network(torch.zeros(size[0], network.in_channels, *size[1:]))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["swinir real", "catanet"])
def test_compiled_networks_take_images_of_several_sizes(kind):
    network = (MAKE | UNPUBLISHED)[kind]().eval()
    compiled = torch.compile(network, backend="aot_eager")
    for size in ((19, 26), (24, 17)):
        x = torch.rand(1, 3, *size)
        torch.testing.assert_close(compiled(x), network(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", MAKE)
def test_a_damaged_checkpoint_is_told_in_one_line(kind):
    network = MAKE[kind]()
    layout = architecture_of(network).layout
    published = layout.to_published(network.state_dict())
    for name in published:
        absent = {key: value for key, value in published.items() if key != name}
        for state in (absent, absent | {name: torch.ones(())}):
            # Without memory a network is made quickly.
            with torch.device("meta"), pytest.raises(ValueError, match=r"^[^\n]+$"):
                restorer_from(state)
    with pytest.raises(ValueError, match="looks like|no known architecture"):
        restorer_from(published | {"layers.7.more": torch.ones(1)})
