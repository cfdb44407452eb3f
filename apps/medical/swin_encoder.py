"""The encoder of Swin UNETR: four stages of shifted windows, with the names of MONAI's parameters.

Shapes: B batch, S two or three spatial axes, C channels.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ...core.layers.conv import CONVS
from ...core.layers.downsample import MergeOrder, merge_order, merged
from ...core.layers.drop import DropPath
from ...core.layers.linear import Linear, activated
from ...core.layers.norm import norm_residual
from ...core.layers.reuse import add
from ...core.ops.linear import linear
from ...core.ops.local_attention import FlatWindows, Pattern, Window, local_attention

MergingOrder = Literal["legacy", "fixed"]
NormFactory = Callable[[int], nn.Module]

# What MONAI's names mean in the core, on three axes; on two all of them are one order.
_ORDERS: dict[tuple[str, str], MergeOrder] = {
    ("merging", "legacy"): "monai_1_4",
    ("merging", "fixed"): "monai",
    ("mergingv2", "fixed"): "last_fastest",
}


class Attention(nn.Module):
    """Self-attention inside windows, (B, *S, C) to the same shape, as Swin UNETR has it.

    Source: Liu et al. 2021 (Swin), section 3.2; Hatamizadeh et al. 2022 (Swin UNETR), section 3.1. Of the two oddities of MONAI's
    ``WindowAttention`` each has an option: tokens that fill a size up to a multiple of the window are zero before the projection
    and are not masked (``zero_padding``); and in windows cut to a smaller grid biases are counted as ``FlatWindows`` tells
    (``clamped_bias``).

    Args:
        dim: channels.
        heads: attention heads, a divisor of ``dim``.
        window: tokens per window on each axis.
        shift: of the windows on each axis.
        qkv_bias: whether query, key and value have one.
        attention_dropout: probability to drop a weight, in training.
        dropout: probability to drop a number of the result, in training.
        zero_padding: whether windows at the end of the image see zero tokens; else they are smaller.
        clamped_bias: whether biases of cut windows are MONAI's; else those of the relative position.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        window: tuple[int, ...],
        shift: tuple[int, ...],
        qkv_bias: bool = True,
        attention_dropout: float = 0.0,
        dropout: float = 0.0,
        zero_padding: bool = True,
        clamped_bias: bool = True,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"SwinUNETR: a stage of {dim} channels cannot have {heads} heads, expected a divisor")
        self.dim, self.heads, self.window, self.shift = dim, heads, window, shift
        self.attention_dropout, self.zero_padding, self.clamped_bias = attention_dropout, zero_padding, clamped_bias
        self.relative_position_bias_table = nn.Parameter(torch.empty(math.prod(2 * w - 1 for w in window), heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv: nn.Module = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj: nn.Module = Linear(dim, dim)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[1:-1])
        pattern, table = self._rule(size)
        flat = isinstance(pattern[0], FlatWindows)
        qkv = torch.unflatten(self.qkv(x), -1, (3, self.heads, -1))
        q, k, v = (t.flatten(1, -3) if flat else t for t in qkv.unbind(-3))
        out = local_attention(
            q,
            k,
            v,
            pattern,
            bias_table=table,
            padding=self._padding(x),
            dropout=self.attention_dropout if self.training else 0.0,
        )
        projected: Tensor = self.proj_drop(self.proj(out.reshape(x.shape)))
        return projected

    def _rule(self, size: tuple[int, ...]) -> tuple[Pattern, Tensor]:
        """Return who attends to whom on a grid of this size, and the biases."""
        table = self.relative_position_bias_table
        axes = list(zip(size, self.window, self.shift, strict=True))
        # The first axis alone may be cut and the count of places stays that of whole windows.
        # A program that is exported with variable sizes does not know the grid's, and this rule serves every size.
        if self.clamped_bias and (_variable(size) or any(n < w for n, w, _ in axes[1:])):
            return (FlatWindows(size, self.window, self.shift),), table
        pattern = tuple(Window(min(n, w), s if n > w else 0) for n, w, s in axes)
        if all(n >= w for n, w, _ in axes):
            return pattern, table
        whole = table.view(*(2 * w - 1 for w in self.window), self.heads)
        for axis, (n, w, _) in enumerate(axes):
            whole = whole.narrow(axis, max(w - n, 0), 2 * min(n, w) - 1)
        return pattern, whole.flatten(0, -2)

    def _padding(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Key and value of a zero token, if there are any on a grid of this size."""
        if not self.zero_padding:
            return None
        sides = zip(x.shape[1:-1], self.window, strict=True)
        if not _variable(x.shape[1:-1]) and all(n % min(n, w) == 0 for n, w in sides):
            return None
        _, k, v = torch.unflatten(self.qkv(x.new_zeros(1, self.dim)), -1, (3, self.heads, -1))[0].unbind(0)
        return k, v

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Compare the index with ours: it follows from the window, and another one means another network."""
        name = f"{prefix}relative_position_index"
        given, errors = state_dict.get(name), args[-1]
        ours = self.get_buffer("relative_position_index")
        if (
            given is not None
            and given.shape == ours.shape
            and ours.device.type != "meta"
            and not torch.equal(given.to(ours), ours)
        ):
            errors.append(f"{name} is not that of windows of {self.window} tokens")
        super()._load_from_state_dict(state_dict, prefix, *args)


def _variable(size: Sequence[int]) -> bool:
    """Whether a size is not known, as in a program that is exported for any."""
    return any(not isinstance(n, int) for n in size)


def relative_position_index(window: tuple[int, ...]) -> Tensor:
    """Return the row of the bias table for each pair of tokens of a window, (prod(window),) twice."""
    place_NA = torch.cartesian_prod(*(torch.arange(w) for w in window)).reshape(-1, len(window))
    apart_NNA = place_NA[:, None] - place_NA + torch.tensor(window) - 1
    strides = [math.prod(2 * w - 1 for w in window[axis + 1 :]) for axis in range(len(window))]
    return (apart_NNA * torch.tensor(strides)).sum(-1)


class MLPBlock(nn.Module):
    """Two linear layers with a GELU between, (..., C) to the same shape."""

    def __init__(self, dim: int, hidden: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear1: nn.Module = Linear(dim, hidden)
        self.linear2: nn.Module = Linear(hidden, dim)
        self.drop1 = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.drop1(self.linear2(self.drop1(activated(self.linear1, x, "gelu"))))
        return y


class SwinBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), on (B, *S, C)."""

    def __init__(
        self, dim: int, attention: Attention, *, hidden: int, dropout: float, drop_path: float, norm: NormFactory
    ) -> None:
        super().__init__()
        self.norm1, self.attn, self.drop_path = norm(dim), attention, DropPath(drop_path)
        self.norm2, self.mlp = norm(dim), MLPBlock(dim, hidden, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        x, y = norm_residual(self.norm2, x, self.drop_path(self.attn(self.norm1(x))))
        return add(x, self.drop_path(self.mlp(y)))


class Merging(nn.Module):
    """Join each 2 x 2 (x 2) tokens and project them: (B, *S, C) to (B, *ceil(S / 2), 2 C).

    Source: Liu et al. 2021 (Swin), section 3.1. Odd sizes are filled up with zeros at the end.

    Args:
        dim: C.
        axes: spatial axes.
        kind: MONAI's "merging" or "mergingv2", which differ in the order of the tokens on three axes.
        order: of "merging": that of MONAI up to 1.4, "legacy", or since 1.5, "fixed".
        norm: makes the norm.
    """

    def __init__(
        self, dim: int, *, axes: int, kind: Literal["merging", "mergingv2"], order: MergingOrder, norm: NormFactory
    ) -> None:
        super().__init__()
        self.axes, self.kind = axes, kind
        self.set_order(order)
        self.reduction: nn.Module = Linear(dim * 2**axes, 2 * dim, bias=False)
        self.norm = norm(dim * 2**axes)

    def set_order(self, order: MergingOrder) -> None:
        """Take the tokens in another order from now on."""
        if (self.kind, order) not in _ORDERS:
            raise ValueError(
                f"SwinUNETR: downsample is {self.kind!r} and merging_order {order!r}, but that order is of 'merging'"
            )
        core: MergeOrder = _ORDERS[self.kind, order]
        self.order, self.offsets = order, merge_order(core if self.axes == 3 else "first_fastest", self.axes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.reduction(self.norm(merged(x, self.offsets)))
        return y


class Stage(nn.Module):
    """Blocks of which every second one shifts its windows, and what halves the grid: (B, *S, C) to (B, *ceil(S / 2), 2 C)."""

    def __init__(self, blocks: Sequence[SwinBlock], downsample: nn.Module, *, use_checkpoint: bool) -> None:
        super().__init__()
        self.blocks, self.downsample, self.use_checkpoint = nn.ModuleList(blocks), downsample, use_checkpoint

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            again = self.use_checkpoint and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if again else block(x)
        y: Tensor = self.downsample(x)
        return y


class PatchEmbedding(nn.Module):
    """A linear map of patches that lie side by side: image (B, C, *S) to tokens (B, *S / patch, dim)."""

    def __init__(self, channels: int, dim: int, *, patch: int, axes: int, norm: NormFactory | None) -> None:
        super().__init__()
        self.patch = patch
        self.proj = CONVS[axes](channels, dim, patch, stride=patch)
        self.norm = None if norm is None else norm(dim)

    def forward(self, image: Tensor) -> Tensor:
        axes = image.ndim - 2
        split = image.reshape(*image.shape[:2], *(m for n in image.shape[2:] for m in (n // self.patch, self.patch)))
        # From B, C, then grid and place in the patch of each axis, to B, grid, then C and places as in the kernel.
        inner = [1, *range(3, 3 + 2 * axes, 2)]
        rows = split.permute(0, *range(2, 2 + 2 * axes, 2), *inner).flatten(-len(inner))
        x = linear(rows, self.proj.weight.flatten(1), self.proj.bias)
        return x if self.norm is None else self.norm(x)


class SwinViT(nn.Module):
    """From an image to features of five grids, each half as fine as the one before.

    Source: Hatamizadeh et al. 2022 (Swin UNETR), section 3.1; with a residual block of convolutions before each stage: He et al.
    2023 (SwinUNETR-V2), section 2.

    Args:
        patch_embed: from the image to the first tokens.
        stages: four, of which each halves the grid.
        before: blocks in front of the stages (version 2), or none.
        dropout: probability to drop a number of the first tokens, in training.
    """

    def __init__(
        self, patch_embed: PatchEmbedding, stages: Sequence[Stage], *, before: Sequence[nn.Module] = (), dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.patch_embed, self.pos_drop, self.use_v2 = patch_embed, nn.Dropout(dropout), bool(before)
        for number, stage in enumerate(stages, start=1):
            self.add_module(f"layers{number}", nn.ModuleList([stage]))
        for number, block in enumerate(before, start=1):
            self.add_module(f"layers{number}c", nn.ModuleList([block]))

    def forward(self, image: Tensor, normalize: bool = True) -> list[Tensor]:
        """Return MONAI's hidden states, (B, C, *S) each: normed over channels, without parameters, if ``normalize``."""
        return [x.movedim(-1, 1) for x in self.features(image, normalize)]

    def features(self, image: Tensor, normalize: bool) -> list[Tensor]:
        """Return the same channels-last."""
        x = self.pos_drop(self.patch_embed(image))
        found = [_normed(x, normalize)]
        for stage in range(1, 5):
            if self.use_v2:
                x = self.get_submodule(f"layers{stage}c.0")(x)
            x = self.get_submodule(f"layers{stage}.0")(x)
            found.append(_normed(x, normalize))
        return found


def _normed(x: Tensor, normalize: bool) -> Tensor:
    return F.layer_norm(x, x.shape[-1:]) if normalize else x
