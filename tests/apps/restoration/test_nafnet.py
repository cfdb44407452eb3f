"""NAFNet: published configurations, local means, sizes."""

import pytest
import torch
from spandrel.architectures.NAFNet import NAFNet as Spandrel

from geovit.apps.restoration.nafnet import NAFNet
from geovit.apps.restoration.weights import nafnet, restorer_from

PUBLISHED = {
    "GoPro and REDS, width 32": (32, (1, 1, 1, 28), 1, (1, 1, 1, 1), 17_111_907),
    "GoPro and REDS, width 64": (64, (1, 1, 1, 28), 1, (1, 1, 1, 1), 67_888_835),
    "SIDD, width 32": (32, (2, 2, 4, 8), 12, (2, 2, 2, 2), 29_159_715),
    "SIDD, width 64": (64, (2, 2, 4, 8), 12, (2, 2, 2, 2), 115_982_915),
}


def official(width, encoder, middle, decoder):
    network = Spandrel(
        img_channel=3, width=width, middle_blk_num=middle, enc_blk_nums=list(encoder), dec_blk_nums=list(decoder)
    ).eval()
    for name, parameter in network.named_parameters():
        if name.endswith(("beta", "gamma")):  # at zero the blocks would do nothing
            torch.nn.init.normal_(parameter, std=0.3)
    return network


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_load_whole(name):
    width, encoder, middle, decoder, elements = PUBLISHED[name]
    with torch.device("meta"):
        state = {
            k: torch.zeros(v.shape, device="meta") for k, v in official(width, encoder, middle, decoder).state_dict().items()
        }
        arguments = nafnet.infer(state)
        ours = nafnet.build(arguments)
    assert (arguments["width"], arguments["middle_blk_num"]) == (width, middle)
    assert (arguments["enc_blk_nums"], arguments["dec_blk_nums"]) == (list(encoder), list(decoder))
    converted, own = nafnet.LAYOUT.to_ours(ours, state), ours.state_dict()
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in own.items()}
    assert sum(v.numel() for v in own.values()) == elements
    back = nafnet.LAYOUT.to_published(own)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in state.items()}


# In the backward pass of spandrel's norm.
@pytest.mark.filterwarnings("ignore:'saved_variables' is deprecated:DeprecationWarning")
@pytest.mark.parametrize("size", [(32, 24), (17, 30), (1, 1)])
def test_results_and_gradients_are_those_of_spandrel(size):
    theirs = official(8, (1, 2), 1, (2, 1))
    restored = restorer_from(theirs.state_dict())
    assert restored.architecture.name == "nafnet"
    x = torch.rand(2, 3, *size)
    want, got = theirs(x), restored.network(x)
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()
    want.square().mean().backward()
    got.square().mean().backward()
    published = nafnet.LAYOUT.to_published({name: p.grad for name, p in restored.network.named_parameters()})
    for name, parameter in theirs.named_parameters():
        worst = (published[name] - parameter.grad).abs().max()
        assert worst <= 1e-3 * parameter.grad.abs().max() + 1e-12, name
    with torch.inference_mode():
        assert (restored.network(x) - want).abs().max() <= 1e-5 * want.abs().max(), "memory is reused where nobody looks back"


def test_a_window_over_the_whole_image_changes_nothing():
    network = restorer_from(official(8, (1, 1), 1, (1, 1)).state_dict()).network
    x = torch.rand(1, 3, 24, 40)
    want = network(x)
    network.set_local_window((24, 40))
    torch.testing.assert_close(network(x), want)
    network.set_local_window((16, 40))
    assert (network(x) - want).abs().max() > 1e-4
    network.set_local_window(None)
    torch.testing.assert_close(network(x), want)


def test_local_means_make_the_result_local():
    network = restorer_from(official(8, (1,), 1, (1,)).state_dict()).network.double()
    x = torch.rand(1, 3, 8, 64, dtype=torch.float64)
    other = x.clone()
    other[..., 60:] = 0
    assert (network(x) - network(other))[..., :16].abs().max() > 0
    network.set_local_window((16, 16))
    # Windows of 16 lie within 16 of each position of the three blocks, and the convolutions see a few pixels more.
    torch.testing.assert_close(network(x)[..., :4], network(other)[..., :4], rtol=0, atol=1e-12)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (35, 2), (33, 47)])
def test_every_size_with_local_means(size, fast):
    network = NAFNet(8, (1, 1), decoder=(1, 1), local_window=(16, 16), fast_local=fast)
    y = network(torch.rand(1, 3, *size))
    assert y.shape == (1, 3, *size)
    assert y.isfinite().all()


def test_what_cannot_be_is_told():
    with pytest.raises(ValueError, match="2 resolutions on the way down and 1 on the way up"):
        NAFNet(8, (1, 1), decoder=(1,))
    with pytest.raises(ValueError, match=r"local window is \(2, 8\), expected at least 4"):
        NAFNet(8, (1, 1), decoder=(1, 1), local_window=(2, 8))
    with pytest.raises(ValueError, match="expected multiples of 4"):
        nafnet.build({"enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1], "train_size": (1, 3, 18, 16)})
