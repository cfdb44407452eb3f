"""Local attention by the compiled CPU kernel: tiles are gathered, computed and scattered one by one, and no score is kept.

Of a block on one axis: T tiles, n queries and m keys of a tile, e keys outside the image.
"""

import functools
import itertools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...native import native_status
from .pattern import Pattern
from .prepare import Rules, cached_blocks, constants, fold, traced_as_constant

DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # computed in float32


def _fake(
    q: Tensor,
    _k: Tensor,
    _v: Tensor,
    _table: Tensor | None,
    _pad_k: Tensor | None,
    _pad_v: Tensor | None,
    _layout: Tensor,
    _scale: float,
    sigmoid: bool,
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(0 if sigmoid else 2 * q.shape[:-1].numel(), dtype=torch.float32)


def _fake_backward(
    _grad: Tensor,
    q: Tensor,
    _k: Tensor,
    _v: Tensor,
    table: Tensor | None,
    pad_k: Tensor | None,
    pad_v: Tensor | None,
    _rows: Tensor,
    _layout: Tensor,
    _scale: float,
    _sigmoid: bool,
    needs_table: bool,
) -> tuple[Tensor, ...]:
    heads, dim = q.shape[-2:]
    grad_table = q.new_empty(heads if needs_table else 0, 1 if table is None else table.shape[1])
    pads = [q.new_empty(0 if pad is None else heads, dim) for pad in (pad_k, pad_v)]
    return q.new_empty(q.shape), q.new_empty(q.shape), q.new_empty(q.shape), grad_table, *pads


if native_status()[0]:
    # Shapes for tracing; in C++ they would need the whole of torch, not its stable ABI.
    torch.library.register_fake("geovit::local_attention", _fake)
    torch.library.register_fake("geovit::local_attention_backward", _fake_backward)


class _LocalAttention(torch.autograd.Function):
    # Outside the op: cheaper than torch.library.register_autograd, and Dynamo traces it.

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        table: Tensor | None,
        pad_k: Tensor | None,
        pad_v: Tensor | None,
        layout: Tensor,
        scale: float,
        sigmoid: bool,
    ) -> Tensor:
        out: Tensor
        out, rows = torch.ops.geovit.local_attention(q, k, v, table, pad_k, pad_v, layout, scale, sigmoid)
        ctx.save_for_backward(q, k, v, table, pad_k, pad_v, rows, layout)
        ctx.scale, ctx.sigmoid = scale, sigmoid
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, table, pad_k, pad_v, rows, layout = ctx.saved_tensors
        needs_table = table is not None and ctx.needs_input_grad[3]
        grad_q, grad_k, grad_v, grad_table, grad_pad_k, grad_pad_v = torch.ops.geovit.local_attention_backward(
            grad, q, k, v, table, pad_k, pad_v, rows, layout, ctx.scale, ctx.sigmoid, needs_table
        )
        pads = (grad_pad_k if pad_k is not None else None, grad_pad_v if pad_v is not None else None)
        return grad_q, grad_k, grad_v, grad_table if needs_table else None, *pads, None, None, None


def local_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    bias_table: Tensor | None,
    scale: float | Tensor,
    padding: tuple[Tensor, Tensor] | None,
    cosine: bool,
    activation: str,
) -> Tensor:
    """See ``geovit.core.ops.local_attention``, for CPU tensors of one of ``DTYPES``; the result is contiguous.

    No copy is made of operands in float32, or in bfloat16 without a gradient, whose heads are contiguous and whose positions lie
    at one distance, such as the parts of
    one projection. The kernel reads the bias from the table, and adds its gradient up there: no bias is ever written out in
    PyTorch, which for small windows would take longer than the attention.
    """
    dtype = q.dtype
    q, k, v, padding, scale = fold(q, k, v, scale=scale, padding=padding, cosine=cosine)
    size, rules = constants(tuple(q.shape[1:-2]), pattern)
    if torch.compiler.is_compiling():
        layout = torch.tensor(_constant_layout(size, rules, padding is not None), dtype=torch.int32, device="cpu")
    else:
        layout = _cached_layout(size, rules, padding is not None)
    table = None if bias_table is None else bias_table.float().t().contiguous()
    pad_k, pad_v = (None, None) if padding is None else (x.float() for x in padding)
    out: Tensor
    # The kernel reads and writes bfloat16, but has no gradient of it.
    if dtype == torch.bfloat16 and not (
        torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v, bias_table, *(padding or ())) if t is not None)
    ):
        out, _ = torch.ops.geovit.local_attention(q, k, v, table, pad_k, pad_v, layout, float(scale), activation == "sigmoid")
        return out
    out = _LocalAttention.apply(
        q.float(), k.float(), v.float(), table, pad_k, pad_v, layout, float(scale), activation == "sigmoid"
    )
    return out.to(dtype)


def _layout(size: tuple[int, ...], rules: Rules, outside: bool) -> list[int]:
    """Write the blocks of a plan as one row of integers, which core/csrc/tiles.h reads.

    The number of blocks; for each: whether it is masked, and for each axis: T, n, m, m + e, rows of the table, then positions of
    the queries (T, n), of the keys (T, m), and the rows (n, m + e).
    """
    blocks = cached_blocks(size, rules, outside)
    counts = [rule(*fields).rows for rule, fields in rules]
    packed = [len(blocks)]
    for block in blocks:
        packed.append(int(block.masked))
        for queries, keys, rows, count in zip(block.queries, block.keys, block.rows, counts, strict=True):
            packed += [len(queries), len(queries[0]), len(keys[0]), len(rows[0]), count]
            for table in (queries, keys, rows):
                packed += itertools.chain.from_iterable(table)
    return packed


_constant_layout = traced_as_constant(_layout)


@functools.lru_cache(maxsize=64)
def _cached_layout(size: tuple[int, ...], rules: Rules, outside: bool) -> Tensor:
    with torch.inference_mode(False):  # a tensor made in inference mode is refused where a gradient is asked for
        return torch.tensor(_layout(size, rules, outside), dtype=torch.int32, device="cpu")
