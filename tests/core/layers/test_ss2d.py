import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from geovit.core.blocks.metaformer import MetaFormerBlock
from geovit.core.layers.mlp import MLP
from geovit.core.layers.ss2d import SS2D, SS3D, SelectiveScan
from geovit.core.ops.selective_scan import CROSS_2D, CROSS_3D, selective_scan

SIZES = {2: (5, 3), 3: (2, 3, 4)}
ROUTED = ("x_proj", "dt_proj", "dt_bias", "A_log", "D")


def make(axes: int = 2, **options) -> SelectiveScan:
    torch.manual_seed(0)
    layer = SelectiveScan(8, axes=axes, state=3, **options).double()
    nn.init.normal_(layer.A_log, std=0.5)  # as after training: routes and states that differ show what is mixed up
    nn.init.normal_(layer.dt_bias)
    nn.init.normal_(layer.D)
    return layer


def image(*size: int) -> torch.Tensor:
    return torch.randn(2, *size, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def permuted(layer: SelectiveScan, routes: dict[str, str], turn) -> SelectiveScan:
    """Give every route the parameters of another one, and turn the convolution."""
    other = make(layer.axes, routes=layer.routes)
    state = dict(layer.state_dict())
    for name in ROUTED:
        state[name] = torch.stack([state[name][layer.routes.index(routes[route])] for route in layer.routes])
    state["conv.weight"] = turn(state["conv.weight"])
    other.load_state_dict(state)
    return other


def reversed_route(route: str) -> str:
    return route.removesuffix("_reverse") if route.endswith("_reverse") else f"{route}_reverse"


def test_image_turned_by_half_walks_every_route_backwards():
    layer, x = make(), image(5, 3)
    other = permuted(layer, {route: reversed_route(route) for route in CROSS_2D}, lambda w: w.flip(2, 3))
    torch.testing.assert_close(other(x.flip(1, 2)).flip(1, 2), layer(x))


def test_transposed_image_exchanges_rows_and_columns():
    layer, x = make(), image(5, 3)
    exchanged = dict(zip(CROSS_2D, (CROSS_2D[1], CROSS_2D[0], CROSS_2D[3], CROSS_2D[2]), strict=True))
    other = permuted(layer, exchanged, lambda w: w.mT)
    torch.testing.assert_close(other(x.transpose(1, 2)).transpose(1, 2), layer(x))


def test_volume_with_rotated_axes_rotates_the_routes():
    layer, x = make(3), image(2, 3, 4)
    rotated = {"zyx": "yxz", "yxz": "xzy", "xzy": "zyx"}
    rotated |= {reversed_route(a): reversed_route(b) for a, b in rotated.items()}
    assert rotated.keys() == set(CROSS_3D)
    other = permuted(layer, rotated, lambda w: w.permute(0, 1, 3, 4, 2))
    torch.testing.assert_close(other(x.permute(0, 2, 3, 1, 4)).permute(0, 3, 1, 2, 4), layer(x))


def test_volume_of_one_slice_with_the_routes_of_an_image_is_that_image():
    flat, x = make(), image(5, 3)
    deep = make(3, routes=("zyx", "zxy", "zyx_reverse", "zxy_reverse"))
    state = dict(flat.state_dict())
    state["conv.weight"] = F.pad(state["conv.weight"][:, :, None], (0, 0, 0, 0, 1, 1))
    deep.load_state_dict(state)
    torch.testing.assert_close(deep(x[:, None])[:, 0], flat(x))


def test_one_route_is_the_scan_of_the_flattened_image():
    layer, x = make(routes=["raster"], refine=(), gate="none", kernel=1), image(4, 3)
    u = F.silu(layer.in_proj(x)).flatten(1, 2)
    dt, B, C = F.linear(u, layer.x_proj[0]).split([1, 3, 3], dim=-1)
    y = selective_scan(
        u, dt @ layer.dt_proj[0].T, -layer.A_log[0].exp(), B, C, D=layer.D[0], dt_bias=layer.dt_bias[0], softplus=True
    )
    torch.testing.assert_close(layer(x), layer.out_proj(y).view_as(x))


@pytest.mark.parametrize("axes", [2, 3])
def test_nothing_is_copied_for_the_routes(axes):
    """The only tensor of the size of all routes together is that of the step sizes, which differ between routes."""
    layer, x = make(axes, gate="none", rank=2).float(), image(*SIZES[axes]).float()
    threshold = len(layer.routes) * 2 * x.numel()  # what a copy of the inner channels for every route would have
    made = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            storages = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
            for tensor in out if isinstance(out, tuple | list) else [out]:
                large = isinstance(tensor, torch.Tensor) and tensor.numel() >= threshold
                if large and tensor.untyped_storage().data_ptr() not in storages:
                    made.append(str(func))
            return out

    def stop(*args, **options):
        given.extend(args)
        return torch.zeros_like(args[0])

    given: list[torch.Tensor] = []
    with pytest.MonkeyPatch.context() as patch, Watch():
        patch.setattr("geovit.core.layers.ss2d.selective_scan", stop)
        layer(x)
    length = x[0, ..., 0].numel()
    assert given[0].shape == (2, length, 16)
    assert given[1].shape == (2, length, len(layer.routes), 16)
    assert made == ["aten.bmm.default"]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 9)])
