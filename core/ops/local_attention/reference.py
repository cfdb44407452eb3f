"""Local attention written out: every position looks at all, and a mask keeps those that its pattern gives it.

Shapes: B batch, S positions of the image, P positions of the image and around it, A axes, s and p positions of one axis, H heads,
D head width.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ...device import without_autocast
from .pattern import Axis, FlatWindows, Grid, Pattern, Window


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
    """See ``geovit.core.ops.local_attention``. Memory grows with the square of the number of positions."""
    size, dtype = q.shape[1:-2], torch.promote_types(q.dtype, torch.float32)
    reach = [(0, 0) if padding is None else _reach(axis, n) for axis, n in zip(pattern, size, strict=True)]
    if padding is not None:
        k, v = (_surround(t, reach, constant) for t, constant in zip((k, v), padding, strict=True))
    q_BSHD, k_BPHD, v_BPHD = (t.flatten(1, -3).to(dtype) for t in (q, k, v))
    if cosine:
        q_BSHD, k_BPHD = (F.normalize(t, dim=-1) for t in (q_BSHD, k_BPHD))
    if isinstance(scale, Tensor):
        q_BSHD, scale = q_BSHD * scale.to(dtype)[:, None], 1.0

    # On each axis: whether a pair attends, and its row of the axis' table. Both combine over the axes, row-major.
    seen_SP = torch.ones(1, 1, dtype=torch.bool, device=q.device)
    row_SP = torch.zeros(1, 1, dtype=torch.long, device=q.device)
    for axis, n, (before, after) in zip(pattern, size, reach, strict=True):
        query_s = torch.arange(n, device=q.device)
        key_p = torch.arange(-before, n + after, device=q.device)
        seen_sp, row_sp = _pairs(axis, n, query_s[:, None], key_p)
        seen_SP = (seen_SP[:, None, :, None] & seen_sp[:, None]).flatten(2).flatten(0, 1)
        row_SP = (row_SP[:, None, :, None] * axis.rows + row_sp[:, None]).flatten(2).flatten(0, 1)

    with without_autocast(q.device):  # which einsum would follow
        scores_BHSP = scale * torch.einsum("bshd,bphd->bhsp", q_BSHD, k_BPHD)
        if bias_table is not None:
            scores_BHSP = scores_BHSP + bias_table.to(dtype)[row_SP.masked_fill(~seen_SP, 0)].permute(2, 0, 1)
        scores_BHSP = scores_BHSP.masked_fill(~seen_SP, -math.inf)
        weights_BHSP = scores_BHSP.softmax(-1) if activation == "softmax" else scores_BHSP.sigmoid()
        out_BSHD = torch.einsum("bhsp,bphd->bshd", weights_BHSP, v_BPHD)
    return out_BSHD.to(q.dtype).reshape(q.shape)


def _reach(axis: Axis, size: int) -> tuple[int, int]:
    """Positions before and behind an axis of ``size`` that its rule reaches."""
    if isinstance(axis, Window):
        return axis.overlap, -size % (axis.size * axis.dilation) + axis.overlap
    if isinstance(axis, Grid):
        return 0, -(-size // axis.size) * axis.size - size
    if isinstance(axis, FlatWindows):
        return 0, len(_outside(axis))
    return 0, 0


def _surround(x: Tensor, reach: list[tuple[int, int]], constant: Tensor) -> Tensor:
    """Put constants (H, D) before and behind every axis of (B, *size, H, D)."""
    pad = [0, 0, 0, 0] + [n for pair in reversed(reach) for n in pair]
    inside = F.pad(torch.ones_like(x, dtype=torch.bool), pad)
    return torch.where(inside, F.pad(x, pad), constant.to(x.dtype))


def _pairs(axis: Axis, size: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Whether query x of an axis attends to key y, and the row of their bias."""
    if isinstance(axis, Window):
        run = axis.size * axis.dilation
        start = _floor(x - axis.shift, run) * run + axis.shift + (x - axis.shift) % axis.dilation
        place = y - start  # of the key, from the first position of the query's window
        low, high = -axis.overlap * axis.dilation, (axis.size + axis.overlap) * axis.dilation
        seen = (low <= place) & (place < high) & (place % axis.dilation == 0)
        return seen, _floor(x - y, axis.dilation) + axis.size + axis.overlap - 1
    if isinstance(axis, Grid):
        stride = -(-size // axis.size)
        return (x - y) % stride == 0, _floor(x - y, stride) + axis.size - 1
    if isinstance(axis, FlatWindows):
        return _flat_pairs(axis, x, y)
    d = axis.dilation
    same, i, j = (x - y) % d == 0, _floor(x, d), _floor(y, d)  # i and j count among the positions of equal residue
    length = _floor(size - x % d + d - 1, d)
    first = i - axis.kernel + 1 if axis.causal else torch.minimum((i - axis.kernel // 2).clamp(min=0), length - axis.kernel)
    last = i if axis.causal else first + axis.kernel - 1
    return same & (first <= j) & (j <= last), j - i + axis.kernel - 1


def _outside(axis: FlatWindows) -> Tensor:
    """Coordinates of what lies between the image and the next multiples of its windows: (positions, axes)."""
    up = torch.tensor([n + -n % side for n, side in zip(axis.size, axis.cut, strict=True)])
    point_PA = torch.cartesian_prod(*map(torch.arange, up)).reshape(-1, len(up))
    return point_PA[(point_PA >= torch.tensor(axis.size)).any(1)]


def _flat_pairs(axis: FlatWindows, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """As ``_pairs``; positions behind the image are those of ``_outside``."""
    inside_PA = torch.cartesian_prod(*map(torch.arange, axis.size)).reshape(-1, len(axis.size))
    point_PA = torch.cat([inside_PA, _outside(axis)]).to(x.device)
    cut, window = (torch.tensor(sides, device=x.device) for sides in (axis.cut, axis.window))
    shift = torch.tensor([s if n > w else 0 for n, w, s in zip(axis.size, axis.window, axis.shift, strict=True)], device=x.device)
    index_PA, place_PA = _floor(point_PA - shift, cut), (point_PA - shift) % cut
    flat_P = _row_major(place_PA, axis.cut)  # in the cut window; taken for a place of a whole one
    whole_PA = torch.stack([flat_P // math.prod(axis.window[a + 1 :]) % axis.window[a] for a in range(len(axis.window))], dim=1)
    row_A = whole_PA[x] - whole_PA[y] + window - 1
    return (index_PA[x] == index_PA[y]).all(-1), _row_major(row_A, tuple(2 * w - 1 for w in axis.window))


def _row_major(point: Tensor, size: tuple[int, ...]) -> Tensor:
    flat = torch.zeros_like(point[..., 0])
    for a, n in enumerate(size):
        flat = flat * n + point[..., a]
    return flat


def _floor(x: Tensor, divisor: int | Tensor) -> Tensor:
    return torch.div(x, divisor, rounding_mode="floor")
