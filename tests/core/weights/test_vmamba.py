import json

import pytest
import torch
from torch.nn import functional as F

from geovit.core.layers.ss2d import SelectiveScan
from geovit.core.ops.selective_scan import CROSS_2D
from geovit.core.weights import load_into, load_state
from geovit.core.weights.vmamba import build_ss2d, build_vss_block, build_vssm, forward_type_options, load_vssm
from geovit.core.weights.vmamba_state import ss2d_state, vssm_arguments

PUBLISHED = {"x_proj": "x_proj_weight", "dt_proj": "dt_projs_weight", "dt_bias": "dt_projs_bias", "A_log": "A_logs", "D": "Ds"}


def published(layer: SelectiveScan) -> dict[str, torch.Tensor]:
    """Write a mixer's state under the authors' names."""
    state = {}
    for name, tensor in layer.state_dict().items():
        name = PUBLISHED.get(name, name).replace("conv.", "conv2d.").replace("refine.0.", "out_norm.")
        state[name] = tensor.flatten(0, 1) if name in ("A_logs", "Ds") else tensor
    return state


@pytest.fixture
def golden(golden_dir):
    tensors, metadata = load_state(golden_dir / "vmamba_model" / "a.safetensors")
    arguments = json.loads(metadata["golden"])["constructor"]["args"]
    return arguments, {name.removeprefix("state."): t for name, t in tensors.items() if name.startswith("state.")}, tensors


@pytest.mark.parametrize("forward_type", ["v05", "v05_noz", "v3_nozact", "v052d"])
def test_mixer_comes_back(forward_type):
    torch.manual_seed(0)
    layer = SelectiveScan(8, state=3, **forward_type_options(forward_type))
    loaded, x = build_ss2d({"d_model": 8, "d_state": 3, "forward_type": forward_type}), torch.randn(2, 5, 3, 8)
    load_into(loaded, ss2d_state(published(layer)))
    assert torch.equal(loaded(x), layer(x))


@pytest.mark.parametrize(
    ("forward_type", "gate", "refine", "routes"),
    [
        ("v0", "activated", ("layer",), CROSS_2D),
        ("v2_no32", "activated", ("layer",), CROSS_2D),
        ("v05_nozact", "linear", ("layer",), CROSS_2D),
        ("v05_onsoftmax_noz_oact", "none", ("softmax", "gelu"), CROSS_2D),
        ("v04_onnone", "activated", (), CROSS_2D),
        ("v04_ondwconv3", "activated", ("conv",), CROSS_2D),
        ("v051d_onsigmoid", "activated", ("sigmoid",), ("raster",) * 4),
        ("v052d_oncnorm", "activated", ("layer", "conv"), ("raster", "raster", "raster_reverse", "raster_reverse")),
    ],
)
def test_forward_types(forward_type, gate, refine, routes):
    assert forward_type_options(forward_type) == {"gate": gate, "refine": refine, "routes": routes}


@pytest.mark.parametrize("forward_type", ["v052dc", "xv1a", "m0_noz", "v05_noz_oncnorm", "v0_noz", ""])
def test_unknown_forward_types_are_told(forward_type):
    with pytest.raises(ValueError, match=f"forward_type is '{forward_type}', known are v0, v0seq and v01|v02"):
        forward_type_options(forward_type)


def test_first_release_ignores_arguments():
    arguments = {"d_model": 8, "forward_type": "v0", "d_conv": 5, "bias": True, "conv_bias": False, "act_layer": "nn.GELU"}
    plain = build_ss2d({"d_model": 8, "forward_type": "v0"})
    assert {n: t.shape for n, t in build_ss2d(arguments).state_dict().items()} == {
        n: t.shape for n, t in plain.state_dict().items()
    }


def test_published_classifier_is_rebuilt_from_its_weights(golden):
    arguments, state, tensors = golden
    loaded = load_vssm(state, forward_type=arguments["forward_type"])
    logits = loaded.head(loaded.backbone.eval()(tensors["input.image"]).mean((1, 2)))
    torch.testing.assert_close(logits, tensors["output.logits"], rtol=0, atol=1e-5 * tensors["output.logits"].abs().max().item())
    assert loaded.coverage.tensors == len(state)
    assert loaded.coverage.elements == sum(tensor.numel() for tensor in state.values())


def test_shapes_tell_the_arguments(golden):
    arguments, state, _ = golden
    told = vssm_arguments(state, forward_type="v05_noz")
    expected = {**arguments, "dims": [8, 16, 32, 64], "gmlp": False, "posembed": False, "imgsize": 224}
    assert told == {name: expected[name] for name in told}


