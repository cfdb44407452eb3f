"""DaViT of dingmyu/davit: both kinds of blocks and the whole model."""

from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from geovit.core.backbones.davit import davit, davit_block
from geovit.core.layers.attention import WindowAttention
from geovit.core.layers.channel_attention import ChannelAttention
from geovit.core.weights import rename

BLOCK = [
    (r"(^|\.)cpe\.0\.proj\.", r"\1position1.conv."),
    (r"(^|\.)cpe\.1\.proj\.", r"\1position2.conv."),
    (r"(^|\.)attn\.", r"\1mixer."),
    (r"(^|\.)mlp\.", r"\1channel_mixer."),
]


def block(case, spatial: bool) -> dict[str, Tensor]:
    args, x = case.arguments, case.input["x"]
    dim, heads, bias = args["dim"], args["num_heads"], args.get("qkv_bias", spatial)
    if spatial:
        window = (args.get("window_size", 7),) * 2
        mixer = WindowAttention(dim, heads=heads, window=window, qkv_bias=bias, position_bias=None, border="zeros")
    else:
        mixer = ChannelAttention(dim, heads=heads, qkv_bias=bias)
    ratio = args.get("mlp_ratio", 4.0) if args.get("ffn", True) else 0
    layer = davit_block(dim, mixer, mlp_ratio=ratio).to(x.dtype)
    state = rename(case.state, BLOCK)
    assert layer.state_dict().keys() == state.keys()
    return {"y": functional_call(layer, state, x.unflatten(1, tuple(case.constructor["size"]))).flatten(1, 2)}


def model(case) -> dict[str, Tensor]:
    args, x = case.arguments, case.input["x"]
    backbone = davit(
        args["in_chans"],
        dims=args["embed_dims"],
        depths=args["depths"],
        heads=args["num_heads"],
        window=args["window_size"],
        patch=args["patch_size"],
        overlap=args.get("overlapped_patch", False),
        mlp_ratio=args["mlp_ratio"] if args.get("ffn", True) else 0,
        qkv_bias=args["qkv_bias"],
        mixers=args.get("attention_types", ("spatial", "channel")),
    ).to(x.dtype)
    kinds = len(args.get("attention_types", ("spatial", "channel")))
    places = [(i, j, k) for i, depth in enumerate(args["depths"]) for j in range(depth) for k in range(kinds)]
    rules = [
        (r"^patch_embeds\.0\.proj\.", "stem.conv."),
        (r"^patch_embeds\.0\.", "stem."),
        *[(rf"^patch_embeds\.{i + 1}\.proj\.", f"downs.{i}.conv.") for i in range(len(args["depths"]) - 1)],
        *[(rf"^patch_embeds\.{i + 1}\.", f"downs.{i}.") for i in range(len(args["depths"]) - 1)],
        *[(rf"^main_blocks\.{i}\.{j}\.{k}\.", f"stages.{i}.{kinds * j + k}.") for i, j, k in places],
    ]
    state = rename(case.state, [*rules, *BLOCK])
    tail = {key: state.pop(key) for key in ("norms.weight", "norms.bias", "head.weight", "head.bias")}
    assert backbone.state_dict().keys() == state.keys()
    mean = functional_call(backbone, state, x).mean((1, 2))
    normed = F.layer_norm(mean, mean.shape[-1:], tail["norms.weight"], tail["norms.bias"])
    return {"y": F.linear(normed, tail["head.weight"], tail["head.bias"])}


ADAPTERS = {
    "davit_spatial_block": lambda case: block(case, spatial=True),
    "davit_channel_block": lambda case: block(case, spatial=False),
    "davit_model": model,
}
