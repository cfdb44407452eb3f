"""Restormer: published configurations, noise that scales, sizes, no other's checkpoint."""

import pytest
import torch
from torch.nn import functional as F

from geovit.apps.restoration.cfsr import CFSR
from geovit.apps.restoration.nafnet import NAFNet
from geovit.apps.restoration.restormer import Restormer
from geovit.apps.restoration.weights import ARCHITECTURES, restorer_from, restormer
from geovit.apps.restoration.weights.cfsr import LAYOUT as CFSR_LAYOUT
from geovit.apps.restoration.weights.nafnet import LAYOUT as NAFNET_LAYOUT

SMALL = {"dim": 8, "depths": (1, 1, 1, 1), "heads": (1, 2, 2, 4), "refinement": 1}
LEVELS = {"encoder_level1": (4, 1), "encoder_level2": (6, 2), "encoder_level3": (6, 4), "latent": (8, 8)}
LEVELS |= {"decoder_level3": (6, 4), "decoder_level2": (6, 2), "decoder_level1": (4, 1), "refinement": (4, 1)}
WIDTHS = {"encoder_level1": 48, "encoder_level2": 96, "encoder_level3": 192, "latent": 384}
WIDTHS |= {"decoder_level3": 192, "decoder_level2": 96, "decoder_level1": 96, "refinement": 96}
PUBLISHED = {  # elements, channels in and out, whether norms have biases, dual pixels
    "deblurring, deraining": (26_126_644, 3, 3, True, False),
    "denoising": (26_111_668, 3, 3, False, False),
    "denoising grey": (26_109_076, 1, 1, False, False),
    "defocus, dual pixels": (26_132_548, 6, 3, True, True),
}


def published_state(channels, out, biased, dual):
    """The official names and shapes, written down from the paper's figure 2 and its published state dicts' names."""
    shapes = {"patch_embed.proj.weight": (48, channels, 3, 3), "output.weight": (out, 96, 3, 3)}
    for level, c in ((1, 48), (2, 96), (3, 192)):
        shapes[f"down{level}_{level + 1}.body.0.weight"] = (c // 2, c, 3, 3)
        shapes[f"up{level + 1}_{level}.body.0.weight"] = (4 * c, 2 * c, 3, 3)
        if level > 1:
            shapes[f"reduce_chan_level{level}.weight"] = (c, 2 * c, 1, 1)
    if dual:
        shapes["skip_conv.weight"] = (96, 48, 1, 1)
    for stage, (depth, heads) in LEVELS.items():
        for block in (f"{stage}.{i}." for i in range(depth)):
            c, hidden = WIDTHS[stage], int(2.66 * WIDTHS[stage])
            shapes |= {f"{block}{norm}.body.weight": (c,) for norm in ("norm1", "norm2")}
            shapes |= {f"{block}{norm}.body.bias": (c,) for norm in ("norm1", "norm2") if biased}
            shapes |= {
                f"{block}attn.temperature": (heads, 1, 1),
                f"{block}attn.qkv.weight": (3 * c, c, 1, 1),
                f"{block}attn.qkv_dwconv.weight": (3 * c, 1, 3, 3),
                f"{block}attn.project_out.weight": (c, c, 1, 1),
                f"{block}ffn.project_in.weight": (2 * hidden, c, 1, 1),
                f"{block}ffn.dwconv.weight": (2 * hidden, 1, 3, 3),
                f"{block}ffn.project_out.weight": (c, hidden, 1, 1),
            }
    return {name: torch.zeros(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_load_whole(name):
    elements, *variant = PUBLISHED[name]
    state = published_state(*variant)
    assert sum(v.numel() for v in state.values()) == elements
    arguments = restormer.infer(state)
    assert arguments["num_blocks"] == [4, 6, 6, 8]
    assert (arguments["ffn_expansion_factor"], arguments["heads"]) == (2.66, [1, 2, 4, 8])
    with torch.device("meta"):
        ours = restormer.build(arguments)
    own = ours.state_dict()
    assert {k: v.shape for k, v in restormer.LAYOUT.to_ours(ours, state).items()} == {k: v.shape for k, v in own.items()}
    assert {k: v.shape for k, v in restormer.LAYOUT.to_published(own).items()} == {k: v.shape for k, v in state.items()}


@pytest.mark.parametrize(
    "options",
    [{}, {"norm": "deviation", "in_channels": 1, "out_channels": 1}, {"in_channels": 6, "dual_pixel": True}, {"bias": True}],
    ids=str,
)
@pytest.mark.parametrize("size", [(1, 1), (9, 20)])
def test_it_comes_back_from_its_own_published_state(options, size):
    network = Restormer(**SMALL, **options, ratio=2.0).eval()
    restored = restorer_from(restormer.LAYOUT.to_published(network.state_dict()))
    assert restored.architecture.name == "restormer"
    x = torch.rand(2, network.in_channels, *size)
    y = network(x)
    assert y.shape == (2, network.out_channels, *size)
    assert y.isfinite().all()
    with torch.inference_mode():
        torch.testing.assert_close(restored.network(x), y, rtol=1e-5, atol=1e-5)


def test_images_of_a_batch_do_not_meet():
    network = Restormer(**SMALL).eval()
    x = torch.rand(3, 3, 16, 8)
    torch.testing.assert_close(network(x)[1:2], network(x[1:2]), rtol=1e-5, atol=1e-5)


def test_sizes_are_filled_up_by_reflection():
    network = Restormer(**SMALL).eval()
    x = torch.rand(1, 3, 13, 22)
    whole = network(F.pad(x, (0, 2, 0, 3), mode="reflect"))
    torch.testing.assert_close(network(x), whole[..., :13, :22])


def made(name):
    if name == "cfsr":
        return CFSR_LAYOUT.to_published(CFSR(8, (1,)).state_dict())
    if name == "nafnet":
        return NAFNET_LAYOUT.to_published(NAFNet(8, (1,), decoder=(1,)).state_dict())
    return restormer.LAYOUT.to_published(Restormer(**SMALL).state_dict())


@pytest.mark.parametrize("name", ["cfsr", "nafnet", "restormer"])
def test_each_checkpoint_is_of_one_architecture(name):
    state = made(name)
    assert [a.name for a in ARCHITECTURES if a.infer(state) is not None] == [name]
    assert restorer_from(state).architecture.name == name
    del state[list(state)[-1]]
    with pytest.raises(ValueError, match="no known architecture|1 missing"):
        restorer_from(state)


def test_what_cannot_be_is_told():
    with pytest.raises(ValueError, match=r"depths \(1, 1\) and heads \(1,\)"):
        Restormer(8, (1, 1), heads=(1,))
    with pytest.raises(ValueError, match="norm is 'batch', allowed are layer, deviation"):
        Restormer(8, (1,), heads=(1,), norm="batch")
    with pytest.raises(ValueError, match="6 channels in and 3 out"):
        Restormer(8, (1,), heads=(1,), in_channels=6)
    with pytest.raises(ValueError, match="LayerNorm_type is 'Batch'"):
        restormer.build({"LayerNorm_type": "Batch"})
