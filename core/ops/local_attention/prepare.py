"""From what a user gives to what every backend computes: blocks of equal tiles, each with its bias written out.

Shapes: N queries and M keys in the image of a tile, E constant keys behind them, H heads, R rows of the bias table.
"""

import math
import operator
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ...device import without_autocast
from .pattern import UNSEEN, Axis, Block, Pattern, plan

_P = ParamSpec("_P")
_T = TypeVar("_T")
Rules = tuple[tuple[type[Axis], tuple[Any, ...]], ...]  # of each axis: its class, and what its constructor takes


class Problem(NamedTuple):
    """Arguments of a backend's ``attend``; see ``prepare``."""

    q: Tensor
    k: Tensor
    v: Tensor
    blocks: list[Block]
    biases: list[Tensor | None]
    padding: tuple[Tensor, Tensor] | None
    scale: float
    activation: str


def remembered(results: int) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Keep a function's last results, so many, except under ``torch.compile``, which traces the function instead."""

    def decorate(function: Callable[_P, _T]) -> Callable[_P, _T]:
        @lru_cache(maxsize=results)
        @torch.inference_mode(False)  # a tensor made in inference mode is refused where a gradient is asked for
        def cached(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            return function(*args, **kwargs)

        @wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            return function(*args, **kwargs) if torch.compiler.is_compiling() else cached(*args, **kwargs)  # type: ignore[arg-type]

        return call

    return decorate


def prepare(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    *,
    bias_table: Tensor | None,
    scale: float | Tensor,
    padding: tuple[Tensor, Tensor] | None,
    cosine: bool,
    activation: str,
) -> Problem:
    """Reduce the options of ``local_attention`` to the one function that the backends implement.

    ``attend(*problem)`` computes, for each tile of each block and each head,

        out(n) = sum_j act(scale q(n) . key(j) + bias(n, j)) value(j)        over M keys of the image, then E constant ones

    with the softmax over j or the sigmoid as activation. The constant keys and values are all those of ``padding``. Their scores
    differ only in the bias, so with the softmax one key whose bias is the log of the sum of their exp(bias) stands for them all
    (E = 1), while the sigmoid needs each (E = their number). A block without outside keys has E = 0.

    Cosine scores and a tensor as scale are folded into q, k and the padding's key. A bias is (H, N, M + E), in float32 or
    better, -inf for a pair that does not attend; it may be expanded over heads. It is None where it would be zero.
    """
    q, k, v, padding, scale = fold(q, k, v, scale=scale, padding=padding, cosine=cosine)
    blocks: list[Block] = _constant_blocks(*constants(tuple(q.shape[1:-2]), pattern), padding is not None)
    wide = torch.promote_types(q.dtype, torch.float32)
    with without_autocast(q.device):
        biases = [_bias(block, pattern, bias_table, q.shape[-2], activation, wide, q.device) for block in blocks]
    return Problem(q, k, v, blocks, biases, padding, scale, activation)


def fold(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | Tensor, padding: tuple[Tensor, Tensor] | None, cosine: bool
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor] | None, float]:
    """Fold cosine scores and a tensor as scale into q, k and the padding's key: (q, k, v, padding, scale)."""
    wide = torch.promote_types(q.dtype, torch.float32)
    if padding is not None:
        padding = padding[0].to(q.dtype), padding[1].to(q.dtype)
    # Autocast must not choose another dtype than that of the inputs.
    with without_autocast(q.device):
        if cosine:
            q, k = (F.normalize(t.to(wide), dim=-1).to(t.dtype) for t in (q, k))
            padding = None if padding is None else (F.normalize(padding[0].to(wide), dim=-1).to(q.dtype), padding[1])
        if isinstance(scale, Tensor):
            q, scale = (q.to(wide) * scale.to(wide)[:, None]).to(q.dtype), 1.0
    return q, k, v, padding, scale


def constants(size: tuple[int, ...], pattern: Pattern) -> tuple[tuple[int, ...], Rules]:
    """Take size and pattern apart into what torch.compile takes for constants: plain values and classes, not objects."""
    return tuple(operator.index(n) for n in size), tuple((type(axis), tuple(map(_number, axis.fields))) for axis in pattern)


def _number(field: int | tuple[int, ...]) -> int | tuple[int, ...]:
    """Make numbers of what the compiler might hold for variable."""
    return tuple(operator.index(n) for n in field) if isinstance(field, tuple) else operator.index(field)


def traced_as_constant(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Let torch.compile run a function once, and trace nothing of it.

    This is all that ``torch.compiler.assume_constant_result`` does, once it has imported the compiler and Triton, which takes
    seconds that users who do not compile would wait too.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]  # noqa: SLF001
    return function


@traced_as_constant
def _constant_blocks(size: tuple[int, ...], rules: Rules, outside: bool) -> list[Block]:
    return cached_blocks(size, rules, outside)


@lru_cache(maxsize=64)
def cached_blocks(size: tuple[int, ...], rules: Rules, outside: bool) -> list[Block]:
    """See ``plan``; for what ``constants`` gives."""
    return plan(size, tuple(rule(*fields) for rule, fields in rules), outside=outside)


def _bias(
    block: Block,
    pattern: Pattern,
    table_RH: Tensor | None,
    heads: int,
    activation: str,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor | None:
    keys = math.prod([len(axis[0]) for axis in block.keys])
    outside = math.prod([len(rows[0]) for rows in block.rows]) - keys
    if table_RH is None and not block.masked and (outside == 0 or activation == "sigmoid"):
        return None
    row_NK = bias_rows(block, tuple(axis.rows for axis in pattern), device)
    if table_RH is None:
        bias_HNK = torch.zeros((), dtype=dtype, device=device).expand(heads, *row_NK.shape)
    else:
        bias_HNK = table_RH.to(dtype)[row_NK.clamp(min=0)].permute(2, 0, 1)
    if block.masked:
        bias_HNK = bias_HNK.masked_fill(row_NK == UNSEEN, -math.inf)
    if activation == "softmax" and outside > 1:
        folded_HN1 = bias_HNK[..., keys:].logsumexp(-1, keepdim=True)
        bias_HNK = torch.cat([bias_HNK[..., :keys], folded_HN1], dim=-1)
    return bias_HNK


@remembered(128)
def bias_rows(block: Block, rows: tuple[int, ...], device: torch.device) -> Tensor:
    """Row of the bias table for each query and key of a block's tiles, ``UNSEEN`` where they do not attend: (N, M + outside).

    Args:
        block: of ``plan``.
        rows: rows of each axis' bias table.
        device: of the result.
    """
    row_NK = torch.zeros(1, 1, dtype=torch.long, device=device)
    outside_K = torch.zeros(1, dtype=torch.bool, device=device)
    for keys, axis, count in zip(block.keys, block.rows, rows, strict=True):
        row_nk = torch.tensor(axis, device=device)
        outside_k = torch.arange(row_nk.shape[1], device=device) >= len(keys[0])
        seen_NK = (row_NK[:, None, :, None] != UNSEEN) & (row_nk[:, None] != UNSEEN)
        row_NK = torch.where(seen_NK, row_NK[:, None, :, None] * count + row_nk[:, None], UNSEEN).flatten(2).flatten(0, 1)
        outside_K = (outside_K[:, None] | outside_k).flatten()
    return row_NK[:, outside_K.argsort(stable=True)]
