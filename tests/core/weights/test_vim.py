import json

import pytest
import torch

from geovit.core.backbones.vim import Vim
from geovit.core.layers.mamba import Mamba
from geovit.core.weights import load_into, load_state
from geovit.core.weights.vim import build_vim, load_vim, vim_arguments, vim_state


@pytest.fixture
def golden(golden_dir):
    tensors, metadata = load_state(golden_dir / "vim_model" / "a.safetensors")
    arguments = json.loads(metadata["golden"])["constructor"]["args"]
    return arguments, {name.removeprefix("state."): t for name, t in tensors.items() if name.startswith("state.")}, tensors


def test_published_classifier_is_rebuilt_from_its_weights(golden):
    _, state, tensors = golden
    loaded = load_vim(state, img_size=16)
    logits = loaded.head(loaded.backbone.eval().pooled(tensors["input.image"]))
    torch.testing.assert_close(logits, tensors["output.logits"], rtol=0, atol=1e-5 * tensors["output.logits"].abs().max().item())
    assert loaded.coverage.tensors == len(state)
    assert loaded.coverage.elements == sum(tensor.numel() for tensor in state.values())


def test_shapes_tell_the_arguments(golden):
    arguments, state, _ = golden
    told = vim_arguments(state)
    assert {name: told[name] for name in told.keys() & arguments.keys()} == {
        name: arguments[name] for name in told.keys() & arguments.keys()
    }
    assert told["use_double_cls_token"] is False
    assert told["init_layer_scale"] is None
    assert told["ssm_cfg"] == {"d_conv": 4, "expand": 2, "dt_rank": 1, "conv_bias": True, "bias": False}


def test_two_class_tokens_and_layer_scales(golden):
    _, state, _ = golden
    state = dict(state)
    state["cls_token_head"], state["cls_token_tail"] = state.pop("cls_token"), torch.randn(1, 1, 16)
    state["pos_embed"] = torch.randn(1, 18, 16)
    state |= {f"layers.{i}.mixer.gamma": torch.randn(16) for i in range(3)}
    loaded = load_vim(state, img_size=16)
    backbone = loaded.backbone
    assert loaded.coverage.tensors == len(state) - 1  # the two class tokens are one tensor
    assert torch.equal(backbone.class_tokens[1:], state["cls_token_tail"][0])
    assert torch.equal(backbone.blocks[2].scale1, state["layers.2.mixer.gamma"])


def test_layout_round_trip_without_class_token_or_positions():
    model = build_vim(
        {
            "img_size": [8, 4],
            "patch_size": 4,
            "stride": 4,
            "depth": 2,
            "embed_dim": 8,
            "if_cls_token": False,
            "if_abs_pos_embed": False,
            "rms_norm": False,
            "bimamba_type": "none",
            "if_bidirectional": True,
            "fused_add_norm": True,
            "num_classes": 0,
        }
    )
    assert isinstance(model, Vim)
    assert isinstance(model.blocks[0].mixer, Mamba)
    assert (model.class_at, model.size, model.paired) == ("none", None, True)
    published = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("embed.conv", "patch_embed.proj").replace("norm1", "norm").replace("blocks.", "layers.")
        published["norm_f." + name.removeprefix("norm.") if name.startswith("norm.") else name] = tensor
    ours, head = vim_state(published)
    assert not head
    load_into(model, ours)


def test_missing_and_unexpected_weights_are_told(golden):
    _, state, _ = golden
    with pytest.raises(ValueError, match="1 unexpected"):
        load_vim({**state, "rope.freqs_cos": torch.ones(1)}, img_size=16)
    with pytest.raises(ValueError, match=r"1 missing \(position\)|of another shape"):
        load_vim({**state, "pos_embed": torch.ones(1, 5, 16)}, img_size=16)
    with pytest.raises(ValueError, match="the state dict has no norm_f.weight"):
        load_vim({name: t for name, t in state.items() if name != "norm_f.weight"}, img_size=16)
    with pytest.raises(ValueError, match=r"1 missing \(bias\)|the head has no weight"):
        load_vim({name: t for name, t in state.items() if name != "head.weight"}, img_size=16)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"if_rope": True}, "if_rope is True, allowed here is False"),
        ({"flip_img_sequences_ratio": 0.5}, "flip_img_sequences_ratio is 0.5, allowed here is -1.0 or 0.0"),
        ({"norm_epsilon": 1e-6}, "norm_epsilon is 1e-06, allowed here is 1e-05"),
        ({"if_bidirectional": True, "depth": 3}, "depth is 3, paired blocks need an even one"),
        ({"heads": 3}, "VisionMamba: unknown argument heads"),
    ],
)
def test_arguments_that_are_not_built_are_told(arguments, told):
    with pytest.raises(ValueError, match=told):
        build_vim({"embed_dim": 8, "depth": 2, **arguments})
