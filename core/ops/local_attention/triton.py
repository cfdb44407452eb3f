"""Local attention on a GPU: Triton kernels that gather the tiles, attend and scatter in one pass. Imported only where used.

A program computes one rectangle of scores after the other and keeps none of them. No atomics: every output has one writer, or
writers in launches that follow each other, so that results are the same in every run.

Shapes: B images, S positions, H heads, D head width; of a program: n queries, m keys, d channels (D filled up to a power of two).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...device import launching_on
from . import tables as t
from .pattern import Block

_COLUMNS = tl.constexpr(t.COLUMNS)
_FIRST_QUERY, _FIRST_KEY, _FIRST_PAIR = tl.constexpr(t.FIRST_QUERY), tl.constexpr(t.FIRST_KEY), tl.constexpr(t.FIRST_PAIR)
_TILES, _CONSTANT, _BIAS = tl.constexpr(t.TILES), tl.constexpr(t.CONSTANT), tl.constexpr(t.BIAS)
_QUERIES, _QUERY_LISTS = tl.constexpr(t.QUERIES), tl.constexpr(t.QUERY_LISTS)
_KEYS, _KEY_LISTS = tl.constexpr(t.KEYS), tl.constexpr(t.KEY_LISTS)


@triton.jit
def _field(block, column: tl.constexpr):
    return tl.load(block + column).to(tl.int32)


@triton.jit
def _program(blocks, heads, programs, count, column: tl.constexpr, COUNT: tl.constexpr):
    """What this program works on: a head, an image (or a group of tiles), a block, and which part of the block's work."""
    head = tl.program_id(0) % heads
    program = tl.program_id(0) // heads % programs
    image = tl.program_id(0) // heads // programs
    i = tl.arange(0, COUNT)
    first = tl.load(blocks + i * _COLUMNS + column, mask=i < count, other=2147483647)
    block = blocks + (tl.sum((first <= program).to(tl.int32), 0) - 1) * _COLUMNS
    n, m = _field(block, _QUERIES), _field(block, _KEYS)
    return head, image, block, program - _field(block, column), n, m, m + _field(block, _CONSTANT)


@triton.jit
def _places(block, positions, tile, i, counts: tl.constexpr, lists: tl.constexpr):
    """Places in the flattened image of the points i of a tile; 0 for points that it does not have."""
    t1, t2 = _field(block, _TILES + 1), _field(block, _TILES + 2)
    n, n1, n2 = _field(block, counts), _field(block, counts + 1), _field(block, counts + 2)
    at0, at1, at2 = _field(block, lists), _field(block, lists + 1), _field(block, lists + 2)
    inside = i < n
    at0 += tile // (t1 * t2) * (n // (n1 * n2)) + i // (n1 * n2)
    at1 += tile // t2 % t1 * n1 + i // n2 % n1
    at2 += tile % t2 * n2 + i % n2
    place = tl.load(positions + at0, mask=inside, other=0)
    place += tl.load(positions + at1, mask=inside, other=0)
    return place + tl.load(positions + at2, mask=inside, other=0)


@triton.jit
def _rows(base, place, inside, stride, D: tl.constexpr, WIDTH: tl.constexpr):
    """Rows of a tensor whose channels lie side by side: (n, d), zero outside."""
    d = tl.arange(0, WIDTH)
    at = place.to(tl.int64)[:, None] * stride + d[None, :]
    return tl.load(base + at, mask=inside[:, None] & (d < D)[None, :], other=0.0)


