import pytest
import torch

from geovit.apps.restoration.compact import Compact
from geovit.apps.restoration.weights import load_restorer, restorer_from, save_restorer
from geovit.apps.restoration.weights.compact import LAYOUT, build, infer


def official_state(**sizes):
    network = Compact(**sizes)
    for parameter in network.parameters():
        if parameter.ndim == 1:  # biases and slopes, which start alike
            torch.nn.init.uniform_(parameter, -0.2, 0.4)
    return LAYOUT.to_published(network.state_dict())


@pytest.mark.parametrize(
    "sizes", [{"scale": 2, "width": 32, "depth": 10}, {"scale": 4, "width": 16, "depth": 3}, {"scale": 1, "depth": 2}]
)
def test_computes_what_the_published_network_does(sizes):
    loader = pytest.importorskip("spandrel").ModelLoader()
    state = official_state(**sizes)
    theirs = loader.load_from_state_dict(state)
    assert theirs.architecture.name == "RealESRGAN Compact"
    ours = restorer_from(state)
    assert (ours.architecture.name, ours.network.scale) == ("compact", sizes["scale"])
    x = torch.rand(2, 3, 9, 14)
    a, b = theirs.model(x), ours.network(x)
    torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-5)
    names = dict(theirs.model.named_parameters())
    a.square().mean().backward()
    b.square().mean().backward()
    for name, parameter in ours.network.named_parameters():
        torch.testing.assert_close(parameter.grad, names[LAYOUT.published_name(name)].grad, atol=1e-5, rtol=1e-3)


def test_sizes_follow_from_shapes_and_are_written_again(tmp_path):
    network = Compact(3, 1, width=8, depth=4)
    restorer = restorer_from(LAYOUT.to_published(network.state_dict()))
    save_restorer(tmp_path / "x.safetensors", restorer.network, restorer.architecture, {"a": "b"})
    again = load_restorer(tmp_path / "x.safetensors")
    assert (again.network.scale, again.network.in_channels, again.network.halo, again.metadata["a"]) == (3, 1, 6, "b")


def test_halo_holds_all_that_a_pixel_depends_on():
    network = Compact(2, width=4, depth=3).double()
    x = torch.rand(1, 3, 30, 30, dtype=torch.float64, requires_grad=True)
    network(x)[0, :, 30, 30].sum().backward()
    seen = x.grad[0].abs().sum(0).nonzero()
    assert (seen - 15).abs().max() == network.halo


def test_fresh_network_is_near_the_enlarged_input():
    x = torch.rand(1, 3, 16, 16)
    error = Compact()(x) - x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert 0 < error.abs().mean() < 0.2


def test_other_networks_are_not_taken():
    state = official_state(scale=2, width=8, depth=2)
    assert infer(state | {"tail.weight": torch.zeros(3)}) is None
    assert infer({name: value for name, value in state.items() if name != "body.2.bias"}) is None
    assert infer({"head.0.weight": torch.zeros(3)}) is None


def test_impossible_sizes_are_named():
    with pytest.raises(ValueError, match="scale, channels, width, depth are 2, 3, 0, 16"):
        Compact(width=0)
    with pytest.raises(ValueError, match="num_in_ch 3 and num_out_ch 1 differ"):
        build({"num_out_ch": 1})
