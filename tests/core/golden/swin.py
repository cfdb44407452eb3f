"""Swin and Swin V2 of microsoft/Swin-Transformer: blocks and whole models."""

from torch import Tensor
from torch.func import functional_call

from geovit.core.blocks.metaformer import mlp_block
from geovit.core.layers.attention import WindowAttention
from geovit.core.layers.position import ContinuousBias
from geovit.core.weights.swin import load_swin, swin_state


def block(case, version: int) -> dict[str, Tensor]:
    args = case.arguments
    size, window, heads = tuple(args["input_resolution"]), args.get("window_size", 7), args["num_heads"]
    single = min(size) <= window
    side = (min(*size, window),) * 2
    pretrained = args.get("pretrained_window_size", 0)
    attention = WindowAttention(
        args["dim"],
        heads=heads,
        window=side,
        shift=(0 if single else args.get("shift_size", 0),) * 2,
        qkv_bias=args.get("qkv_bias", True),
        key_bias=version == 1,
        position_bias="table"
        if version == 1
        else ContinuousBias(side, heads, pretrained=(pretrained,) * 2 if pretrained else None),
        cosine=version == 2,
    )
    layer = mlp_block(
        args["dim"], attention, mlp_ratio=args.get("mlp_ratio", 4.0), norm_position="before" if version == 1 else "after"
    )
    # As the only block of a model.
    state = swin_state({f"layers.0.blocks.0.{key}": t for key, t in case.state.items()})
    state = {key.removeprefix("stages.0.0."): t for key, t in state.items()}
    x = case.input["x"]
    layer = layer.to(x.dtype)
    assert layer.state_dict().keys() == state.keys()
    return {"y": functional_call(layer, state, x.unflatten(1, size)).flatten(1, 2)}


def model(case) -> dict[str, Tensor]:
    loaded = load_swin(case.state, pretrained_window=case.arguments.get("pretrained_window_sizes"))
    image = case.input["image"]
    backbone = loaded.backbone.to(image.dtype).eval()
    state = swin_state(case.state)
    head = {key: state.pop(f"head.{key}") for key in ("weight", "bias")}
    features = functional_call(backbone, state, image).flatten(1, -2).mean(1)
    return {"features": features, "logits": functional_call(loaded.head, head, features)}


ADAPTERS = {
    "swin_v1_block": lambda case: block(case, 1),
    "swin_v2_block": lambda case: block(case, 2),
    "swin_v1_model": model,
    "swin_v2_model": model,
}
