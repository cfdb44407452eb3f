from dataclasses import replace

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS


def moved(grid, pixels):
    t = grid.transform
    return replace(grid, transform=Affine(t.a, t.b, t.c + pixels * t.a, t.d, t.e, t.f))


@pytest.mark.parametrize(("pixels", "same"), [(1e-9, True), (1e-3, False), (1, False)])
def test_rounding_matches_and_a_shift_does_not(grid, pixels, same):
    assert grid.matches(moved(grid, pixels)) is same


def test_another_crs_or_shape_does_not_match(grid):
    assert not grid.matches(replace(grid, crs=CRS.from_epsg(32632)))
    assert not grid.matches(replace(grid, crs=None))
    assert not grid.matches(replace(grid, height=23))


def test_a_grid_without_georeference_matches_its_shape(grid):
    bare = replace(grid, crs=None, transform=Affine.identity())
    assert grid.matches(bare)
    assert bare.matches(grid)
    assert not bare.matches(replace(grid, width=29))


def test_a_part_of_a_rotated_grid_keeps_its_place(grid):
    rotated = replace(grid, transform=Affine(3.0, 1.0, 100.0, 0.5, -2.0, 50.0))
    np.testing.assert_allclose(rotated.part(4, 5, 3, 2).to_map(1, 1), rotated.to_map(5, 6))
    np.testing.assert_allclose(rotated.to_pixel(*rotated.to_map([1.5, 7], [2, 3.25])), [[1.5, 7], [2, 3.25]])
