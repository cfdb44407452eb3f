"""Areas of pixels: of the map where it is projected, of the ellipsoid where it is not."""

import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import Geod, Transformer
from rasterio.crs import CRS

from geovit.datasets import Grid
from geovit.datasets.hectares import row_hectares


def test_projected_pixels_have_the_area_of_the_map():
    assert row_hectares(Grid(3, 2, CRS.from_epsg(32633), Affine(10, 0, 4e5, 0, -10, 6e6))).tolist() == [0.01] * 3
    turned = Affine(17.320508, 5, 4e5, 10, -8.660254, 6e6)  # 20 by 10 metres, turned by 30 degrees
    assert row_hectares(Grid(2, 2, CRS.from_epsg(32633), turned)) == pytest.approx([0.02] * 2)
    feet = row_hectares(Grid(1, 1, CRS.from_epsg(2263), Affine(100, 0, 0, 0, -100, 0)))  # US survey feet
    assert feet[0] == pytest.approx((100 * 1200 / 3937) ** 2 / 1e4)


def test_geographic_pixels_cover_the_ellipsoid():
    whole = row_hectares(Grid(1800, 3600, CRS.from_epsg(4326), Affine(0.1, 0, -180, 0, -0.1, 90)))
    assert whole.sum() * 3600 * 1e4 == pytest.approx(510_065_621_724_088, rel=1e-12)  # square metres of WGS 84
    assert (np.diff(whole[:900]) > 0).all()
    assert whole == pytest.approx(whole[::-1])


def test_a_geographic_pixel_is_what_geodesics_bound():
    row = row_hectares(Grid(1, 1, CRS.from_epsg(4326), Affine(0.01, 0, 13, 0, -0.01, 52.4)))
    box = shapely.segmentize(shapely.box(13, 52.39, 13.01, 52.4), 1e-4)
    assert row[0] * 1e4 == pytest.approx(Geod(ellps="WGS84").geometry_area_perimeter(box)[0], rel=1e-7)


def test_a_turned_geographic_grid_is_nearly_that_of_its_rows():
    straight = row_hectares(Grid(5, 5, CRS.from_epsg(4326), Affine(0.01, 0, 13, 0, -0.01, 52.4)))
    turned = row_hectares(Grid(5, 5, CRS.from_epsg(4326), Affine(0.0099939, 0.000349, 13, 0.000349, -0.0099939, 52.4)))
    assert turned == pytest.approx(straight, rel=1e-3)


def test_a_sphere_and_unknown_units():
    sphere = CRS.from_proj4("+proj=longlat +R=6371000 +no_defs")
    whole = row_hectares(Grid(180, 360, sphere, Affine(1, 0, -180, 0, -1, 90)))
    assert whole.sum() * 360 * 1e4 == pytest.approx(4 * np.pi * 6371000**2)
    assert row_hectares(Grid(3, 3, None, Affine.identity())) is None


def test_pixels_of_mercator_maps_have_the_area_of_the_ground():
    for code in (3857, 3395):  # of a sphere, and of the ellipsoid
        grid = Grid(2000, 300, CRS.from_epsg(code), Affine(10, 0, 1.5e6, 0, -10, 6.9e6))
        rows = row_hectares(grid)
        for row in (0, 1999):
            corners = np.array([[0, row], [1, row], [1, row + 1], [0, row + 1]])
            xs, ys = Transformer.from_crs(code, 4326, always_xy=True).transform(*grid.to_map(*corners.T))
            ground = abs(Geod(ellps="WGS84").polygon_area_perimeter(xs, ys)[0])
            assert rows[row] * 1e4 == pytest.approx(ground, rel=1e-5)
        assert rows[0] < 0.01 * 0.4  # at 52 degrees, where the map shows more than twice the ground


def test_projections_that_distort_along_rows_have_no_areas_and_those_that_do_not_keep_the_map_s():
    def of(code, left, top, step=1000):
        return row_hectares(Grid(400, 500, CRS.from_epsg(code), Affine(step, 0, left, 0, -step, top)))

    assert of(3031, 2e6, 3e6) is None  # polar stereographic, 3000 km off the pole
    assert of(3035, 4e6, 3e6) == pytest.approx(100)  # equal-area
    assert of(2154, 6e5, 6.8e6) == pytest.approx(100)  # conformal, within its country
