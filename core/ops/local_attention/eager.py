"""Local attention in plain PyTorch: gather the tiles of each block, attend in all of them at once, put the results back.

Shapes: B batch, S positions of the image, T tiles of a block, N queries and M keys of a tile with K = M + E after the constant
ones, H heads, D head width, W = B T.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...device import without_autocast
from .pattern import Block
from .prepare import remembered

_FUSED_TILES = 1 << 15  # tiles per fused call: GPU kernels put them on a grid axis of at most 65535
_SCORES = 1 << 18  # scores held at once in the backward pass: 1 MiB in float32, about a core's own cache


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: Sequence[Block],
    biases: Sequence[Tensor | None],
    padding: tuple[Tensor, Tensor] | None,
    scale: float,
    activation: str,
    dropout: float = 0.0,
) -> Tensor:
    """See ``prepare.prepare``; ``dropout`` is the probability to set a weight to zero."""
    batch, size = len(q), tuple(q.shape[1:-2])
    queries_X, keys_Y, inverse_X = _orders(tuple(blocks), batch, size, q.device)
    q_XHD = q.flatten(0, -3).index_select(0, queries_X)
    k_YHD, v_YHD = (t.flatten(0, -3).index_select(0, keys_Y) for t in (k, v))
    counts = [_counts(block) for block in blocks]
    parts = zip(
        torch.split(q_XHD, [batch * tiles * n for tiles, n, _, _ in counts]),
        *(torch.split(t, [batch * tiles * m for tiles, _, m, _ in counts]) for t in (k_YHD, v_YHD)),
        biases,
        counts,
        strict=True,
    )
    done = []
    for q_part, k_part, v_part, bias_HNK, (tiles, n, m, outside) in parts:
        q_WHND = torch.unflatten(q_part, 0, (batch * tiles, n)).transpose(1, 2)
        k_WHKD, v_WHKD = (torch.unflatten(t, 0, (batch * tiles, m)).transpose(1, 2) for t in (k_part, v_part))
        if padding is not None and outside:
            constant = 1 if activation == "softmax" else outside
            k_WHKD, v_WHKD = (
                torch.cat([t, c[None, :, None].expand(len(t), -1, constant, -1)], dim=2)
                for t, c in zip((k_WHKD, v_WHKD), padding, strict=True)
            )
        bias_HNK = None if bias_HNK is None else bias_HNK.to(q.dtype)
        out_WHND = _attend(q_WHND, k_WHKD, v_WHKD, bias_HNK, scale, activation, dropout)
        done.append(out_WHND.transpose(1, 2).flatten(0, 1))
    out_XHD = torch.cat(done) if len(done) > 1 else done[0]
    return out_XHD.index_select(0, inverse_X).reshape(q.shape)


def _counts(block: Block) -> tuple[int, int, int, int]:
    """Tiles, and for each tile its queries, keys in the image and keys outside."""
    tiles, n, m = (
        math.prod(counts)
        for counts in (
            [len(axis) for axis in block.queries],
            [len(axis[0]) for axis in block.queries],
            [len(axis[0]) for axis in block.keys],
        )
    )
    return tiles, n, m, math.prod([len(axis[0]) for axis in block.rows]) - m


@remembered(16)  # they are as long as the image
def _orders(blocks: tuple[Block, ...], batch: int, size: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Places in the flattened batch: of all tiles' queries, of all their keys, and of each position among the queries."""
    image_B1 = math.prod(size) * torch.arange(batch, device=device)[:, None]
    queries_X, keys_Y = (
        torch.cat([(image_B1 + _positions(axes, size, device)).flatten() for axes in parts])
        for parts in ([block.queries for block in blocks], [block.keys for block in blocks])
    )
    inverse_X = torch.empty_like(queries_X)
    inverse_X[queries_X] = torch.arange(len(queries_X), device=device)
    return queries_X, keys_Y, inverse_X


