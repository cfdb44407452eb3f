"""Window and grid attention of MaxViT in timm."""

from torch import Tensor
from torch.func import functional_call

from geovit.core.blocks.metaformer import mlp_block
from geovit.core.layers.attention import LocalAttention
from geovit.core.ops.local_attention import grid, windows
from geovit.core.weights import rename

BLOCK = [
    (r"^attn\.rel_pos\.relative_position_bias_table$", "mixer.bias_table"),
    (r"^attn\.", "mixer."),
    (r"^mlp\.", "channel_mixer."),
    (r"^ls(\d)\.gamma$", r"scale\1"),
]


def heads_first(qkv: Tensor, heads: int) -> Tensor:
    """Reorder the rows (head, 3, head_dim) of timm's projection to our (3, head, head_dim)."""
    return qkv.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)


def block(case) -> dict[str, Tensor]:
    args, x = case.arguments, case.input["x"]
    heads = args["dim"] // args.get("dim_head", 32)
    is_window = args.get("partition_type", "block") == "block"
    pattern = windows(tuple(args["window_size"])) if is_window else grid(tuple(args["grid_size"]))
    state = rename(case.state, BLOCK)
    for key in ("weight", "bias"):
        if args.get("head_first", True) and f"mixer.qkv.{key}" in state:
            state[f"mixer.qkv.{key}"] = heads_first(state[f"mixer.qkv.{key}"], heads)
    table = state.get("mixer.bias_table")
    if table is not None and table.ndim == 3:  # "bias_tf": (heads, rows, columns) by key - query
        state["mixer.bias_table"] = table.flip(1, 2).flatten(1).T
    attention = LocalAttention(
        args["dim"],
        heads=heads,
        pattern=pattern,
        qkv_bias=args.get("attn_bias", True),
        position_bias=None if table is None else "table",
    )
    layer = mlp_block(args["dim"], attention, mlp_ratio=args.get("expand_ratio", 4.0), layer_scale=args.get("init_values"))
    layer.norm1.eps = layer.norm2.eps = args.get("norm_eps", 1e-6)
    layer = layer.to(x.dtype)
    assert layer.state_dict().keys() == state.keys()
    return {"y": functional_call(layer, state, x)}


ADAPTERS = {"maxvit_partition_attention": block}
