"""SwinIR, HAT and DRCT against spandrel's: same weights, same images, same gradients; and their published checkpoints."""

import math

import pytest
import spandrel
import torch
from spandrel import architectures
from torch import nn

from geovit.apps.restoration.weights import ARCHITECTURES, load_restorer, restorer_from, save_restorer

# torch's own, about its meshgrid without a named order.
pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")

OFFICIAL = {"swinir": architectures.SwinIR.SwinIR, "hat": architectures.HAT.HAT, "drct": architectures.DRCT.DRCT}
SWINIR = {"img_size": 64, "window_size": 8, "mlp_ratio": 2, "depths": [6] * 6, "embed_dim": 180, "num_heads": [6] * 6}
HAT = {
    "upscale": 4,
    "window_size": 16,
    "depths": [6] * 6,
    "embed_dim": 180,
    "num_heads": [6] * 6,
    "mlp_ratio": 2,
    "upsampler": "pixelshuffle",
}
DRCT = {"upscale": 4, "upsampler": "pixelshuffle"}
# All published settings (reference: the repositories' scripts), with the number of parameters where it is known.
PUBLISHED = {
    "classical x2": ("swinir", SWINIR | {"upscale": 2, "upsampler": "pixelshuffle", "img_size": 48}, 11_752_487),
    "classical x3": ("swinir", SWINIR | {"upscale": 3, "upsampler": "pixelshuffle", "img_size": 48}, None),
    "classical x4": ("swinir", SWINIR | {"upscale": 4, "upsampler": "pixelshuffle"}, 11_900_199),
    "classical x8": ("swinir", SWINIR | {"upscale": 8, "upsampler": "pixelshuffle"}, None),
    **{
        f"light x{scale}": (
            "swinir",
            SWINIR
            | {"upscale": scale, "upsampler": "pixelshuffledirect", "embed_dim": 60, "depths": [6] * 4, "num_heads": [6] * 4},
            parameters,
        )
        for scale, parameters in ((2, 910_152), (3, 918_267), (4, 929_628))
    },
    "real-M x2": ("swinir", SWINIR | {"upscale": 2, "upsampler": "nearest+conv"}, None),
    "real-M x4": ("swinir", SWINIR | {"upscale": 4, "upsampler": "nearest+conv"}, None),
    "real-L": (
        "swinir",
        SWINIR
        | {
            "upscale": 4,
            "upsampler": "nearest+conv",
            "embed_dim": 240,
            "depths": [6] * 9,
            "num_heads": [8] * 9,
            "resi_connection": "3conv",
        },
        28_013_059,
    ),
    "denoise colour": ("swinir", SWINIR | {"upscale": 1, "img_size": 128}, None),
    "denoise grey": ("swinir", SWINIR | {"upscale": 1, "img_size": 128, "in_chans": 1}, None),
    "JPEG colour": ("swinir", SWINIR | {"upscale": 1, "img_size": 126, "window_size": 7, "img_range": 255.0}, None),
    "JPEG grey": ("swinir", SWINIR | {"upscale": 1, "img_size": 126, "window_size": 7, "img_range": 255.0, "in_chans": 1}, None),
    "HAT-S": ("hat", HAT | {"embed_dim": 144, "compress_ratio": 24, "squeeze_factor": 24}, 9_621_183),
    "HAT": ("hat", HAT, 20_772_507),
    "HAT x2": ("hat", HAT | {"upscale": 2}, None),
    "HAT x3": ("hat", HAT | {"upscale": 3}, None),
    "HAT-L": ("hat", HAT | {"depths": [6] * 12, "num_heads": [6] * 12}, 40_846_575),
    "DRCT": ("drct", DRCT, 14_139_579),
    "DRCT-L": ("drct", DRCT | {"depths": [6] * 12, "num_heads": [6] * 12}, 27_580_719),
}
# Small ones: two groups, windows of 4, two to four heads.
TINY = {"window_size": 4, "img_size": 8, "depths": [2, 2], "num_heads": [2, 2], "embed_dim": 12, "mlp_ratio": 2}
SMALL = {
    "pixelshuffle": ("swinir", TINY | {"upscale": 3, "upsampler": "pixelshuffle"}),
    "pixelshuffledirect": ("swinir", TINY | {"upscale": 2, "upsampler": "pixelshuffledirect", "num_heads": [3, 4]}),
    "nearest+conv": ("swinir", TINY | {"upscale": 4, "upsampler": "nearest+conv", "resi_connection": "3conv"}),
    "denoise": ("swinir", TINY | {"upscale": 1, "in_chans": 1}),
    "JPEG": ("swinir", TINY | {"upscale": 1, "img_range": 255.0, "window_size": 7, "img_size": 14}),
    "hat": ("hat", TINY | {"upscale": 2, "upsampler": "pixelshuffle", "squeeze_factor": 5}),
    "drct": ("drct", TINY | {"upscale": 2, "upsampler": "pixelshuffle", "num_heads": [4, 4], "gc": 6, "mlp_ratio": 1.5}),
}


