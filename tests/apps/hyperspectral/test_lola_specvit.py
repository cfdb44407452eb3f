import dataclasses
import json

import pytest
import torch
from torch import nn

from geovit.apps.hyperspectral.lola_specvit import (
    ADAPTED,
    PUBLISHED_NAMES,
    LolaSpecViT,
    LolaSpecViTConfig,
    load_published,
    lola_block,
)
from geovit.core.layers.attention import WindowAttention
from geovit.core.layers.lora import GatedLoRALinear, LoRALinear, add_lora
from geovit.core.weights import load_state, rename

SMALL = LolaSpecViTConfig(
    bands=9, classes=5, patch=14, dim=16, depths=(2, 1), heads=(2, 4), mlp_ratio=2.0, rank=4, alpha=8, train="all"
)


@pytest.fixture
def trained() -> LolaSpecViT:
    torch.manual_seed(0)
    model = LolaSpecViT(SMALL).eval()
    for name, parameter in model.named_parameters():  # as after training: the zeros at the start would hide mistakes
        nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.1)
    return model


def check_golden(model: nn.Module, path, atol_of_largest: float = 2e-5) -> None:
    """Compare in float64: the official gradients are float32, themselves uncertain by about 1.3e-5 of the largest."""
    tensors, _ = load_state(path)
    part = {p: {k.removeprefix(p): t for k, t in tensors.items() if k.startswith(p)} for p in ("state.", "grad.")}
    load_published(model, part["state."])
    model.eval()
    y = model(tensors["input.x"])
    torch.testing.assert_close(y, tensors["output.y"], rtol=0, atol=1e-5 * y.abs().max().item())
    model.double()(tensors["input.x"].double()).square().mean().backward()
    gradients = rename(part["grad."], PUBLISHED_NAMES)
    assert len(gradients) == 6
    for name, expected in gradients.items():
        tolerance = atol_of_largest * expected.abs().max().item()
        torch.testing.assert_close(model.get_parameter(name).grad.float(), expected, rtol=0, atol=tolerance)


def test_agrees_with_the_official_model(golden_dir):
    check_golden(LolaSpecViT(SMALL), golden_dir / "lola_specvit" / "a.safetensors")


def test_agrees_with_the_official_block(golden_dir):
    path = golden_dir / "lola_specvit" / "sub_block.safetensors"
    arguments = json.loads(load_state(path)[1]["golden"])["constructor"]
    block = lola_block(
        arguments["dim"], arguments["num_heads"], window=arguments["window_size"], mlp_ratio=arguments["mlp_ratio"]
    )
    add_lora(block, rank=arguments["r"], alpha=arguments["lora_alpha"], targets=ADAPTED, variant="gated", keep=("*",))
    check_golden(block, path, atol_of_largest=1e-5)


def test_a_state_dict_with_a_tensor_too_few_is_refused(golden_dir):
    tensors, _ = load_state(golden_dir / "lola_specvit" / "a.safetensors")
    state = {k.removeprefix("state."): t for k, t in tensors.items() if k.startswith("state.")}
    del state["pos_embed"]
    with pytest.raises(ValueError, match=r"1 missing \(pos_embed\)"):
        load_published(LolaSpecViT(SMALL), state)


def test_the_published_size_to_the_parameter():
    published = LolaSpecViTConfig(classes=9)  # WHU-Hi LongKou
    counts = {}
    for adapters in ("published", "low_rank"):
        with torch.device("meta"):
            model = LolaSpecViT(dataclasses.replace(published, adapters=adapters))
        parameters = list(model.parameters())
        counts[adapters] = sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)
    assert counts == {"published": (254_639_541, 73_586_832), "low_rank": (183_197_109, 2_144_400)}


def test_the_fast_path_equals_the_plain_one(trained):
    x = torch.randn(3, 9, 14, 14)
    assert trained.levels[1][0].mixer.window == (7, 7)  # on 4 x 4 tokens: 33 of 49 keys are padding
    fast = trained(x)
    for module in trained.modules():
        if isinstance(module, WindowAttention):
            module.backend = "reference"  # attends to every padding token on its own
    plain = trained(x)
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-4 * plain.abs().max().item())
    trained.fuse()
    assert not any(isinstance(module, LoRALinear) for module in trained.modules())
    torch.testing.assert_close(trained(x), plain, rtol=0, atol=1e-4 * plain.abs().max().item())


def test_adapters_start_without_effect():
    model = LolaSpecViT(SMALL)
    layers = [m for m in model.modules() if isinstance(m, GatedLoRALinear)]
    assert len(layers) == 3 * 4 + 1
    assert not any(t.any() for layer in layers for t in (layer.up, layer.residual) if t is not None)


def test_published_training_leaves_all_but_the_adapters_alone():
    model = LolaSpecViT(dataclasses.replace(SMALL, train="adapters"))
    trainable = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"down", "up", "gate", "residual"}


def test_training_drops_bands_and_evaluation_does_not(trained):
    x = torch.randn(2, 9, 14, 14)
    assert torch.equal(trained(x), trained(x))
    trained.train()
    assert not torch.equal(trained(x), trained(x))


def test_a_patch_of_another_size_is_named(trained):
    with pytest.raises(ValueError, match=r"\(2, 9, 15, 15\), expected \(batch, 9, 14, 14\)"):
        trained(torch.zeros(2, 9, 15, 15))
