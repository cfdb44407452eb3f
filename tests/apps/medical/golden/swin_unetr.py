"""Swin UNETR of MONAI: merging of tokens in its three orders, blocks, and whole networks of both versions."""

import torch
from monai.networks import nets as networks
from torch import Tensor, nn
from torch.func import functional_call

from geovit.apps.medical.swin_encoder import Attention, Merging, SwinBlock
from geovit.apps.medical.swin_unetr import SwinUNETR
from geovit.apps.medical.weights import legacy_merging
from geovit.core.ops.local_attention import reference


def called(module: nn.Module, case, x: Tensor) -> Tensor:
    module = module.to(x.dtype).eval()
    assert {key: t.shape for key, t in module.state_dict().items()} == {key: t.shape for key, t in case.state.items()}
    return functional_call(module, case.state, x)


def merging(case) -> dict[str, Tensor]:
    args, kind = case.arguments, "mergingv2" if case.constructor["cls"] == "PatchMergingV2" else "merging"
    order = "legacy" if "before #8285" in case.constructor["cls"] else "fixed"
    layer = Merging(args["dim"], axes=args["spatial_dims"], kind=kind, order=order, norm=nn.LayerNorm)
    return {"y": called(layer, case, case.input["x"])}


def block(case) -> dict[str, Tensor]:
    args, window = case.arguments, tuple(case.arguments["window_size"])
    attention = Attention(
        args["dim"],
        heads=args["num_heads"],
        window=window,
        shift=tuple(args["shift_size"]),
        qkv_bias=args.get("qkv_bias", True),
    )
    hidden = int(args["dim"] * args["mlp_ratio"])
    layer = SwinBlock(args["dim"], attention, hidden=hidden, dropout=0.0, drop_path=0.0, norm=nn.LayerNorm)
    x = case.input["x"]
    return {"y": called(layer, case, x), "attn_mask": mask(attention, tuple(x.shape[1:-1]))}


def mask(attention: Attention, size: tuple[int, ...]) -> Tensor:
    """MONAI's mask (windows, tokens, tokens) of the rolled grid, by the rule that ours attend by: 0, or -100 for those apart."""
    padded = tuple(n + -n % w for n, w in zip(size, attention.window, strict=True))
    pattern, _ = attention._rule(padded)
    seen = torch.ones(1, 1, dtype=torch.bool)
    places = torch.zeros(1, 1, dtype=torch.long)
    for n, w, s, rule in zip(padded, attention.window, attention.shift, pattern, strict=True):
        x = torch.arange(n)
        pairs, _ = reference._pairs(rule, n, x[:, None], x)
        seen = (seen[:, None, :, None] & pairs[:, None]).flatten(2).flatten(0, 1)
        places = (places[:, None, :, None] * n + x.roll(-s).unflatten(0, (-1, w))[:, None]).flatten(2).flatten(0, 1)
    return torch.stack([seen[p][:, p] for p in places]).logical_not() * -100.0


def network(case) -> dict[str, Tensor]:
    legacy = "#8285" in case.arguments["downsample"]
    args = case.arguments | ({"downsample": "merging", "merging_order": "legacy"} if legacy else {})
    return outputs(SwinUNETR(**args), case)


def official(case) -> dict[str, Tensor]:
    legacy = "#8285" in case.arguments["downsample"]  # of which monai_patch_merging has golden tensors
    return outputs(networks.SwinUNETR(**case.arguments | ({"downsample": legacy_merging} if legacy else {})), case)


def outputs(model: nn.Module, case) -> dict[str, Tensor]:
    image = case.input["image"]
    model = model.to(image.dtype).eval()
    assert {key: t.shape for key, t in model.state_dict().items()} == {key: t.shape for key, t in case.state.items()}
    state = {key.removeprefix("swinViT."): t for key, t in case.state.items() if key.startswith("swinViT.")}
    hidden = functional_call(model.swinViT, state, image)
    logits = functional_call(model, case.state, image)
    return {"logits": logits} | {f"hidden_{i}": hidden[i] for i in range(1, 5)}


ADAPTERS = {"monai_patch_merging": merging, "monai_swin_block": block, "monai_swinunetr": network}

OFFICIAL = {"monai_swinunetr": official}
