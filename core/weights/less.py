"""The layouts of uiuctml/LESSViT and of its predecessor uiuctml/GeospatialFM: attention, blocks, encoder."""

from collections.abc import Mapping

from torch import Tensor

from .load import rename

# Both keep the pool in the block or the attention; the layer of the branches is below "attn." where there is a pool.
_ATTENTION: list[tuple[str, str | None]] = [
    (r"low_dim_pool\.channel_norm\.", "band_pool_norm."),
    (r"low_dim_pool\.spatial_norm\.", "place_pool_norm."),
    (r"low_dim_pool\.channel_linear\.", "band_in."),
    (r"low_dim_pool\.spatial_linear\.", "place_in."),
    (r"low_dim_pool\.channel_pool\.", "band_pool."),
    (r"low_dim_pool\.spatial_pool\.", "place_pool."),
    (r"(^|\.)channel_norm\.", r"\1band_norm."),
    (r"(^|\.)spatial_norm\.", r"\1place_norm."),
    (r"(attn\.)?channel_branch\.", "band."),
    (r"(attn\.)?spatial_branch\.", "place."),
    (r"(^|\.)P_c\.", r"\1band_out."),
    (r"(^|\.)P_s\.", r"\1place_out."),
]
_BLOCK: list[tuple[str, str | None]] = [
    (r"^attn\.attn\.", "attn."),
    (r"^attn\.", "mixer."),
    (r"^(low_dim_pool|channel_norm|spatial_norm|channel_branch|spatial_branch)\.", r"mixer.\1."),
    (r"^ls([12])\.gamma$", r"scale\1"),
    (r"^mlp\.", "channel_mixer."),
]
_TOKENS: list[tuple[str, str | None]] = [
    (r"^cls_token$", "class_token"),
    (r"^spatial_cls_token$", "band_token"),
    (r"^channel_cls_token$", "place_token"),
    (r"^(optical|radar)_patch_embed\.proj\.0\.", r"tokenizer.\1.fc1."),
    (r"^(optical|radar)_patch_embed\.proj\.2\.", r"tokenizer.\1.fc2."),
    (r"^pos_chan_embed\.periods_hw$", "rotation.place_periods"),
    (r"^pos_chan_embed\.periods_c$", "rotation.band_periods"),
]


def less_attention_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of an attention under the names of ``LessAttention`` or ``GridAttention``. Gradients pass."""
    return rename(state, [(r"^attn\.", ""), *_ATTENTION])


def less_block_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a block under the names of a ``MetaFormerBlock``. Gradients pass."""
    return rename(state, [*_BLOCK, *_ATTENTION])


def less_encoder_state(state: Mapping[str, Tensor], blocks: str = "blocks") -> dict[str, Tensor]:
    """Return the tensors of an encoder under the names of ``LessEncoder``. Gradients pass.

    Args:
        state: the tensors.
        blocks: what the list of blocks is called there; it is "blocks" here.
    """
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith(f"{blocks}."):
            _, index, rest = name.removeprefix(blocks).split(".", 2)
            ((own, _),) = less_block_state({rest: tensor}).items()
            ours[f"blocks.{index}.{own}"] = tensor
        else:
            ours[name] = tensor
    ours = rename(ours, _TOKENS)
    for name, tensor in ours.items():
        if name.endswith("_token"):
            ours[name] = tensor.flatten()
        elif name.startswith("tokenizer.") and name.endswith("weight"):
            ours[name] = tensor.flatten(1)
    return ours
