import json

import pytest
import torch

from geovit.core.weights import load_state
from geovit.core.weights.swin import load_swin

timm = pytest.importorskip("timm", reason="timm is what our Swin is compared with")

SMALL = {"embed_dim": 12, "depths": (2, 2, 1), "num_heads": (2, 3, 4), "num_classes": 5, "mlp_ratio": 2.5}


def pair(name, *, image=64, pretrained_window=None, **options):
    """A small network of timm with random weights everywhere, and ours loaded from its state dict."""
    torch.manual_seed(0)
    theirs = timm.create_model(name, img_size=image, **{**SMALL, **options}).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (0.5 if parameter.ndim == 1 else 0))
    windows = [stage.blocks[0].window_size[0] for stage in theirs.layers] if "v2" in name else None
    return theirs.double(), load_swin(theirs.double().state_dict(), window=windows, pretrained_window=pretrained_window)


def compare(theirs, loaded, image):
    backbone, head = loaded.backbone.double().eval(), loaded.head.double()
    ours_in, their_in = image.clone().requires_grad_(), image.clone().requires_grad_()
    tokens, their_tokens = backbone(ours_in), theirs.forward_features(their_in)
    torch.testing.assert_close(tokens, their_tokens, rtol=0, atol=1e-9 * their_tokens.abs().max().item())
    ours, expected = head(tokens.flatten(1, -2).mean(1)), theirs.forward_head(their_tokens)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9 * expected.abs().max().item())
    for y in (ours, expected):
        y.square().sum().backward()
    torch.testing.assert_close(ours_in.grad, their_in.grad, rtol=0, atol=1e-8 * their_in.grad.abs().max().item())
    norms = [{name: p.grad.norm() for name, p in model.named_parameters()} for model in (backbone, theirs)]
    pairs = [
        ("stem.conv.weight", "patch_embed.proj.weight"),
        ("stages.0.1.norm1.weight", "layers.0.blocks.1.norm1.weight"),
        ("stages.1.1.mixer.qkv.weight", "layers.1.blocks.1.attn.qkv.weight"),
        ("stages.1.0.channel_mixer.fc2.bias", "layers.1.blocks.0.mlp.fc2.bias"),
        ("downs.1.proj.weight", "layers.2.downsample.reduction.weight"),
    ]
    if "stages.0.1.mixer.bias_table" in norms[0]:
        pairs.append(("stages.0.1.mixer.bias_table", "layers.0.blocks.1.attn.relative_position_bias_table"))
    else:
        pairs.append(("stages.0.1.mixer.bias.fc1.weight", "layers.0.blocks.1.attn.cpb_mlp.0.weight"))
        pairs.append(("stages.1.1.mixer.log_scale", "layers.1.blocks.1.attn.logit_scale"))
    for own, their in pairs:
        torch.testing.assert_close(norms[0][own], norms[1][their], rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"])
@pytest.mark.parametrize("image", [64, (96, 64)])
def test_timm_network_is_reproduced(name, image):
    theirs, loaded = pair(name, image=image, window_size=4)
    side = (image, image) if isinstance(image, int) else image
    compare(theirs, loaded, torch.randn(2, 3, *side, dtype=torch.float64))


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"])
def test_timm_network_is_reproduced_where_windows_stick_out(name):
    # Blocks of one stage are shifted from the second on. Shifted ones are compared where they fit; here 18, 9 and 5 tokens.
    theirs, loaded = pair(name, image=72, window_size=4, depths=(1, 1, 1), num_heads=(2, 3, 4))
    image = torch.randn(1, 3, 72, 72, dtype=torch.float64)
    with torch.no_grad():
        want, got = theirs.forward_features(image), loaded.backbone.double()(image)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-9 * want.abs().max().item())


def test_windows_larger_than_the_image_shrink_as_in_timm():
    theirs, loaded = pair("swin_tiny_patch4_window7_224", image=56, window_size=7)
    assert [stage[0].mixer.window for stage in loaded.backbone.stages] == [(7, 7), (7, 7), (4, 4)]
    compare(theirs, loaded, torch.randn(1, 3, 56, 56, dtype=torch.float64))


def test_pretrained_window_is_used():
    theirs, loaded = pair(
        "swinv2_tiny_window8_256", window_size=4, pretrained_window_sizes=(3, 3, 2), pretrained_window=(3, 3, 2)
    )
    compare(theirs, loaded, torch.randn(1, 3, 64, 64, dtype=torch.float64))


def test_single_precision_agrees_to_rounding():
    theirs, loaded = pair("swin_tiny_patch4_window7_224", window_size=4)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        want = theirs(image.double())
        got = loaded.head.float()(loaded.backbone.float()(image).mean((1, 2)))
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def test_every_tensor_is_counted_and_without_a_classifier_there_is_none():
    theirs, loaded = pair("swin_tiny_patch4_window7_224", window_size=4)
    assert loaded.coverage.elements == sum(p.numel() for p in theirs.parameters())
    state = {key: tensor for key, tensor in theirs.state_dict().items() if not key.startswith("head.")}
    assert load_swin(state).head is None


def test_wrong_state_dicts_are_named():
    state = pair("swin_tiny_patch4_window7_224", window_size=4)[0].state_dict()
    with pytest.raises(ValueError, match=r"1 missing \(stages.1.0.norm2.bias\)"):
        load_swin({key: t for key, t in state.items() if key != "layers.1.blocks.0.norm2.bias"})
    with pytest.raises(ValueError, match=r"1 unexpected \(extra\)"):
        load_swin({**state, "extra": torch.zeros(1)})
    with pytest.raises(ValueError, match="not the weights of a Swin"):
        load_swin({"a": torch.zeros(1)})
    second = pair("swinv2_tiny_window8_256", window_size=4)[0].state_dict()
    with pytest.raises(ValueError, match="do not tell their windows"):
        load_swin(second)


@pytest.mark.parametrize("model", ["swin_v1_model", "swin_v2_model"])
def test_official_names_load(golden_dir, model):
    tensors, metadata = load_state(golden_dir / model / "a.safetensors")
    loaded = load_swin({key.removeprefix("state."): t for key, t in tensors.items() if key.startswith("state.")})
    classes = json.loads(metadata["golden"])["constructor"]["args"]["num_classes"]
    assert loaded.head.out_features == classes
    with torch.no_grad():
        logits = loaded.head(loaded.backbone.eval()(tensors["input.image"]).mean((1, 2)))
    want = tensors["output.logits"]
    torch.testing.assert_close(logits, want, rtol=0, atol=1e-5 * want.abs().max().item())


def test_absolute_positions_load():
    torch.manual_seed(0)
    theirs, _ = pair("swin_tiny_patch4_window7_224", window_size=4)
    table = torch.randn(1, 16 * 16, 12).double()
    loaded = load_swin({**theirs.state_dict(), "absolute_pos_embed": table})
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    theirs.patch_embed.register_forward_hook(lambda _m, _i, out: out + table.unflatten(1, (16, 16)))
    with torch.no_grad():
        torch.testing.assert_close(loaded.backbone.double()(image), theirs.forward_features(image), rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="AbsolutePosition"):
        loaded.backbone(image[..., :32])