@triton.jit
def _key_rows(base, constant, place, j, m, keys, stride, D: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Rows of k or v, and for j from m to keys the constant row."""
    rows = _rows(base, place, j < m, stride, D, WIDTH)
    if PADDED:
        d = tl.arange(0, WIDTH)
        row = tl.load(constant + d, mask=d < D, other=0.0)
        rows = tl.where(((j >= m) & (j < keys))[:, None], row[None, :], rows)
    return rows


@triton.jit
def _scores(q, k, bias, i, j, biased, keys, scale, BIASED: tl.constexpr):
    """Scores (n, m) of rows q (n, d) and k (m, d), in float32; -inf for keys that are not there. The first queries are biased."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    if BIASED:
        seen = (i < biased)[:, None] & (j < keys)[None, :]
        at = i.to(tl.int64)[:, None] * keys + j[None, :]
        scores += tl.load(bias + at, mask=seen, other=0.0).to(tl.float32)
    return tl.where((j < keys)[None, :], scores, float("-inf"))


@triton.jit
def _weights_and_slopes(scores, lse, delta, grad, v, SOFTMAX: tl.constexpr):
    """Weights (n, m) of the values, and the gradient of the scores."""
    along = tl.dot(grad, tl.trans(v), input_precision="ieee")
    if SOFTMAX:
        weights = tl.exp(scores - lse[:, None])
        slopes = weights * (along - delta[:, None])
    else:
        weights = tl.sigmoid(scores)
        slopes = weights * (1.0 - weights) * along
    return weights, slopes


@triton.jit(do_not_specialize=["programs", "count", "size"])
def _forward_kernel(
    q, k, v, bias, constant_k, constant_v, out, lse, blocks, positions,
    qb, qs, qh, kb, ks, kh, vb, vs, vh, scale, heads, size, programs, count,
    COUNT: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, N: tl.constexpr, M: tl.constexpr,
    BIASED: tl.constexpr, PADDED: tl.constexpr, SOFTMAX: tl.constexpr,
):  # fmt: skip
    head, image, block, number, n, m, keys = _program(blocks, heads, programs, count, _FIRST_QUERY, COUNT)
    start = tl.load(block + _BIAS)
    biased = tl.where(start >= 0, n, 0)
    image = image.to(tl.int64)
    parts = tl.cdiv(n, N)
    tile = number // parts
    i = number % parts * N + tl.arange(0, N)
    q += image * qb + head * qh
    k += image * kb + head * kh
    v += image * vb + head * vh
    bias += tl.maximum(start, 0) + head.to(tl.int64) * n * keys

    place = _places(block, positions, tile, i, _QUERIES, _QUERY_LISTS)
    q_nd = _rows(q, place, i < n, qs, D, WIDTH)
    top = tl.full((N,), float("-inf"), tl.float32)
    total = tl.zeros((N,), tl.float32)
    sum_nd = tl.zeros((N, WIDTH), tl.float32)
    for first in range(0, keys, M):
        j = first + tl.arange(0, M)
        key_place = _places(block, positions, tile, j, _KEYS, _KEY_LISTS)
        k_md = _key_rows(k, constant_k + head * D, key_place, j, m, keys, ks, D, WIDTH, PADDED)
        v_md = _key_rows(v, constant_v + head * D, key_place, j, m, keys, vs, D, WIDTH, PADDED)
        scores = _scores(q_nd, k_md, bias, i, j, biased, keys, scale, BIASED)
        if SOFTMAX:
            new_top = tl.maximum(top, tl.max(scores, 1))
            # A query that has seen no key yet: -inf minus -inf would be NaN.
            origin = tl.where(new_top == float("-inf"), 0.0, new_top)
            weights = tl.exp(scores - origin[:, None])
            shrink = tl.exp(top - origin)
            total = total * shrink + tl.sum(weights, 1)
            sum_nd = sum_nd * shrink[:, None]
            top = new_top
        else:
            weights = tl.sigmoid(scores)
        sum_nd += tl.dot(weights.to(v_md.dtype), v_md, input_precision="ieee")
    row = (image * size + place) * heads + head
    if SOFTMAX:
        sum_nd = sum_nd / total[:, None]
        tl.store(lse + row, top + tl.log(total), mask=i < n)
    d = tl.arange(0, WIDTH)
    inside = (i < n)[:, None] & (d < D)[None, :]
    tl.store(out + row[:, None] * D + d[None, :], sum_nd.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["programs", "count", "size"])
def _query_kernel(
    grad, q, k, v, bias, constant_k, constant_v, out, lse, delta, share, slope, grad_q, blocks, positions,
    qb, qs, qh, kb, ks, kh, vb, vs, vh, scale, heads, size, programs, count,
    COUNT: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, N: tl.constexpr, M: tl.constexpr,
    BIASED: tl.constexpr, PADDED: tl.constexpr, SOFTMAX: tl.constexpr,
):  # fmt: skip
    """Gradient of q, and for each query: grad . out (delta), weight (share) and slope of all constant keys together."""
    head, image, block, number, n, m, keys = _program(blocks, heads, programs, count, _FIRST_QUERY, COUNT)
    start = tl.load(block + _BIAS)
    biased = tl.where(start >= 0, n, 0)
    image = image.to(tl.int64)
    parts = tl.cdiv(n, N)
    tile = number // parts
    i = number % parts * N + tl.arange(0, N)
    q += image * qb + head * qh
    k += image * kb + head * kh
    v += image * vb + head * vh
    bias += tl.maximum(start, 0) + head.to(tl.int64) * n * keys

    place = _places(block, positions, tile, i, _QUERIES, _QUERY_LISTS)
    row = (image * size + place) * heads + head
    q_nd = _rows(q, place, i < n, qs, D, WIDTH)
    grad_nd = _rows(grad, row, i < n, D, D, WIDTH)
    out_nd = _rows(out, row, i < n, D, D, WIDTH)
    lse_n = tl.zeros((N,), tl.float32)
    if SOFTMAX:
        lse_n = tl.load(lse + row, mask=i < n, other=0.0)
    delta_n = tl.sum(grad_nd.to(tl.float32) * out_nd.to(tl.float32), 1)
    share_n = tl.zeros((N,), tl.float32)
    slope_n = tl.zeros((N,), tl.float32)
    sum_nd = tl.zeros((N, WIDTH), tl.float32)
    for first in range(0, keys, M):
        j = first + tl.arange(0, M)
        key_place = _places(block, positions, tile, j, _KEYS, _KEY_LISTS)
        k_md = _key_rows(k, constant_k + head * D, key_place, j, m, keys, ks, D, WIDTH, PADDED)
        v_md = _key_rows(v, constant_v + head * D, key_place, j, m, keys, vs, D, WIDTH, PADDED)
        scores = _scores(q_nd, k_md, bias, i, j, biased, keys, scale, BIASED)
        weights, slopes = _weights_and_slopes(scores, lse_n, delta_n, grad_nd, v_md, SOFTMAX)
        sum_nd += tl.dot(slopes.to(k_md.dtype), k_md, input_precision="ieee")
        if PADDED:
            share_n += tl.sum(tl.where((j >= m)[None, :], weights, 0.0), 1)
            slope_n += tl.sum(tl.where((j >= m)[None, :], slopes, 0.0), 1)
    tl.store(delta + row, delta_n, mask=i < n)
    if PADDED:
        tl.store(share + row, share_n, mask=i < n)
        tl.store(slope + row, slope_n, mask=i < n)
    d = tl.arange(0, WIDTH)
    inside = (i < n)[:, None] & (d < D)[None, :]
    tl.store(grad_q + row[:, None] * D + d[None, :], (sum_nd * scale).to(grad_q.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["programs", "count", "size"])
def _key_kernel(
    grad, q, k, v, bias, lse, delta, grad_k, grad_v, blocks, positions,
    qb, qs, qh, kb, ks, kh, vb, vs, vh, scale, heads, size, programs, count,
    COUNT: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, N: tl.constexpr, M: tl.constexpr,
    BIASED: tl.constexpr, SOFTMAX: tl.constexpr, ADDED: tl.constexpr,
):  # fmt: skip
    """Gradients of k and v, stored, or added to what is there."""
    head, image, block, number, n, m, keys = _program(blocks, heads, programs, count, _FIRST_KEY, COUNT)
    start = tl.load(block + _BIAS)
    biased = tl.where(start >= 0, n, 0)
    image = image.to(tl.int64)
    parts = tl.cdiv(m, M)
    tile = number // parts
    j = number % parts * M + tl.arange(0, M)
    q += image * qb + head * qh
    k += image * kb + head * kh
    v += image * vb + head * vh
    bias += tl.maximum(start, 0) + head.to(tl.int64) * n * keys

    place = _places(block, positions, tile, j, _KEYS, _KEY_LISTS)
    k_md = _rows(k, place, j < m, ks, D, WIDTH)
    v_md = _rows(v, place, j < m, vs, D, WIDTH)
    sum_k = tl.zeros((M, WIDTH), tl.float32)
    sum_v = tl.zeros((M, WIDTH), tl.float32)
    for first in range(0, n, N):
        i = first + tl.arange(0, N)
        query_place = _places(block, positions, tile, i, _QUERIES, _QUERY_LISTS)
        row = (image * size + query_place) * heads + head
        q_nd = _rows(q, query_place, i < n, qs, D, WIDTH)
        grad_nd = _rows(grad, row, i < n, D, D, WIDTH)
        lse_n = tl.zeros((N,), tl.float32)
        if SOFTMAX:
            lse_n = tl.load(lse + row, mask=i < n, other=0.0)
        delta_n = tl.load(delta + row, mask=i < n, other=0.0)
        scores = _scores(q_nd, k_md, bias, i, j, biased, keys, scale, BIASED)
        weights, slopes = _weights_and_slopes(scores, lse_n, delta_n, grad_nd, v_md, SOFTMAX)
        sum_v += tl.dot(tl.trans(weights).to(grad_nd.dtype), grad_nd, input_precision="ieee")
        sum_k += tl.dot(tl.trans(slopes).to(q_nd.dtype), q_nd, input_precision="ieee")
    sum_k = sum_k * scale
    d = tl.arange(0, WIDTH)
    at = ((image * size + place) * heads + head)[:, None] * D + d[None, :]
    inside = (j < m)[:, None] & (d < D)[None, :]
    if ADDED:
        sum_k += tl.load(grad_k + at, mask=inside, other=0.0)
        sum_v += tl.load(grad_v + at, mask=inside, other=0.0)
    tl.store(grad_k + at, sum_k.to(grad_k.dtype.element_ty), mask=inside)
    tl.store(grad_v + at, sum_v.to(grad_v.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["programs", "count", "size", "images", "groups"])
def _bias_kernel(
    grad, q, k, v, bias, constant_k, constant_v, lse, delta, partial, blocks, positions,
    qb, qs, qh, kb, ks, kh, vb, vs, vh, scale, heads, size, programs, count, images, groups, entries,
    COUNT: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, N: tl.constexpr, M: tl.constexpr,
    PADDED: tl.constexpr, SOFTMAX: tl.constexpr,
):  # fmt: skip
    """Gradient of one rectangle of a bias, summed over one group of the block's tiles in all images."""
    head, group, block, number, n, m, keys = _program(blocks, heads, programs, count, _FIRST_PAIR, COUNT)
    start = tl.load(block + _BIAS)
    biased = tl.where(start >= 0, n, 0)
    parts = tl.cdiv(keys, M)
    i = number // parts * N + tl.arange(0, N)
    j = number % parts * M + tl.arange(0, M)
    offset = tl.maximum(start, 0) + head.to(tl.int64) * n * keys
    q += head * qh
    k += head * kh
    v += head * vh

    tiles = _field(block, _TILES)
    share = tl.cdiv(tiles * images, groups)
    sum_nm = tl.zeros((N, M), tl.float32)
    for which in range(group * share, tl.minimum(group * share + share, tiles * images)):
        tile = which % tiles
        image = (which // tiles).to(tl.int64)
        place = _places(block, positions, tile, i, _QUERIES, _QUERY_LISTS)
        key_place = _places(block, positions, tile, j, _KEYS, _KEY_LISTS)
        row = (image * size + place) * heads + head
        q_nd = _rows(q + image * qb, place, i < n, qs, D, WIDTH)
        grad_nd = _rows(grad, row, i < n, D, D, WIDTH)
        k_md = _key_rows(k + image * kb, constant_k + head * D, key_place, j, m, keys, ks, D, WIDTH, PADDED)
        v_md = _key_rows(v + image * vb, constant_v + head * D, key_place, j, m, keys, vs, D, WIDTH, PADDED)
        lse_n = tl.zeros((N,), tl.float32)
        if SOFTMAX:
            lse_n = tl.load(lse + row, mask=i < n, other=0.0)
        delta_n = tl.load(delta + row, mask=i < n, other=0.0)
        scores = _scores(q_nd, k_md, bias + offset, i, j, biased, keys, scale, True)
        _, slopes = _weights_and_slopes(scores, lse_n, delta_n, grad_nd, v_md, SOFTMAX)
        sum_nm += slopes
    inside = (i < biased)[:, None] & (j < keys)[None, :]
    at = group.to(tl.int64) * entries + offset + i.to(tl.int64)[:, None] * keys + j[None, :]
    tl.store(partial + at, sum_nm, mask=inside)


def _unit(x: Tensor) -> Tensor:
    """Return x (B, S, H, D) with channels side by side, as kernels expect."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _strides(q: Tensor, k: Tensor, v: Tensor) -> list[int]:
    return [stride for x in (q, k, v) for stride in x.stride()[:3]]


def _shape(q: Tensor, count: int, tile: list[int]) -> dict[str, int]:
    width = max(16, triton.next_power_of_2(q.shape[-1]))
    shape = {"COUNT": triton.next_power_of_2(count), "D": q.shape[-1], "WIDTH": width, "N": tile[0], "M": tile[1]}
    return shape | {"num_warps": 8 if q.dtype == torch.float32 else 4}


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    constants: Tensor | None,
    blocks: Tensor,
    positions: Tensor,
    launch: list[int],
    tile: list[int],
    scale: float,
    softmax: bool,
) -> tuple[Tensor, Tensor]:
    out, lse = _fake(q, k, v, bias, constants, blocks, positions, launch, tile, scale, softmax)
    q, k, v = _unit(q), _unit(k), _unit(v)
    images, size, heads, _ = q.shape
    constant_k, constant_v = (q, q) if constants is None else constants.contiguous().unbind()
    first, count, programs, _, _ = launch
    with launching_on(q.device):
        _forward_kernel[(programs * images * heads,)](
            *(q, k, v, q if bias is None else bias, constant_k, constant_v, out, lse, blocks[first:], positions),
            *(*_strides(q, k, v), scale, heads, size, programs, count),
            **_shape(q, count, tile),
            BIASED=bias is not None,
            PADDED=constants is not None,
            SOFTMAX=softmax,
        )
    return out, lse


def _fake(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:3], dtype=torch.float32)


def _run_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    constants: Tensor | None,
    out: Tensor,
    lse: Tensor,
    blocks: Tensor,
    coloured: Tensor,
    positions: Tensor,
    launches: list[int],
    tile: list[int],
    groups: int,
    scale: float,
    softmax: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad = grad.contiguous()
    q, k, v = _unit(q), _unit(k), _unit(v)
    images, size, heads, _ = q.shape
    constant_k, constant_v = (q, q) if constants is None else constants.contiguous().unbind()
    inputs = (q, k, v, q if bias is None else bias)
    whole, *colours = [launches[i : i + 5] for i in range(0, len(launches), 5)]
    switches = {"PADDED": constants is not None, "SOFTMAX": softmax}

    grad_q, delta = q.new_empty(q.shape), torch.empty_like(lse)
    share, slope = (torch.empty_like(lse), torch.empty_like(lse)) if constants is not None else (lse, lse)
    # Sums that several launches add to are kept in float32.
    added = torch.float32 if len(colours) > 1 else q.dtype
    grad_k, grad_v = q.new_zeros(q.shape, dtype=added), q.new_zeros(q.shape, dtype=added)
    partial = q.new_empty(groups, 0 if bias is None else bias.numel(), dtype=torch.float32)
    with launching_on(q.device):
        _query_kernel[(whole[2] * images * heads,)](
            *(grad, *inputs, constant_k, constant_v, out, lse, delta, share, slope, grad_q, blocks, positions),
            *(*_strides(q, k, v), scale, heads, size, whole[2], whole[1]),
            **_shape(q, whole[1], tile),
            BIASED=bias is not None,
            **switches,
        )
        for first, count, _, programs, _ in colours:
            _key_kernel[(programs * images * heads,)](
                *(grad, *inputs, lse, delta, grad_k, grad_v, coloured[first:], positions),
                *(*_strides(q, k, v), scale, heads, size, programs, count),
                **_shape(q, count, tile),
                BIASED=bias is not None,
                SOFTMAX=softmax,
                ADDED=len(colours) > 1,
            )
        if bias is not None and groups:
            _bias_kernel[(whole[4] * groups * heads,)](
                *(grad, *inputs, constant_k, constant_v, lse, delta, partial, blocks, positions),
                *(*_strides(q, k, v), scale, heads, size, whole[4], whole[1], images, groups, partial.shape[1]),
                **_shape(q, whole[1], tile),
                **switches,
            )
    grad_constants = q.new_zeros(0)
    if constants is not None:
        # Constant keys see all queries in the same way, up to two numbers for each query.
        grad_constants = torch.stack(
            [
                torch.einsum("bsh,bshd->hd", weight, rows.float()) * factor
                for weight, rows, factor in ((slope, q, scale), (share, grad, 1.0))
            ]
        ).to(q.dtype)
    grad_bias = partial.sum(0)
    return grad_q, grad_k.to(q.dtype), grad_v.to(q.dtype), grad_bias, grad_constants


def _fake_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, constants: Tensor | None, *_: Any
) -> tuple[Tensor, ...]:
    grad_bias = q.new_empty(0 if bias is None else bias.numel(), dtype=torch.float32)
    grad_constants = q.new_empty(0 if constants is None else constants.shape)
    return *(q.new_empty(q.shape) for _ in range(3)), grad_bias, grad_constants


_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor? constants"
torch.library.define(
    "geovit::local_attention_triton",
    f"({_INPUTS}, Tensor blocks, Tensor positions, int[] launch, int[] tile, float scale, bool softmax) -> (Tensor, Tensor)",
)
torch.library.define(
    "geovit::local_attention_triton_backward",
    f"(Tensor grad, {_INPUTS}, Tensor out, Tensor lse, Tensor blocks, Tensor coloured, Tensor positions, int[] launches, "
    "int[] tile, SymInt groups, float scale, bool softmax) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
torch.library.impl("geovit::local_attention_triton", "default", _run)
torch.library.impl("geovit::local_attention_triton_backward", "default", _run_backward)
torch.library.register_fake("geovit::local_attention_triton", _fake)
torch.library.register_fake("geovit::local_attention_triton_backward", _fake_backward)


class _LocalAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        constants: Tensor | None,
        blocks: Tensor,
        coloured: Tensor,
        positions: Tensor,
        launches: list[int],
        tile: list[int],
        groups: int,
        scale: float,
        softmax: bool,
    ) -> Tensor:
        out: Tensor
        out, lse = torch.ops.geovit.local_attention_triton(
            q, k, v, bias, constants, blocks, positions, launches[:5], tile, scale, softmax
        )
        ctx.save_for_backward(q, k, v, bias, constants, out, lse, blocks, coloured, positions)
        ctx.rest = launches, tile, groups, scale, softmax
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, _, _, bias, constants, *_ = ctx.saved_tensors
        launches, tile, groups, scale, softmax = ctx.rest
        *grads, grad_bias, grad_constants = torch.ops.geovit.local_attention_triton_backward(
            grad, *ctx.saved_tensors, launches, tile, groups if ctx.needs_input_grad[3] else 0, scale, softmax
        )
        grads.append(None if bias is None else grad_bias.to(bias.dtype))
        grads.append(None if constants is None else grad_constants)
        return *grads, None, None, None, None, None, None, None, None


def _limit(width: int, dtype: torch.dtype) -> int:
    """Most queries and keys of a program: what registers hold, as the compiler for compute capability 9.0 tells.

    Products in float32 take no tensor cores, and so more registers.
    """
    limit = 64 if width <= 64 else 32 if width <= 128 else 16
    return max(16, limit // 2) if dtype == torch.float32 else limit


def arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: list[Block],
    biases: list[Tensor | None],
    padding: tuple[Tensor, Tensor] | None,
    softmax: bool,
) -> tuple[t.Tables, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Write a problem for the kernels: tables, q, k, v of flattened images, all biases, and the constant key and value."""
    table = t.tables(
        tuple(blocks),
        tuple(bias is not None for bias in biases),
        (padding is not None, softmax),
        tuple(q.shape[1:-2]),
        (q.shape[0], q.shape[-2]),
        _limit(q.shape[-1], q.dtype),
        q.device,
    )
    given = [bias.flatten() for bias in biases if bias is not None]
    bias = torch.cat(given) if given else None
    return table, q.flatten(1, -3), k.flatten(1, -3), v.flatten(1, -3), bias, None if padding is None else torch.stack(padding)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: list[Block],
    biases: list[Tensor | None],
    padding: tuple[Tensor, Tensor] | None,
    scale: float,
    activation: str,
) -> Tensor:
    """See ``prepare.prepare``."""
    softmax = activation == "softmax"
    table, *arrays = arguments(q, k, v, blocks, biases, padding, softmax)
    launches = [number for launch in (table.whole, *table.colours) for number in launch]
    out: Tensor = _LocalAttention.apply(
        *arrays, table.blocks, table.coloured, table.positions, launches, list(table.tile), table.groups, scale, softmax
    )
    return out.view(q.shape)
