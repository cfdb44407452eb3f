"""Local attention in a program that is exported: the sizes of the image are variables, so no table of tiles can be made ahead.

Every rule cuts its axis into tiles of equal size by arithmetic on coordinates that stays in the program. Tiles may reach outside
the image, where keys are masked or those of the padding, and what queries find there is dropped.

Shapes: B batch, S positions of each axis, T tiles of an axis, n queries and m keys of its tiles, H heads, D head width; N, M and
W are n, m and T of all axes together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...device import without_autocast
from .pattern import FlatWindows, Grid, Neighborhood, Pattern, Window
from .prepare import fold

_UNSEEN = -1e9  # bias of a key that is not seen: finite, as tiles that lie outside as a whole see none


@dataclass(frozen=True, eq=False)
class _Cut:
    """How an axis is cut.

    Args:
        queries, keys: (T, n), (T, m): positions, outside the axis too.
        found: (S,): which of the T n queries each position is.
        rows: (T or 1, n, m), of the axis' bias table.
        low, high: keys from ``low`` to below ``high`` that lie outside the image have the padding's key; (1,), integers.
        size: S.
        plain: whether the queries are the positions of the axis in their order.
    """

    queries: Tensor
    keys: Tensor
    found: Tensor
    rows: Tensor
    low: Tensor
    high: Tensor
    size: int
    plain: bool = False


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
    """Attend as the function of the same name says."""
    shape = q.shape
    q, k, v, padding, scale = fold(q, k, v, scale=scale, padding=padding, cosine=cosine)
    rule = pattern[0]
    if isinstance(rule, FlatWindows):
        q, k, v = (t.reshape(t.shape[0], *rule.size, *t.shape[2:]) for t in (q, k, v))
        cuts, rows_NM = _flat(rule, q.device)
    else:
        cuts = [_cut(axis, n, q.device) for axis, n in zip(pattern, q.shape[1:-2], strict=True)]
        rows_NM = _joined_rows(cuts, [axis.rows for axis in pattern])
    with without_autocast(q.device):
        plain = all(cut.plain for cut in cuts)
        if plain:
            q_BWHND, k_BWHMD, v_BWHMD = (_split(t, cuts) for t in (q, k, v))
        else:
            places_WN = _places([cut.queries for cut in cuts], q)
            own = all(cut.keys is cut.queries for cut in cuts)
            places_WM = places_WN if own else _places([cut.keys for cut in cuts], k)
            q_BWHND, k_BWHMD, v_BWHMD = _taken(q, places_WN), _taken(k, places_WM), _taken(v, places_WM)
        scores = (scale * q_BWHND) @ k_BWHMD.mT
        if not plain:
            seen_WM = _product([_inside(cut) for cut in cuts])
            if padding is not None:
                filled_WM = _product([_reached(cut) for cut in cuts]) & ~seen_WM
                filled = filled_WM[:, None, None, :]
                outside_BWHN1 = ((scale * q_BWHND) * padding[0][:, None]).sum(-1, keepdim=True)
                scores = torch.where(filled, outside_BWHN1, scores)
                v_BWHMD = torch.where(filled_WM[:, None, :, None], padding[1][:, None], v_BWHMD)
                seen_WM = seen_WM | filled_WM
            scores = scores.masked_fill(~seen_WM[:, None, None, :], _UNSEEN)
        if bias_table is not None:
            scores = scores + bias_table.to(scores.dtype)[rows_NM].movedim(-1, -3)
        weights = scores.softmax(-1) if activation == "softmax" else scores.sigmoid()
        found = weights.to(v.dtype) @ v_BWHMD
        out = _joined(found, cuts) if plain else _placed(found, cuts)
    return out.reshape(shape)


def _split(t: Tensor, cuts: Sequence[_Cut]) -> Tensor:
    """Cut (B, S, ..., H, D) into tiles that its positions fill in their order: (B, W, H, N, D)."""
    axes = len(cuts)
    for axis, cut in enumerate(cuts):
        t = torch.unflatten(t, 1 + 2 * axis, (-1, cut.queries.shape[1]))
    order = [0, *range(1, 1 + 2 * axes, 2), 1 + 2 * axes, *range(2, 2 + 2 * axes, 2), 2 + 2 * axes]
    return t.permute(order).flatten(2 + axes, 1 + 2 * axes).flatten(1, axes)


def _joined(out_BWHND: Tensor, cuts: Sequence[_Cut]) -> Tensor:
    """Undo ``_split``."""
    axes = len(cuts)
    out = torch.unflatten(out_BWHND, 1, [cut.queries.shape[0] for cut in cuts])
    out = torch.unflatten(out, 2 + axes, [cut.queries.shape[1] for cut in cuts])
    heads = 1 + axes
    order = [0, *(at for axis in range(axes) for at in (1 + axis, heads + 1 + axis)), heads, 2 + 2 * axes]
    out = out.permute(order)
    for axis in range(axes):
        out = out.flatten(1 + axis, 2 + axis)
    return out


def _places(positions: Sequence[Tensor], t: Tensor) -> Tensor:
    """Number the positions (T, n) of all axes in (B, S, ..., H, D), the nearest one where they lie outside: (W, N)."""
    whole = None
    for place, size in zip(positions, t.shape[1:-2], strict=True):
        inside = place.clamp(min=0, max=size - 1)
        whole = inside if whole is None else _crossed(whole * size, inside)
    assert whole is not None
    return whole


def _taken(t: Tensor, places_WN: Tensor) -> Tensor:
    """Gather (B, S, ..., H, D) by number: (B, W, H, N, D)."""
    return t.flatten(1, -3)[:, places_WN].transpose(2, 3)


def _placed(out_BWHND: Tensor, cuts: Sequence[_Cut]) -> Tensor:
    """Put what the tiles' queries found where they stand: (B, S of all axes, H, D)."""
    tile = inner = None
    for cut in cuts:
        tiles, count = cut.queries.shape
        t, i = cut.found // count, cut.found % count
        tile = t if tile is None else (tile[:, None] * tiles + t).flatten()
        inner = i if inner is None else (inner[:, None] * count + i).flatten()
    assert tile is not None
    assert inner is not None
    rows_BLHD = out_BWHND.transpose(2, 3).flatten(1, 2)
    return rows_BLHD.index_select(1, tile * out_BWHND.shape[3] + inner)


