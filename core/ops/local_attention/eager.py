"""Local attention in plain PyTorch, in blocks of equal windows.

On each axis the grid has at most three kinds of windows: a partial one at the start (if shifted), whole ones, and a partial
one at the end. A product of such segments is a block of windows that all have one shape, so that no block needs a mask.

Shapes: B batch, W windows, N queries and M keys of a window, H heads, D head width.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_FUSED_WINDOWS = 1 << 15  # windows per fused call: GPU kernels put them on a grid axis of at most 65535
_SCORES = 1 << 18  # scores held at once in the backward pass: 1 MiB in float32, about a core's own cache


class Segment(NamedTuple):
    """Windows of one shape, side by side on one axis."""

    windows: int
    extent: int  # positions of each window that lie in the image
    padding: int  # positions of each window, after those, that lie in the padding


def segments(size: int, window: int, shift: int, padded: bool) -> list[Segment]:
    """Cut an axis of ``size`` positions at shift, shift + window, shift + 2 window, ..."""
    end = size + (-size % window if padded else 0)
    found = []
    if shift and size:
        extent = min(shift, size)
        found.append(Segment(1, extent, min(shift, end) - extent))
    whole = max(size - shift, 0) // window
    if whole:
        found.append(Segment(whole, window, 0))
    start = shift + whole * window
    if start < size:
        found.append(Segment(1, size - start, min(start + window, end) - size))
    return found


def local_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: tuple[int, ...],
    shift: tuple[int, ...],
    bias_table: Tensor | None,
    scale: float,
    padding: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """See ``geovit.core.ops.local_attention``."""
    if q.numel() == 0:
        return torch.empty_like(q)
    grid = [segments(n, w, s, padding is not None) for n, w, s in zip(q.shape[1:-2], window, shift, strict=True)]

    def assemble(qkv: Sequence[Tensor], block: tuple[Segment, ...]) -> Tensor:
        axis = len(block)
        if axis == len(grid):
            return _attend_block(qkv, block, window, bias_table, scale, padding)
        sizes = [segment.windows * segment.extent for segment in grid[axis]]
        parts = zip(*(torch.split(t, sizes, dim=1 + axis) for t in qkv), strict=True)
        done = [assemble(part, (*block, segment)) for part, segment in zip(parts, grid[axis], strict=True)]
        return torch.cat(done, dim=1 + axis) if len(done) > 1 else done[0]

    return assemble((q, k, v), ())


def _attend_block(
    qkv: Sequence[Tensor],
    block: tuple[Segment, ...],
    window: tuple[int, ...],
    bias_table: Tensor | None,
    scale: float,
    padding: tuple[Tensor, Tensor] | None,
) -> Tensor:
    batch, device, dtype = len(qkv[0]), qkv[0].device, qkv[0].dtype
    q_WHND, k_WHMD, v_WHMD = (_to_windows(t, block) for t in qkv)
    inside = _image_positions(block, device)
    bias_HNM = None if bias_table is None else _bias(bias_table, inside, inside, window)

    outside = None if padding is None else _padding_positions(block, device)
    if padding is not None and outside is not None:
        # All padding tokens have one key and one value, so their weights add up: one virtual key, whose bias is the
        # log of the sum of their exp(bias), stands for them all.
        k_WHMD, v_WHMD = (
            torch.cat([t, c.to(dtype)[None, :, None].expand(len(t), -1, -1, -1)], dim=2)
            for t, c in zip((k_WHMD, v_WHMD), padding, strict=True)
        )
        if bias_HNM is None or bias_table is None:
            bias_HNM = F.pad(qkv[0].new_zeros(1, len(inside), len(inside)), (0, 1), value=math.log(len(outside)))
        else:
            virtual_HN1 = _bias(bias_table, inside, outside, window).logsumexp(-1, keepdim=True)
            bias_HNM = torch.cat([bias_HNM, virtual_HN1], dim=-1)

    bias_HNM = None if bias_HNM is None else bias_HNM.to(dtype)
    return _from_windows(_attend(q_WHND, k_WHMD, v_WHMD, bias_HNM, scale), block, batch)


def _to_windows(x: Tensor, block: tuple[Segment, ...]) -> Tensor:
    """Cut the block (B, *size, H, D) into its windows: (W, H, N, D), row-major."""
    for axis, segment in reversed(list(enumerate(block, start=1))):
        x = torch.unflatten(x, axis, (segment.windows, segment.extent))
    grid, inner = range(1, 1 + 2 * len(block), 2), range(2, 2 + 2 * len(block), 2)
    x = x.permute(0, *grid, *inner, -2, -1)
    return x.reshape(-1, math.prod([segment.extent for segment in block]), *x.shape[-2:]).transpose(1, 2)


def _from_windows(x: Tensor, block: tuple[Segment, ...], batch: int) -> Tensor:
    """Invert ``_to_windows``."""
    axes = len(block)
    x = x.transpose(1, 2)
    x = x.reshape(batch, *(s.windows for s in block), *(s.extent for s in block), *x.shape[-2:])
    x = x.permute(0, *itertools.chain.from_iterable((1 + a, 1 + axes + a) for a in range(axes)), -2, -1)
    return x.reshape(batch, *(s.windows * s.extent for s in block), *x.shape[-2:])


def _image_positions(block: tuple[Segment, ...], device: torch.device) -> Tensor:
    """Points of a window that lie in the image: (N, axes), row-major."""
    axes = [torch.arange(s.extent, device=device) for s in block]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def _padding_positions(block: tuple[Segment, ...], device: torch.device) -> Tensor | None:
    """Points of a window that lie in the padding: those of the extended box that are not in the image."""
    box = itertools.product(*(range(s.extent + s.padding) for s in block))
    points = [point for point in box if any(x >= s.extent for x, s in zip(point, block, strict=True))]
    return torch.tensor(points, device=device) if points else None


def _bias(table: Tensor, queries: Tensor, keys: Tensor, window: tuple[int, ...]) -> Tensor:
    """Rows of the table for points of one window: (H, N, M)."""
    row = torch.zeros((), dtype=torch.long, device=table.device)
    for axis, w in enumerate(window):
        row = row * (2 * w - 1) + queries[:, None, axis] - keys[None, :, axis] + w - 1
    return table[row].permute(2, 0, 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    # Autocast must not choose another dtype than that of the inputs.
    with torch.autocast(q.device.type, enabled=False):
        if bias is not None and bias.requires_grad and torch.is_grad_enabled():
            out: Tensor = _LearnedBias.apply(q, k, v, bias, scale)
            return out
        return _fused(q, k, v, bias, scale)


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    mask = None if bias is None else bias[None]
    parts = [
        F.scaled_dot_product_attention(q_, k_, v_, attn_mask=mask, scale=scale)
        for q_, k_, v_ in zip(*(torch.split(t, _FUSED_WINDOWS) for t in (q, k, v)), strict=True)
    ]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


class _LearnedBias(torch.autograd.Function):
    """Softmax attention of many small windows with one bias (H, N, M) for all of them.

    PyTorch's fused kernels refuse a bias that needs a gradient, and autograd would store the scores of all windows. This
    keeps only the inputs and computes the scores again in the backward pass, a few windows at a time.
    """

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
        return _fused(q, k, v, bias.detach(), scale)  # a kernel that sees the gradient flag refuses the bias

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor, float], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.scale = inputs[4]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            return *_gradients(q, k, v, bias, grad, ctx.scale), None


def _gradients(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, grad: Tensor, scale: float) -> tuple[Tensor, ...]:
    """Return the gradients of q, k, v and bias for the gradient of the output."""
    step = max(1, _SCORES // bias.shape.numel())
    grads_qkv, grad_bias = [], torch.zeros_like(bias, dtype=torch.promote_types(bias.dtype, torch.float32))
    for q_, k_, v_, grad_ in zip(*(torch.split(t, step) for t in (q, k, v, grad)), strict=True):
        weights = ((scale * q_) @ k_.mT).to(grad_bias.dtype).add_(bias).softmax(-1)
        slope = (grad_ @ v_.mT).to(weights.dtype)
        slope = (slope - (weights * slope).sum(-1, keepdim=True)).mul_(weights)
        grad_bias = grad_bias + slope.sum(0)
        slope, weights = slope.to(q.dtype), weights.to(q.dtype)
        grads_qkv.append((scale * (slope @ k_), scale * (slope.mT @ q_), weights.mT @ grad_))
    grad_q, grad_k, grad_v = (torch.cat(parts) for parts in zip(*grads_qkv, strict=True))
    return grad_q, grad_k, grad_v, grad_bias.to(bias.dtype)
