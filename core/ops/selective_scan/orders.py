"""Routes through an image or a volume: in which order a scan visits the positions.

A route is named by the axes it walks, the slowest first, such as "zyx" for a volume in memory order and "xyz" for its transpose;
"_reverse" walks it backwards. Axes are (x), (y, x) and (z, y, x). In two dimensions "raster" is "yx" and "column" is "xy", in
every dimension "raster" is memory order.
"""

import math
from itertools import permutations

import torch
from torch import Tensor

AXES = "zyx"
CROSS_2D = ("raster", "column", "raster_reverse", "column_reverse")
CROSS_3D = ("zyx", "yxz", "xzy", "zyx_reverse", "yxz_reverse", "xzy_reverse")


def _walks(dims: int) -> dict[str, tuple[int, ...]]:
    """Every forward route: its name, and the axes in the order of walking."""
    axes = AXES[-dims:]
    walks = {"".join(axes[axis] for axis in order): order for order in permutations(range(dims))}
    walks["raster"] = tuple(range(dims))
    if dims == 2:
        walks["column"] = (1, 0)
    return walks


def scan_orders(size: tuple[int, ...], routes: tuple[str, ...]) -> Tensor:
    """List the positions that each route visits, in a row-major flattened image.

    Args:
        size: of the one, two or three axes.
        routes: names of axes in the order of walking, the last one fastest, with "_reverse" for the way back: "yx", also called
            "raster", and "xy", also called "column", of an image; "zyx" and its five permutations of a volume. "reverse" is
            "raster_reverse". ``CROSS_2D`` are the four of VMamba (Liu et al. 2024, section 4.2) in the order of its code;
            ``CROSS_3D`` are the three cyclic permutations of a volume's axes, each in both directions.

    Returns:
        (routes, positions) int64 on the CPU, a permutation in every row.

    Raises:
        ValueError: if there are not one to three axes, an axis is empty, or a route is unknown.
    """
    if not 1 <= len(size) <= 3 or min(size) < 1:
        raise ValueError(f"scan_orders: size is {size}, allowed are one to three axes of at least one position")
    walks = _walks(len(size))
    image = torch.arange(math.prod(size)).view(size)
    rows = []
    for route in routes:
        name = "raster_reverse" if route == "reverse" else route
        forward = name.removesuffix("_reverse")
        if forward not in walks:
            known = ", ".join((*walks, "reverse"))
            raise ValueError(f"scan_orders: route is {route!r}, allowed for {len(size)} axes are {known}, each with _reverse")
        row = image.permute(walks[forward]).flatten()
        rows.append(row.flip(0) if name.endswith("_reverse") else row)
    if not rows:
        raise ValueError("scan_orders: routes is empty, allowed is at least one name")
    return torch.stack(rows)
