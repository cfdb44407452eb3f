"""CSWin of microsoft/CSWin-Transformer: block and whole model."""

from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from geovit.core.backbones.cswin import cswin
from geovit.core.blocks.metaformer import mlp_block
from geovit.core.layers.stripe import StripeAttention
from geovit.core.weights import rename

BLOCK = [
    (r"(^|\.)attns\.(\d)\.get_v\.", r"\1mixer.positions.\2."),
    (r"(^|\.)(qkv|proj)\.", r"\1mixer.\2."),
    (r"(^|\.)mlp\.", r"\1channel_mixer."),
]


def split_of(split: int, size: int, last: bool) -> int | None:
    return None if last or split == size else split


def block(case) -> dict[str, Tensor]:
    args, x = case.arguments, case.input["x"]
    split = split_of(args.get("split_size", 7), args["reso"], args.get("last_stage", False))
    attention = StripeAttention(args["dim"], heads=args["num_heads"], split=split, qkv_bias=args.get("qkv_bias", False))
    layer = mlp_block(args["dim"], attention, mlp_ratio=args.get("mlp_ratio", 4.0)).to(x.dtype)
    state = rename(case.state, BLOCK)
    assert layer.state_dict().keys() == state.keys()
    return {"y": functional_call(layer, state, x.unflatten(1, (args["reso"],) * 2)).flatten(1, 2)}


def model(case) -> dict[str, Tensor]:
    args, x = case.arguments, case.input["x"]
    assert args.get("patch_size", 4) == 4
    sides = [args["img_size"] // 4 // 2**stage for stage in range(4)]
    splits = [args["split_size"][i] for i in (0, 1, 2, -1)]
    backbone = cswin(
        args["in_chans"],
        dim=args["embed_dim"],
        depths=args["depth"],
        heads=args["num_heads"],
        split=[split_of(split, side, stage == 3) for stage, (split, side) in enumerate(zip(splits, sides, strict=True))],
        mlp_ratio=args.get("mlp_ratio", 4.0),
        qkv_bias=args.get("qkv_bias", True),
    ).to(x.dtype)
    rules = [
        (r"^stage1_conv_embed\.0\.", "stem.conv."),
        (r"^stage1_conv_embed\.2\.", "stem.norm."),
        *[(rf"^stage{i + 1}\.", f"stages.{i}.") for i in range(4)],
        *[(rf"^merge{i + 1}\.", f"downs.{i}.") for i in range(3)],
    ]
    state = rename(case.state, [*rules, *BLOCK])
    head = {key: state.pop(f"head.{key}") for key in ("weight", "bias")}
    assert backbone.state_dict().keys() == state.keys()
    return {"y": F.linear(functional_call(backbone, state, x).mean((1, 2)), head["weight"], head["bias"])}


ADAPTERS = {"cswin_block": block, "cswin_model": model}
