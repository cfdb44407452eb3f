"""MambaIR, DLGSANet and CATANet: published configurations, layouts, sizes."""

import pytest
import torch

from geovit.apps.restoration.weights import ARCHITECTURES, catanet, dlgsanet, mambair, restorer_from

_LARGE = {"img_size": 64, "img_range": 1.0, "embed_dim": 180, "depths": [6] * 6, "d_state": 16}
_SR = {**_LARGE, "mlp_ratio": 2, "upsampler": "pixelshuffle", "resi_connection": "1conv"}
_LIGHT = {"embed_dim": 60, "depths": [6] * 4, "d_state": 10, "mlp_ratio": 1.2, "upsampler": "pixelshuffledirect"}
_DLGSA = {"buildblock_type": "sparseedge", "activation": "relu", "upsampler": "pixelshuffledirect", "body_norm": False}
# Arguments of the option files, and the number of parameters that papers and official code tell.
PUBLISHED = [
    (mambair, {**_SR, "upscale": 2}, 20_421_863),
    (mambair, {**_SR, "upscale": 3}, 20_606_503),
    (mambair, {**_SR, "upscale": 4}, 20_569_575),
    (mambair, {**_LIGHT, "upscale": 2}, 905_016),
    (mambair, {**_LIGHT, "upscale": 3}, 913_131),
    (mambair, {**_LIGHT, "upscale": 4}, 924_492),
    (mambair, {**_LARGE, "upscale": 1, "mlp_ratio": 1.2}, 15_777_507),
    (mambair, {**_LARGE, "upscale": 1, "mlp_ratio": 1.2, "in_chans": 1}, 15_771_025),
    *((dlgsanet, {**_DLGSA, "dim": 90, "groups": 6, "blocks": 4, "upscale": s, "tlc_kernel": 192 // s}, None) for s in (2, 4)),
    *((dlgsanet, {**_DLGSA, "dim": 48, "groups": 4, "blocks": 3, "upscale": s, "tlc_kernel": 192 // s}, None) for s in (2, 4)),
    (dlgsanet, {**_DLGSA, "dim": 48, "groups": 3, "blocks": 4, "upscale": 3, "tlc_kernel": 72}, None),
    (catanet, {"upscale": 2}, 477_435),
    (catanet, {"upscale": 3}, 549_635),
    (catanet, {"upscale": 4}, 535_195),
]


@pytest.mark.parametrize(("module", "arguments", "parameters"), PUBLISHED)
def test_published_configurations_are_told_from_their_tensors(module, arguments, parameters):
    with torch.device("meta"):
        network = module.build(arguments)
    if parameters is not None:
        assert sum(p.numel() for p in network.parameters()) == parameters
    published = module.LAYOUT.to_published(network.state_dict())
    found = module.infer(published)
    assert found is not None
    assert all(found[name] == pytest.approx(value, abs=1e-9) for name, value in arguments.items() if name in found)
    assert [a.name for a in ARCHITECTURES if a.infer(published) is not None] == [module.__name__.rpartition(".")[2]]
    own = module.LAYOUT.to_ours(network, published)
    assert {name: t.shape for name, t in own.items()} == {name: t.shape for name, t in network.state_dict().items()}


SMALL = [
    (mambair, {"embed_dim": 30, "depths": [1], "d_state": 2, "upscale": 2, "upsampler": "pixelshuffledirect"}),
    (
        mambair,
        {"embed_dim": 30, "depths": [1], "d_state": 2, "upscale": 3, "upsampler": "pixelshuffle", "resi_connection": "3conv"},
    ),
    (mambair, {"embed_dim": 30, "depths": [1], "upscale": 1, "in_chans": 1, "patch_norm": False}),
    (dlgsanet, {"dim": 12, "groups": 2, "blocks": 1, "buildblock_type": "sparseedge", "upscale": 2, "upsampler": "pixelshuffle"}),
    (catanet, {"upscale": 3}),
]


@torch.no_grad()
@pytest.mark.parametrize(("module", "arguments"), SMALL)
def test_a_published_state_makes_the_same_network_for_any_size(module, arguments):
    torch.manual_seed(0)
    network = module.build(arguments).eval()
    restorer = restorer_from(module.LAYOUT.to_published(network.state_dict()))
    assert restorer.coverage.tensors == len(network.state_dict())
    for size in ((1, 1), (7, 13)):
        x = torch.rand(2, network.in_channels, *size)
        y = restorer.network(x)
        assert y.shape == (2, network.out_channels, *(n * network.scale for n in size))
        torch.testing.assert_close(y, network(x), rtol=0, atol=1e-6)


def test_what_is_not_understood_is_refused():
    with pytest.raises(ValueError, match="unknown argument window"):
        mambair.build({"window": 8})
    with pytest.raises(ValueError, match="expected at least 30"):
        mambair.build({"embed_dim": 24})
    with pytest.raises(ValueError, match="buildblock_type is 'idynamic'"):
        dlgsanet.build({"buildblock_type": "idynamic"})
    with pytest.raises(ValueError, match="scale is 8"):
        catanet.build({"upscale": 8})
