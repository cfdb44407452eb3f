"""Local attention by the compiled CPU kernel: tiles are gathered, computed and scattered one by one, and no score is kept.

Shapes: B batch, S positions of the image, H heads, D head width; of a block: N queries and M keys of a tile, E constant keys.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...native import native_status
from .pattern import Block

DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # computed in float32


def _fake(
    q: Tensor,
    _k: Tensor,
    _v: Tensor,
    _bias: Tensor | None,
    _pad_k: Tensor | None,
    _pad_v: Tensor | None,
    _layout: Tensor,
    _scale: float,
    sigmoid: bool,
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(0 if sigmoid else 2 * q.shape[:-1].numel())


def _fake_backward(
    _grad: Tensor,
    q: Tensor,
    _k: Tensor,
    _v: Tensor,
    bias: Tensor | None,
    pad_k: Tensor | None,
    pad_v: Tensor | None,
    _rows: Tensor,
    _layout: Tensor,
    _scale: float,
    _sigmoid: bool,
    needs_bias: bool,
) -> tuple[Tensor, ...]:
    grad_bias = q.new_empty(bias.shape if needs_bias and bias is not None else 0)
    pads = (q.new_empty(0 if pad is None else q.shape[-2], q.shape[-1]) for pad in (pad_k, pad_v))
    return q.new_empty(q.shape), q.new_empty(q.shape), q.new_empty(q.shape), grad_bias, *pads


if native_status()[0]:
    # Shapes for tracing; in C++ they would need the whole of torch, not its stable ABI.
    torch.library.register_fake("geovit::local_attention", _fake)
    torch.library.register_fake("geovit::local_attention_backward", _fake_backward)


class _LocalAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        pad_k: Tensor | None,
        pad_v: Tensor | None,
        layout: Tensor,
        scale: float,
        sigmoid: bool,
    ) -> Tensor:
        out: Tensor
        out, rows = torch.ops.geovit.local_attention(q, k, v, bias, pad_k, pad_v, layout, scale, sigmoid)
        ctx.save_for_backward(q, k, v, bias, pad_k, pad_v, rows, layout)
        ctx.scale, ctx.sigmoid = scale, sigmoid
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, pad_k, pad_v, rows, layout = ctx.saved_tensors
        needs_bias = bias is not None and ctx.needs_input_grad[3]
        grad_q, grad_k, grad_v, grad_bias, grad_pad_k, grad_pad_v = torch.ops.geovit.local_attention_backward(
            grad, q, k, v, bias, pad_k, pad_v, rows, layout, ctx.scale, ctx.sigmoid, needs_bias
        )
        pads = (grad_pad_k if pad_k is not None else None, grad_pad_v if pad_v is not None else None)
        return grad_q, grad_k, grad_v, grad_bias if needs_bias else None, *pads, None, None, None


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: Sequence[Block],
    biases: Sequence[Tensor | None],
    padding: tuple[Tensor, Tensor] | None,
    scale: float,
    activation: str,
) -> Tensor:
    """Attend in every tile of every block; see ``prepare.py`` for what blocks and biases are.

    Args:
        q, k, v: (B, *S, H, D) on the CPU, of one of ``DTYPES``. No copy is made of float32 whose heads are contiguous and whose
            positions lie at one distance, such as parts of one projection.
        blocks: of ``plan``.
        biases: for each block None or (H, N, M + E), -inf where a key is not seen.
        padding: key and value, each (H, D), of the constant keys.
        scale: factor of the scores.
        activation: "softmax" or "sigmoid".

    Returns:
        (B, *S, H, D), contiguous, in the dtype of ``q``.
    """
    if q.numel() == 0:
        return q + k + v
    outside = []
    for block, bias in zip(blocks, biases, strict=True):
        inside = 1
        for keys in block.keys:
            inside *= len(keys[0])
        outside.append(0 if bias is None else bias.shape[-1] - inside)
    layout = _layout(tuple(blocks), tuple(outside), tuple(bias is not None for bias in biases))
    flat = [bias.float().reshape(-1) for bias in biases if bias is not None]
    bias = None if not flat else flat[0] if len(flat) == 1 else torch.cat(flat)
    pad_k, pad_v = (None, None) if padding is None else (x.float() for x in padding)
    out: Tensor = _LocalAttention.apply(
        q.float(), k.float(), v.float(), bias, pad_k, pad_v, layout, float(scale), activation == "sigmoid"
    )
    return out.to(q.dtype)


@functools.lru_cache(maxsize=256)
def _layout(blocks: tuple[Block, ...], outside: tuple[int, ...], biased: tuple[bool, ...]) -> Tensor:
    """Write blocks as one row of integers, which core/csrc/tiles.h reads.

    The number of blocks; for each: constant keys, whether there is a bias, and for each axis: T, n, m, queries, keys.
    """
    packed = [len(blocks)]
    for block, extra, has_bias in zip(blocks, outside, biased, strict=True):
        packed += [extra, int(has_bias)]
        for queries, keys in zip(block.queries, block.keys, strict=True):
            packed += [len(queries), len(queries[0]), len(keys[0])]
            packed += [x for tile in queries for x in tile]
            packed += [x for tile in keys for x in tile]
    return torch.tensor(packed, dtype=torch.int32)