def _crossed(whole: Tensor, part: Tensor) -> Tensor:
    """Add each number (T, n) of an axis to each (W, N) of those before it: (W * T, N * n)."""
    return (whole[:, None, :, None] + part[None, :, None, :]).flatten(2).flatten(0, 1)


def _product(parts: Sequence[Tensor]) -> Tensor:
    """Join masks (T, m) of the axes: (W, M), true where all are."""
    whole = parts[0]
    for part in parts[1:]:
        whole = (whole[:, None, :, None] & part[None, :, None, :]).flatten(2).flatten(0, 1)
    return whole


def _inside(cut: _Cut) -> Tensor:
    return (cut.keys >= 0) & (cut.keys < cut.size)


def _reached(cut: _Cut) -> Tensor:
    return (cut.keys >= cut.low) & (cut.keys < cut.high)


def _joined_rows(cuts: Sequence[_Cut], counts: Sequence[int]) -> Tensor:
    """Rows of the whole bias table, row-major over the axes: (N, M), or (W, N, M) where an axis' rows differ by tile."""
    rows = cuts[0].rows
    for cut, count in zip(cuts[1:], counts[1:], strict=True):
        own = cut.rows
        rows = rows[:, None, :, None, :, None] * count + own[None, :, None, :, None, :]
        rows = rows.flatten(4, 5).flatten(2, 3).flatten(0, 1)
    return rows[0] if all(cut.rows.shape[0] == 1 for cut in cuts) else rows


def _cut(rule: Window | Grid | Neighborhood | FlatWindows, size: int, device: torch.device) -> _Cut:
    if isinstance(rule, Window):
        return _windows(rule, size, device)
    if isinstance(rule, Grid):
        return _grid(rule, size, device)
    assert isinstance(rule, Neighborhood)
    return _neighborhood(rule, size, device)


def _range(stop: int, device: torch.device, start: int = 0) -> Tensor:
    return torch.arange(start, stop, device=device)


