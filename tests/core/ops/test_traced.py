"""The forms of ops that exported programs are made of compute what the ops do, whatever the size of the image."""

import math

import pytest
import torch

from geovit.core.ops.local_attention import FlatWindows, Grid, Neighborhood, Window, local_attention, traced

PATTERNS = {
    "whole windows": ((8, 12), (Window(4), Window(4)), 49),
    "shifted windows": ((9, 13), (Window(4, 2), Window(4, 3)), 49),
    "shifted on one axis": ((8, 13), (Window(4), Window(4, 2)), 49),
    "overlapping windows": ((8, 11), (Window(4, overlap=2), Window(4, overlap=2)), 121),
    "dilated windows": ((9, 13), (Window(3, 2, 2), Window(3, dilation=2)), 25),
    "volume": ((6, 9, 7), (Window(3, 1), Window(3, 2), Window(3)), 125),
    "grid": ((9, 13), (Grid(4), Grid(3)), 35),
    "neighborhood": ((9, 13), (Neighborhood(3), Neighborhood(5, 2)), 45),
    "cut windows": ((60,), (FlatWindows((5, 12), (7, 7), (3, 3)),), 169),
    "one cut window": ((15,), (FlatWindows((5, 3), (7, 7), (0, 0)),), 169),
}


@pytest.mark.parametrize("padded", [False, True], ids=["image", "padding"])
@pytest.mark.parametrize("name", PATTERNS)
def test_attention_is_the_same(name, padded):
    size, pattern, rows = PATTERNS[name]
    if padded and isinstance(pattern[0], Neighborhood):
        padded = False  # which have none
    heads, width = 2, 4
    q, k, v = torch.randn(3, 2, *size, heads, width)
    table = torch.randn(rows, heads)
    padding = (torch.randn(heads, width), torch.randn(heads, width)) if padded else None
    made = traced.local_attention(q, k, v, pattern, table, 1 / math.sqrt(width), padding, False, "softmax")
    expected = local_attention(q, k, v, pattern, bias_table=table, padding=padding, backend="reference")
    assert torch.allclose(made, expected, atol=2e-6)


def test_numbers_of_tiles_of_all_axes_are_one_product():
    # Sizes that a program holds as sums make products of several terms, which cost minutes to compare.
    class Known(torch.nn.Module):
        def forward(self, x):
            pattern = (Window(7, 3), Window(7, 3))
            return traced.local_attention(x, x, x, pattern, None, 1.0, None, False, "softmax")

    x = torch.randn(2, 32, 48, 2, 4)
    sizes = {1: 8 * torch.export.Dim("a", min=2, max=99), 2: 8 * torch.export.Dim("b", min=2, max=99)}
    program = torch.export.export(Known(), (x,), dynamic_shapes=(sizes,))
    values = [node.meta["val"] for node in program.graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)]
    sizes = [size for value in values for size in value.shape if isinstance(size, torch.SymInt)]
    assert sizes
    assert not [size for size in sizes if size.node.expr.is_Add]
    other = torch.randn(2, 16, 56, 2, 4)
    assert torch.allclose(program.module(check_guards=False)(other), Known()(other), atol=2e-6)