def randomise(module: nn.Module) -> nn.Module:
    """Give every parameter a say in the result."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1 and "table" not in name:
                parameter.copy_(torch.randn_like(parameter) / math.sqrt(parameter[0].numel()))
            else:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def official(name: str, arguments: dict) -> nn.Module:
    return OFFICIAL[name](**arguments)


@pytest.mark.parametrize("setting", PUBLISHED)
def test_published_settings_are_recognised_and_loaded_whole(setting):
    name, arguments, parameters = PUBLISHED[setting]
    architecture = next(a for a in ARCHITECTURES if a.name == name)
    theirs = official(name, arguments)
    state = theirs.state_dict()
    restorer = restorer_from(state)
    assert restorer.architecture is architecture
    assert restorer.network.scale == arguments["upscale"]
    assert restorer.network.in_channels == arguments.get("in_chans", 3)
    assert restorer.coverage.elements == sum(p.numel() for p in theirs.parameters()) == (parameters or restorer.coverage.elements)
    assert restorer.network.image_range == arguments.get("img_range", 1.0)
    for key, tensor in architecture.layout.to_published(restorer.network.state_dict()).items():
        assert torch.equal(tensor, state[key]), key


@pytest.mark.parametrize("size", [(16, 28), (9, 15), (3, 2)], ids=str)
@pytest.mark.parametrize("kind", SMALL)
def test_outputs_and_all_gradients_are_spandrels(kind, size):
    name, arguments = SMALL[kind]
    # Thousands of leaky ReLUs at full size: some input is so small that float32 cannot tell its sign.
    dtype = torch.float64 if kind == "nearest+conv" else torch.float32
    theirs = randomise(official(name, arguments)).to(dtype)
    restorer = restorer_from(theirs.state_dict())
    ours, layout = restorer.network.to(dtype), restorer.architecture.layout
    x = torch.rand(2, ours.in_channels, *size, dtype=dtype)
    whole = ours._filled_up(x)  # DRCT's own does not fill up, and the others cannot do so for the smallest size
    want = theirs(whole)[..., : size[0] * ours.scale, : size[1] * ours.scale]
    got = ours(x)
    assert got.shape == want.shape
    assert (got - want).abs().max() <= 1e-4 * (want.max() - want.min())
    weight = torch.randn_like(want)
    (want * weight).sum().backward()
    (got * weight).sum().backward()
    gradients = layout.to_published({key: parameter.grad for key, parameter in ours.named_parameters()})
    for key, parameter in theirs.named_parameters():
        worst, largest = (gradients[key] - parameter.grad).abs().max(), parameter.grad.abs().max()
        assert worst <= 1e-3 * largest, f"{key}: {worst} of {largest}"


@pytest.mark.parametrize("kind", SMALL)
def test_spandrel_reads_what_we_write_and_so_do_we(kind, tmp_path):
    name, arguments = SMALL[kind]
    restorer = restorer_from(randomise(official(name, arguments)).state_dict())
    x = torch.rand(1, restorer.network.in_channels, 28, 28)
    want = restorer.network(x)
    for buffers in (True, False):
        path = tmp_path / f"{buffers}.safetensors"
        save_restorer(path, restorer.network, restorer.architecture, {"note": "mine"}, buffers=buffers)
        again = load_restorer(path)
        assert again.metadata["note"] == "mine"
        torch.testing.assert_close(again.network(x), want)
        if buffers:
            theirs = spandrel.ModelLoader().load_from_file(path)
            torch.testing.assert_close(theirs.model.eval()(x), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["pixelshuffle", "hat", "drct"])
def test_a_changed_index_is_refused(kind):
    name, arguments = SMALL[kind]
    state = official(name, arguments).state_dict()
    key = next(key for key in state if "relative_position_index" in key)
    state[key] = state[key].flip(0)
    with pytest.raises(ValueError, match="relative_position_index"):
        restorer_from(state)


@pytest.mark.parametrize("kind", ["pixelshuffle", "hat", "drct"])
def test_a_missing_or_unknown_tensor_is_named(kind):
    name, arguments = SMALL[kind]
    state = official(name, arguments).state_dict()
    key = next(key for key in state if "norm2.bias" in key)
    with pytest.raises(ValueError, match="1 missing"):
        restorer_from({k: t for k, t in state.items() if k != key})
    with pytest.raises(ValueError, match=r"1 unexpected \(extra\)"):
        restorer_from(state | {"extra": torch.zeros(1)})


def test_windows_that_are_never_shifted_are_refused():
    architecture = next(a for a in ARCHITECTURES if a.name == "swinir")
    with pytest.raises(ValueError, match="img_size is 8, expected more than the window of 8"):
        architecture.build({"img_size": 8, "window_size": 8})


@pytest.mark.parametrize("kind", ["pixelshuffle", "hat", "drct"])
def test_the_stream_between_groups_stays_in_float32_under_autocast(kind):
    name, arguments = SMALL[kind]
    network = restorer_from(randomise(official(name, arguments)).state_dict()).network
    seen = []
    for module in network.modules():
        if isinstance(module, nn.LayerNorm) or module in list(network.groups):
            module.register_forward_hook(lambda _module, args, out: seen.extend([args[0].dtype, out.dtype]))
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        want = network(x)
        seen.clear()
        with torch.autocast("cpu", torch.bfloat16):
            got = network(x)
    assert set(seen) == {torch.float32}
    assert (got - want).abs().max() <= 0.05 * (want.max() - want.min())
    assert torch.float16 in network.unsafe
