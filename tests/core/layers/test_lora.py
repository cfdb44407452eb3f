import json

import pytest
import torch
from torch import Tensor, nn

from geovit.core.layers.attention import WindowAttention
from geovit.core.layers.linear import Linear
from geovit.core.layers.lora import (
    FusedGatedLinear,
    GatedLoRALinear,
    LoRALinear,
    add_lora,
    fuse_lora,
    load_lora,
    lora_state_dict,
    merge_lora,
)
from geovit.core.layers.mlp import MLP
from geovit.core.weights import load_into, load_state, rename, save_module


def trained(module: nn.Module) -> nn.Module:
    """Give all trainable parameters values as after training: at their initial zeros, most mistakes would not show."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    return module


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(12)
        self.attention = WindowAttention(12, heads=2, window=(4, 4))
        self.mlp = MLP(12, 24)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        return self.head(x + self.mlp(x))


X = torch.randn(2, 5, 6, 12, generator=torch.Generator().manual_seed(1))
VARIANTS = {
    "low_rank": lambda base: LoRALinear(base, rank=4, alpha=8),
    "gated": lambda base: GatedLoRALinear(base, rank=4, alpha=8),
    "gate only": lambda base: GatedLoRALinear(base, rank=4, residual=False),
    "residual only": lambda base: GatedLoRALinear(base, rank=4, gate=False),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("bias", [True, False])
def test_fresh_adapter_changes_nothing(variant, bias):
    base = nn.Linear(12, 20, bias=bias)
    torch.testing.assert_close(VARIANTS[variant](base)(X), base(X), rtol=0, atol=0)


@pytest.mark.parametrize("variant", ["low_rank", "residual only"])
@pytest.mark.parametrize("bias", [True, False])
def test_merged_layer_is_plain_and_computes_the_same(variant, bias):
    layer = trained(VARIANTS[variant](nn.Linear(12, 20, bias=bias)))
    merged = layer.merge()
    assert type(merged) is Linear
    torch.testing.assert_close(merged(X), layer(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("bias", [True, False])
def test_fused_layer_computes_the_same(variant, bias):
    layer = trained(VARIANTS[variant](nn.Linear(12, 20, bias=bias)))
    torch.testing.assert_close(layer.fuse()(X), layer(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_the_adapter_trains(variant):
    layer = VARIANTS[variant](nn.Linear(12, 20))
    layer(X).square().sum().backward()
    assert {name for name, p in layer.named_parameters() if p.grad is not None} == set(layer.adapters())


def test_gated_layer_refuses_to_merge_and_says_why():
    with pytest.raises(ValueError, match=r"sigmoid\(G x\)"):
        GatedLoRALinear(nn.Linear(4, 4), rank=2).merge()


def test_residual_is_folded_once():
    layer = trained(GatedLoRALinear(nn.Linear(12, 20), rank=4))
    expected = layer(X)
    for _ in range(2):
        layer.fold_residual()
        torch.testing.assert_close(layer(X), expected, rtol=1e-5, atol=1e-5)
    assert "residual" not in layer.state_dict()
    torch.testing.assert_close(layer.fuse()(X), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 25])
def test_impossible_rank_is_named(rank):
    with pytest.raises(ValueError, match=rf"1\.\.24, got {rank}"):
        LoRALinear(nn.Linear(24, 36), rank=rank)


def test_dropout_acts_on_the_update_alone():
    layer = trained(LoRALinear(nn.Linear(12, 20), rank=4, dropout=0.5))
    assert not torch.equal(layer(X), layer(X))
    nn.init.zeros_(layer.up)
    assert torch.equal(layer(X), layer.base(X))


def test_adding_freezes_all_but_adapters_and_what_is_kept():
    network = Network()
    assert add_lora(network, rank=2, targets=("qkv", "fc1"), keep=("norm.*", "head.*")) == 2
    assert {name for name, p in network.named_parameters() if p.requires_grad} == {
        "norm.weight",
        "norm.bias",
        "attention.qkv.down",
        "attention.qkv.up",
        "mlp.fc1.down",
        "mlp.fc1.up",
        "head.weight",
        "head.bias",
    }


def test_kept_parameters_that_were_frozen_stay_frozen():
    network = Network()
    network.norm.requires_grad_(False)
    add_lora(network, rank=2, keep=("*",))
    assert not network.norm.weight.requires_grad
    assert not network.mlp.fc1.base.weight.requires_grad
    assert network.head.weight.requires_grad


def test_no_matching_layer_is_an_error_that_lists_the_layers():
    with pytest.raises(ValueError, match=r"named query or key; .* named: fc1, fc2, head, proj, qkv"):
        add_lora(Network(), rank=2, targets=("query", "key"))
    network = Network()
    add_lora(network, rank=2)
    with pytest.raises(ValueError, match="no linear layer is named"):
        add_lora(network, rank=2)


def test_merged_network_is_plain_again():
    network = Network().eval()
    keys = set(network.state_dict())
    assert add_lora(network, rank=2, alpha=4) == 4
    expected = trained(network)(X)
    assert merge_lora(network) == 4
    assert set(network.state_dict()) == keys
    torch.testing.assert_close(network(X), expected, rtol=1e-5, atol=1e-5)


def test_gated_network_fuses_but_is_left_whole_where_it_cannot_merge():
    network = Network().eval()
    add_lora(network, rank=2, variant="gated")
    expected = trained(network)(X)
    with pytest.raises(ValueError, match="cannot be merged"):
        merge_lora(network)
    torch.testing.assert_close(network(X), expected, rtol=0, atol=0)
    assert fuse_lora(network) == 4
    assert isinstance(network.mlp.fc1, FusedGatedLinear)
    torch.testing.assert_close(network(X), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", ["low_rank", "gated"])
@pytest.mark.parametrize("adapted_before", [False, True])
def test_adapters_travel_in_a_small_file(tmp_path, variant, adapted_before):
    torch.manual_seed(0)
    network = Network().eval()
    plain = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    add_lora(network, rank=2, alpha=6, variant=variant)
    expected = trained(network)(X)
    save_module(tmp_path / "adapters.safetensors", lora_state_dict(network), {})

    other = Network().eval()
    load_into(other, plain)
    if adapted_before:
        add_lora(other, rank=2, alpha=1, variant=variant)
    state, _ = load_state(tmp_path / "adapters.safetensors")
    assert load_lora(other, state) == 4
    torch.testing.assert_close(other(X), expected, rtol=0, atol=0)
    assert not any(key.endswith(("base.weight", "base.bias")) for key in state)


def adapters() -> dict[str, Tensor]:
    network = Network()
    add_lora(network, rank=2)
    return lora_state_dict(network)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {}, "holds 0 adapters"),
        (lambda s: s | {"other.down": s["mlp.fc1.down"]}, "tensors of other are down: not an adapter's"),
        (lambda s: {k.replace("fc1", "fc9"): v for k, v in s.items()}, "mlp.fc9, which is absent"),
        (lambda s: {k.replace("mlp.fc1", "norm"): v for k, v in s.items()}, "norm, which is no linear layer"),
        (lambda s: s | {"mlp.fc1.up": torch.zeros(5, 2)}, r"mlp.fc1 has .* up \[5, 2\]; the network's has .* up \[24, 2\]"),
    ],
)
def test_adapters_that_do_not_fit_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        load_lora(Network(), change(adapters()))


def test_loading_fewer_adapters_than_the_network_has_is_an_error():
    network = Network()
    add_lora(network, rank=2)
    state = {key: tensor for key, tensor in adapters().items() if not key.startswith("mlp")}
    with pytest.raises(ValueError, match=r"none for: mlp\.fc1, mlp\.fc2"):
        load_lora(network, state)


@pytest.mark.parametrize(("case", "optional"), [("sub_lora_linear", True), ("sub_lora_linear_plain", False)])
def test_agrees_with_the_official_lola_layer(golden_dir, case, optional):
    tensors, metadata = load_state(golden_dir / "lola_specvit" / f"{case}.safetensors")
    arguments = json.loads(metadata["golden"])["constructor"]
    base = nn.Linear(arguments["in_features"], arguments["out_features"])
    layer = GatedLoRALinear(base, rank=arguments["r"], alpha=arguments["lora_alpha"], gate=optional, residual=optional)
    names = [(r"^linear\.", "base."), (r"^lora_(\w+)\.weight$", r"\1")]
    part = {p: {k.removeprefix(p): t for k, t in tensors.items() if k.startswith(p)} for p in ("state.", "grad.")}
    load_into(layer, rename(part["state."], names))
    y = layer(tensors["input.x"])
    torch.testing.assert_close(y, tensors["output.y"], rtol=0, atol=1e-5 * y.abs().max().item())
    y.square().mean().backward()
    for name, expected in rename(part["grad."], names).items():
        torch.testing.assert_close(layer.get_parameter(name).grad, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_unknown_variant_is_named():
    with pytest.raises(ValueError, match="variant is 'gate', expected one of low_rank, gated"):
        add_lora(MLP(4, 8), rank=2, variant="gate")