def test_names_of_the_first_release_and_layers_stored_as_convolutions(golden):
    _, state, _ = golden
    old = {}
    for name, tensor in state.items():
        name = name.replace(".op.", ".self_attention.").replace("blocks.0.norm.", "blocks.0.ln_1.").replace("classifier.", "")
        old[name] = tensor[..., None, None] if name.endswith(("in_proj.weight", "fc1.weight")) else tensor
    new, same = (load_vssm(weights, forward_type="v05_noz") for weights in (state, old))
    assert all(map(torch.equal, new.backbone.state_dict().values(), same.backbone.state_dict().values()))
    assert torch.equal(new.head.weight, same.head.weight)


def test_learned_positions(golden):
    _, state, tensors = golden
    state = {**state, "pos_embed": torch.randn(1, 8, 8, 8)}
    loaded = load_vssm(state, forward_type="v05_noz")
    backbone = loaded.backbone
    assert loaded.coverage.tensors == len(state)
    image = tensors["input.image"]
    torch.testing.assert_close(
        backbone.stem(image), backbone.stem[0](image) + state["pos_embed"].permute(0, 2, 3, 1), rtol=0, atol=0
    )


def test_backbone_without_a_classifier(golden):
    _, state, _ = golden
    assert load_vssm({n: t for n, t in state.items() if "head" not in n}, forward_type="v05_noz").head is None


def test_missing_and_unexpected_weights_are_told(golden):
    _, state, _ = golden
    with pytest.raises(ValueError, match=r"1 unexpected \(extra\)"):
        load_vssm({**state, "extra": torch.ones(1)}, forward_type="v05_noz")
    with pytest.raises(ValueError, match=r"1 missing \(downs.1.conv.bias\)"):
        load_vssm({n: t for n, t in state.items() if n != "layers.1.downsample.1.bias"}, forward_type="v05_noz")
    with pytest.raises(ValueError, match="the state dict has no 'stem.conv.weight'"):
        load_vssm({n: t for n, t in state.items() if "patch_embed" not in n}, forward_type="v05_noz")
    with pytest.raises(ValueError, match="of another shape"):
        load_vssm(state, forward_type="v05")
    with pytest.raises(ValueError, match="has no dt_projs_bias beside the weight that is stages.2.1.mixer"):
        load_vssm({n: t for n, t in state.items() if n != "layers.2.blocks.1.op.dt_projs_bias"}, forward_type="v05_noz")
    with pytest.raises(ValueError, match="VSSM: the state dict has no layers.0.blocks.0.norm.weight"):
        load_vssm({}, forward_type="v05_noz")


@pytest.mark.parametrize(
    ("build", "arguments", "told"),
    [
        (build_ss2d, {"dropout": 0.1}, "SS2D: dropout is 0.1, allowed here is 0.0"),
        (
            build_vss_block,
            {"hidden_dim": 8, "mlp_act_layer": "relu"},
            "VSSBlock: mlp_act_layer is 'relu', allowed here is 'gelu'",
        ),
        (build_vssm, {"norm_layer": "bn"}, "VSSM: norm_layer is 'bn', allowed here is 'ln'"),
        (build_vssm, {"downsample_version": "v4"}, "VSSM: downsample_version is 'v4', known are v1, v2, v3"),
        (build_vssm, {"patchembed_version": "v3"}, "VSSM: patchembed_version is 'v3', known are v1, v2"),
        (build_vssm, {"pathc_size": 4}, "VSSM: unknown argument pathc_size"),
    ],
)
def test_arguments_that_are_not_built_are_told(build, arguments, told):
    with pytest.raises(ValueError, match=told):
        build(arguments)


def test_block_variants():
    after = build_vss_block({"hidden_dim": 8, "post_norm": True, "forward_type": "v05"})
    x = torch.randn(1, 3, 3, 8)
    y = x + after.norm1(after.mixer(x))
    torch.testing.assert_close(after(x), y + after.norm2(after.channel_mixer(y)))
    assert build_vss_block({"hidden_dim": 8, "mlp_ratio": 0}).channel_mixer is None
    gated = build_vss_block({"hidden_dim": 8, "gmlp": True}).channel_mixer
    z = gated.fc1(x)
    torch.testing.assert_close(gated(x), gated.fc2(z[..., :32] * F.gelu(z[..., 32:])))