def _windows(rule: Window, size: int, device: torch.device) -> _Cut:
    w, d, o = rule.size, rule.dilation, rule.overlap
    run = w * d
    runs = _runs(size, run, rule.shift > 0)
    front = run - rule.shift if rule.shift else 0
    starts_T1 = (_range(runs, device)[:, None] * run - front + _range(d, device)).flatten()[:, None]
    i_n, i_m = _range(w, device), _range(w + o, device, -o)
    x_S = _range(size, device) + front
    found_S = ((x_S // run) * d + x_S % d) * w + x_S % run // d
    low, high = (torch.full((1,), n, device=device) for n in (-o, runs * run - (run if rule.shift else 0) + o))
    plain = not rule.shift and d == 1 and o == 0 and _known_multiple(size, w)
    queries = starts_T1 + i_n * d
    keys = queries if o == 0 else starts_T1 + i_m * d
    return _Cut(queries, keys, found_S, (i_n[:, None] - i_m + w + o - 1)[None], low, high, size, plain=plain)


def _runs(size: int, run: int, shifted: bool) -> int:
    """Return how many runs cover an axis, one more if they are shifted.

    In one division: a product of sums, as the number of tiles of several axes would be else, is multiplied out whenever sizes are
    compared.
    """
    return (size + run * (2 if shifted else 1) - 1) // run


def _known_multiple(size: int, of: int) -> bool:
    """Whether a size is known to be a multiple, whatever the image."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(size % of == 0)


def _grid(rule: Grid, size: int, device: torch.device) -> _Cut:
    stride = (size + rule.size - 1) // rule.size
    i_n = _range(rule.size, device)
    places = _range(stride, device)[:, None] + i_n * stride
    x_S = _range(size, device)
    low, high = (torch.full((1,), n, device=device) for n in (0, stride * rule.size))
    found = x_S % stride * rule.size + x_S // stride
    return _Cut(places, places, found, (i_n[:, None] - i_n + rule.size - 1)[None], low, high, size)


def _neighborhood(rule: Neighborhood, size: int, device: torch.device) -> _Cut:
    kernel, d = rule.kernel, rule.dilation
    x_S = _range(size, device)
    residue, i = x_S % d, x_S // d
    if rule.causal:
        first = i - kernel + 1
    else:
        length = (size - residue + d - 1) // d
        first = torch.minimum((i - kernel // 2).clamp(min=0), length - kernel)
    j_Sm = first[:, None] + _range(kernel, device)
    # Of a causal axis, what lies before the first position is negative whatever the residue.
    keys = torch.where(j_Sm < 0, -1, residue[:, None] + j_Sm * d)
    none = torch.zeros(1, dtype=torch.long, device=device)
    return _Cut(x_S[:, None], keys, x_S, (j_Sm - i[:, None] + kernel - 1)[:, None], none, none, size)


def _flat(rule: FlatWindows, device: torch.device) -> tuple[list[_Cut], Tensor]:
    """Cut the axes of an image by the windows of ``FlatWindows``; rows (N, M) of its table.

    A side that is cut to the image stays as long in the program, its end lies outside, and the places in the window are counted
    by the side that it has.
    """
    cuts, sides = [], []
    for size, w, shift in zip(rule.size, rule.window, rule.shift, strict=True):
        n = torch.full((1,), size, device=device)
        whole = n > w
        front = torch.where(whole, (w - shift) % w, 0)
        runs = _runs(size, w, shift > 0)
        places = _range(runs, device)[:, None] * w - front + _range(w, device)
        x_S = _range(size, device)
        # A side that is cut to the image has no outside.
        high = torch.where(whole, (n + w - 1) // w * w, n)
        cuts.append(_Cut(places, places, x_S + front, places[None], torch.zeros_like(n), high, size))
        sides.append(n.clamp(max=w))
    strides = [math.prod(2 * w - 1 for w in rule.window[axis + 1 :]) for axis in range(len(rule.window))]
    number = torch.zeros(1, dtype=torch.long, device=device)
    for w, side in zip(rule.window, sides, strict=True):
        number = (number[:, None] * side + _range(w, device)).flatten()
    place = torch.zeros_like(number)
    for w, stride in zip(reversed(rule.window), reversed(strides), strict=True):
        place, number = place + number % w * stride, number // w
    rows = place[:, None] - place + rule.rows // 2
    return cuts, rows.clamp(min=0, max=rule.rows - 1)  # of tokens outside of cut windows, which nobody sees
