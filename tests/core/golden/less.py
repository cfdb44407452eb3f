"""LESS attention and blocks of uiuctml/LESSViT, and of its predecessor uiuctml/GeospatialFM."""

from functools import partial

from torch import nn
from torch.func import functional_call

from geovit.core.blocks.metaformer import mlp_block
from geovit.core.layers.less import GridAttention, GridContext, LessAttention
from geovit.core.layers.rotary import Rotation
from geovit.core.ops.less_attention import less_attention
from geovit.core.weights.less import less_attention_state, less_block_state


def norm_of(case):
    # The official models give 1e-6 to all norms, and so does every case so far, whether it says so or not.
    return partial(nn.LayerNorm, eps=1e-5 if "1e-5" in case.constructor.get("norm_layer", "") else 1e-6)


def attention(case, kind=None, *, old=False):
    """The module of official arguments."""
    args = case.arguments
    shared = {
        "heads": args.get("num_heads", 8),
        "qkv_bias": args.get("qkv_bias", False),
        "qk_norm": args.get("qk_norm", False),
        "norm": norm_of(case),
    }
    kind = kind or {"Full": "full", "Addi": "additive"}.get(case.constructor.get("cls", "")[:4], "less")
    if kind == "full":
        return GridAttention(args["dim"], **shared)
    return LessAttention(
        args["dim"],
        band_dim=args["channel_dim"],
        place_dim=args["spatial_dim"],
        ranks=args.get("rank", 1),
        combine="sum" if kind == "additive" else "product",
        pool="class" if args.get("skip_pool") else "attention",
        shared_values=old,
        **shared,
    )


def context(case):
    made = case.input
    turns = [Rotation(made[f"sin_{axis}"], made[f"cos_{axis}"]) if f"sin_{axis}" in made else None for axis in ("hw", "c")]
    return GridContext(*turns, near=made.get("spatial_mask"))


def whole_attention(case):
    module = attention(case).to(case.input["x"].dtype)
    state = less_attention_state(case.state)
    assert module.state_dict().keys() == state.keys()
    return {"x": functional_call(module, state, (case.input["x"], context(case)))}


def old_attention(case):
    """The layer behind the pools alone: two projections and the op."""
    module = attention(case, old=True).to(case.input["x_c"].dtype)
    state = less_attention_state(case.state)
    at = context(case)

    def part(name, x, turn):
        own = {key.removeprefix(f"{name}."): tensor for key, tensor in state.items() if key.startswith(f"{name}.")}
        assert own.keys() == getattr(module, name).state_dict().keys()
        return functional_call(getattr(module, name), own, (x, turn))

    bands, places = part("band", case.input["x_c"], at.bands), part("place", case.input["x_s"], at.places)
    weight, bias = state["proj.weight"], state["proj.bias"]
    return {"x": less_attention(*bands, *places, place_mask=at.near, weight=weight, bias=bias, mean=False)}


def block(case, *, old):
    args = case.arguments
    mixer = attention(case, args.get("attn_type"), old=old)
    module = mlp_block(
        args["dim"],
        mixer,
        mlp_ratio=args.get("mlp_ratio", 4.0),
        norm=norm_of(case),
        layer_scale=args.get("init_values") or None,
    ).to(case.input["x"].dtype)
    state = less_block_state(case.state)
    assert module.state_dict().keys() == state.keys()
    at = context(case)
    at = at if args.get("use_rope_embed") else GridContext(near=at.near)
    return {"x": functional_call(module, state, (case.input["x"], at))}


ADAPTERS = {
    "less_attention": whole_attention,
    "less_block": lambda case: block(case, old=False),
    "less_old_attention": old_attention,
    "less_old_block": lambda case: block(case, old=True),
}