def test_any_size(size):
    layer = make()
    assert layer(image(*size)).shape == (2, *size, 8)
    assert layer(image(*size)).isfinite().all()


def test_what_is_kept_from_inference_serves_training():
    layer, x = make(), image(4, 7).requires_grad_()
    with torch.inference_mode():
        seen = layer(x)
    y = layer(x)
    assert torch.equal(y, seen)
    y.sum().backward()
    assert x.grad.any()


def test_options_of_the_gate():
    x = image(5, 3)
    for gate, width in (("activated", 32), ("linear", 32), ("none", 16)):
        assert make(gate=gate).in_proj.out_features == width
    linear, activated = make(gate="linear"), make(gate="activated")
    with torch.no_grad():
        for layer in (linear, activated):
            layer.in_proj.weight[16:] = 0  # silu(0) = 0: the gate is shut
            assert layer(x).abs().max() == 0


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("activation", ["none", "silu", "gelu", "relu", "sigmoid"])
def test_activation_follows_the_convolution_and_is_that_of_the_gate(activation, kernel, monkeypatch):
    scanned = []

    def skip_the_scan(u, *_args, **_options):
        scanned.append(u)
        return u

    monkeypatch.setattr("geovit.core.layers.ss2d.selective_scan", skip_the_scan)
    layer, x = make(activation=activation, kernel=kernel, refine=()), image(5, 3)
    function = (lambda t: t) if activation == "none" else getattr(torch if activation == "sigmoid" else F, activation)
    u, z = layer.in_proj(x).chunk(2, dim=-1)
    if kernel > 1:
        u = F.conv2d(u.movedim(-1, 1), layer.conv.weight, layer.conv.bias, padding=1, groups=16).movedim(1, -1)
    torch.testing.assert_close(layer(x), layer.out_proj(function(u) * function(z)))
    torch.testing.assert_close(scanned[0], function(u).flatten(1, 2))


def test_refinements_in_order():
    x = image(5, 3)
    plain = make(refine=(), gate="none", expand=1)
    with torch.no_grad():
        plain.out_proj.weight.copy_(torch.eye(8))
    scanned = plain(x)
    for refine, want in {
        ("softmax",): scanned.flatten(1, 2).softmax(1).view_as(scanned),
        ("sigmoid", "gelu"): F.gelu(scanned.sigmoid()),
        ("layer",): F.layer_norm(scanned, (8,)),
    }.items():
        layer = make(refine=refine, gate="none", expand=1)
        layer.load_state_dict(plain.state_dict(), strict=False)
        torch.testing.assert_close(layer(x), want)
    conv = make(refine=("layer", "conv"))
    assert conv.refine[1].weight.shape == (16, 1, 3, 3)
    assert conv.refine[1].bias is None


@pytest.mark.parametrize("axes", [2, 3])
def test_compiles_as_one_graph(axes):
    layer, x = make(axes).float(), image(*SIZES[axes]).float()
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))


@pytest.mark.parametrize("layer", [SS2D, SS3D])
def test_scan_stays_in_float32_under_autocast(layer, monkeypatch):
    rates = []

    def spy(u, dt, A, B, C, **options):
        rates.append(A.dtype)
        return selective_scan(u, dt, A, B, C, **options)

    monkeypatch.setattr("geovit.core.layers.ss2d.selective_scan", spy)
    torch.manual_seed(0)
    module = layer(8, state=3)
    x = image(*SIZES[module.axes]).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    assert rates == [torch.float32]  # with which the op computes in float32
    torch.testing.assert_close(y.float(), module(x), rtol=0, atol=0.02 * module(x).abs().max().item())


@pytest.mark.parametrize("axes", [2, 3])
def test_mixes_tokens_in_a_block_that_learns(axes):
    torch.manual_seed(0)
    block = MetaFormerBlock(8, SelectiveScan(8, axes=axes, state=2), channel_mixer=MLP(8, 16))
    x = image(*SIZES[axes]).float()
    target = x.roll(1, dims=1)  # needs the neighbour
    optimizer = torch.optim.Adam(block.parameters(), 0.01)
    losses = []
    for _ in range(40):
        loss = F.mse_loss(block(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad is not None for parameter in block.parameters())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"axes": 1}, "axes is 1, expected 2 or 3"),
        ({"activation": "tanh"}, "activation is 'tanh', expected one of none, silu, gelu, relu, sigmoid"),
        ({"gate": "open"}, "gate is 'open', expected 'activated', 'linear' or 'none'"),
        ({"refine": ("norm",)}, "refine has 'norm', allowed are layer, conv"),
        ({"routes": ("diagonal",)}, "route is 'diagonal'"),
        ({"routes": ()}, "routes is empty"),
        ({"kernel": 4}, r"kernel is \(4, 4\)"),
    ],
)
def test_impossible_options_are_told(options, told):
    with pytest.raises(ValueError, match=told):
        SelectiveScan(8, **options)


def test_input_with_other_axes_is_told():
    with pytest.raises(ValueError, match=r"shape \[2, 5, 8\], expected \(batch, 2 axes, channels\)"):
        make()(image(5))
