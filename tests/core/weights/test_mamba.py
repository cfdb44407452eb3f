import pytest
import torch

from geovit.core.layers.mamba import BiMamba, Mamba
from geovit.core.weights.arguments import ratio, read_arguments
from geovit.core.weights.mamba import build_mamba, load_mamba, mamba_arguments, mamba_state

LAYERS = {
    "mamba": lambda: Mamba(16, state=3, kernel=3, rank=2, expand=1.5, conv_bias=False),
    "v1": lambda: BiMamba(16, tied=True, bias=True),
    "v2": lambda: BiMamba(16, state=4, average=True),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_layer_comes_back_from_its_shapes_and_weights(kind):
    torch.manual_seed(0)
    layer, x = LAYERS[kind](), torch.randn(2, 5, 16)
    loaded = load_mamba(layer.state_dict(), average=kind == "v2")
    assert type(loaded.backbone) is type(layer)
    assert loaded.head is None
    assert torch.equal(loaded.backbone(x), layer(x))
    assert loaded.coverage.tensors == len(layer.state_dict())


def test_published_arguments_are_understood():
    layer = build_mamba(
        {"d_model": 32, "d_state": 8, "d_conv": 2, "expand": 1, "dt_rank": "auto", "dt_min": 0.01, "layer_idx": 3}
    )
    assert isinstance(layer, Mamba)
    assert {k: mamba_arguments(layer.state_dict())[k] for k in ("d_model", "d_state", "d_conv", "expand", "dt_rank")} == {
        "d_model": 32,
        "d_state": 8,
        "d_conv": 2,
        "expand": 1,
        "dt_rank": 2,
    }
    assert build_mamba({"d_model": 8, "bimamba_type": "v1", "if_divide_out": True}).average is False  # as in the fork
    assert build_mamba({"d_model": 8, "bimamba_type": "v2", "if_divide_out": True}).average is True


@pytest.mark.parametrize("bias", [False, True])
def test_layer_scale_is_folded_into_the_projection(bias):
    torch.manual_seed(0)
    layer, x, gamma = BiMamba(16, bias=bias), torch.randn(2, 5, 16), torch.randn(16)
    loaded = load_mamba({**layer.state_dict(), "gamma": gamma}).backbone
    torch.testing.assert_close(loaded(x), gamma * layer(x))


def test_missing_and_unexpected_weights_are_told():
    state = Mamba(16).state_dict()
    with pytest.raises(ValueError, match="1 unexpected"):
        load_mamba({**state, "norm.weight": torch.ones(16)})
    with pytest.raises(ValueError, match="1 missing .D."):
        load_mamba({name: tensor for name, tensor in state.items() if name != "D"})
    with pytest.raises(ValueError, match="the state dict has no A_log"):
        load_mamba({name: tensor for name, tensor in state.items() if name != "A_log"})


def test_gradients_reach_the_published_names():
    state = {**BiMamba(8).state_dict(), "gamma": torch.ones(8)}
    state = {name: tensor.requires_grad_() for name, tensor in state.items()}
    ours = mamba_state(state)
    torch.func.functional_call(BiMamba(8), ours, torch.randn(1, 3, 8)).sum().backward()
    assert all(tensor.grad is not None for tensor in state.values())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"bimamba_type": "v3"}, "bimamba_type is 'v3', expected 'none', 'v1' or 'v2'"),
        ({"use_fast_path": False}, "use_fast_path is False, allowed here is True"),
        ({"d_inner": 3}, "unknown argument d_inner, known are d_model, d_state"),
    ],
)
def test_unknown_arguments_are_told(arguments, told):
    with pytest.raises(ValueError, match=told):
        build_mamba({"d_model": 8, **arguments})


def test_arguments_are_completed_and_checked():
    options = {"of": "X", "defaults": {"a": 1, "b": 2}, "only": {"c": (0,)}, "ignored": ("d",)}
    assert read_arguments({"b": 3, "c": 0, "d": 4}, **options) == {"a": 1, "b": 3}
    with pytest.raises(ValueError, match="X: c is 1, allowed here is 0"):
        read_arguments({"c": 1}, **options)
    with pytest.raises(ValueError, match="X: unknown argument e, known are a, b, c, d"):
        read_arguments({"e": 1}, **options)


def test_ratio_survives_rounding():
    assert all(int(ratio(inner, dim) * dim) == inner for dim in range(1, 100) for inner in range(1, 300))