def _positions(axes: tuple[tuple[tuple[int, ...], ...], ...], size: tuple[int, ...], device: torch.device) -> Tensor:
    """Places in the flattened image of the points of all tiles, given by axis, tile and point: (T N,), row-major."""
    place_TN = torch.zeros(1, 1, dtype=torch.long, device=device)
    for axis, length in zip(axes, size, strict=True):
        position_tn = torch.tensor(axis, device=device)
        place_TN = (place_TN[:, None, :, None] * length + position_tn[:, None]).flatten(2).flatten(0, 1)
    return place_TN.flatten()


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, activation: str, dropout: float) -> Tensor:
    # Autocast must not choose another dtype than that of the inputs.
    with without_autocast(q.device):
        if dropout:
            return F.dropout(_weights(q, k, bias, scale, activation), dropout).to(q.dtype) @ v
        if activation == "sigmoid" or (bias is not None and bias.requires_grad and torch.is_grad_enabled()):
            out: Tensor = _Recomputed.apply(q, k, v, bias, scale, activation)
            return out
        return _fused(q, k, v, bias, scale)


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    mask = None if bias is None else bias[None]
    parts = [
        F.scaled_dot_product_attention(q_, k_, v_, attn_mask=mask, scale=scale)
        for q_, k_, v_ in zip(*(torch.split(t, _FUSED_TILES) for t in (q, k, v)), strict=True)
    ]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


class _Recomputed(torch.autograd.Function):
    """Attention of many small tiles with one bias (H, N, K) for all of them.

    PyTorch's fused kernels refuse a bias that needs a gradient and know no sigmoid, and autograd would store the scores of all
    tiles. This keeps only the inputs and computes the scores again in the backward pass, a few tiles at a time.
    """

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, activation: str) -> Tensor:
        if activation == "softmax":
            # A kernel that sees the gradient flag refuses the bias.
            return _fused(q, k, v, None if bias is None else bias.detach(), scale)
        parts = [_weights(q_, k_, bias, scale, activation).to(q.dtype) @ v_ for q_, k_, v_ in _portions(q, k, v)]
        return torch.cat(parts)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor | None, float, str], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.scale, ctx.activation = inputs[4:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias = ctx.saved_tensors
        with without_autocast(grad.device):
            return *_gradients(q, k, v, bias, grad, ctx.scale, ctx.activation), None, None


def _portions(q: Tensor, k: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split the tiles so that ``_SCORES`` scores are held at once."""
    step = max(1, _SCORES // (q.shape[1] * q.shape[2] * k.shape[2]))
    return zip(*(torch.split(t, step) for t in (q, k, *others)), strict=True)


def _weights(q: Tensor, k: Tensor, bias: Tensor | None, scale: float, activation: str) -> Tensor:
    scores = ((scale * q) @ k.mT).to(torch.promote_types(q.dtype, torch.float32))
    scores = scores if bias is None else scores.add_(bias)
    return scores.softmax(-1) if activation == "softmax" else scores.sigmoid()


def _gradients(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, grad: Tensor, scale: float, activation: str
) -> tuple[Tensor | None, ...]:
    """Return the gradients of q, k, v and bias for the gradient of the output."""
    grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.promote_types(bias.dtype, torch.float32))
    grads_qkv = []
    for q_, k_, v_, grad_ in _portions(q, k, v, grad):
        weights = _weights(q_, k_, bias, scale, activation)
        slope = (grad_ @ v_.mT).to(weights.dtype)
        if activation == "softmax":
            slope = (slope - (weights * slope).sum(-1, keepdim=True)).mul_(weights)
        else:
            slope = (slope * weights).mul_(1 - weights)
        if grad_bias is not None:
            grad_bias = grad_bias + slope.sum(0)
        slope, weights = slope.to(q.dtype), weights.to(q.dtype)
        grads_qkv.append((scale * (slope @ k_), scale * (slope.mT @ q_), weights.mT @ grad_))
    grad_q, grad_k, grad_v = (torch.cat(parts) for parts in zip(*grads_qkv, strict=True))
    return grad_q, grad_k, grad_v, None if grad_bias is None or bias is None else grad_bias.to(bias.dtype)
