"""Outlines on the globe, as GeoJSON has them (RFC 7946)."""

import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS

from geovit.datasets import Grid
from geovit.datasets.footprint import footprint


def polygon_of(place):
    polygon = shapely.geometry.shape(place.geometry)
    assert polygon.is_valid
    return polygon


def test_curved_edges_are_followed():
    grid = Grid(10_980, 10_980, CRS.from_epsg(32633), Affine(10, 0, 300_000, 0, -10, 6_000_000))
    place = footprint(grid)
    polygon = polygon_of(place)
    assert polygon.exterior.is_ccw
    assert place.bbox == pytest.approx(polygon.bounds, abs=1e-6)
    corners = shapely.Polygon([polygon.exterior.coords[i] for i in range(0, 129, 32)])
    beyond = polygon.symmetric_difference(corners).area / polygon.area
    assert 1e-4 < beyond < 1e-2  # what four corners alone would miss


def test_a_small_scene_is_four_corners():
    place = footprint(Grid(100, 100, CRS.from_epsg(32633), Affine(10, 0, 300_000, 0, -10, 6_000_000)))
    assert len(place.geometry["coordinates"][0]) == 5


def test_a_geographic_grid_is_its_box():
    place = footprint(Grid(10, 20, CRS.from_epsg(4326), Affine(0.5, 0, 5, 0, -0.5, 50)))
    assert place.bbox == pytest.approx((5, 45, 15, 50))
    assert polygon_of(place).equals(shapely.box(5, 45, 15, 50))


@pytest.mark.parametrize("left", [175.0, -185.0])
def test_across_the_antimeridian_there_are_two_parts(left):
    place = footprint(Grid(10, 20, CRS.from_epsg(4326), Affine(0.5, 0, left, 0, -0.5, 5)))
    polygon = polygon_of(place)
    assert place.bbox == pytest.approx((175, 0, -175, 5))  # west is larger than east
    assert polygon.geom_type == "MultiPolygon"
    assert sorted(part.bounds for part in polygon.geoms) == [(-180, 0, -175, 5), (175, 0, 180, 5)]


def test_a_utm_scene_across_the_antimeridian():
    place = footprint(Grid(100, 100, CRS.from_epsg(32701), Affine(1000, 0, 150_000, 0, -1000, 8_000_000)))
    west, _, east, _ = place.bbox
    assert 175 < west < 180
    assert -180 < east < -175
    assert polygon_of(place).area < 2


def test_around_a_pole():
    place = footprint(Grid(100, 100, CRS.from_epsg(3031), Affine(10_000, 0, -500_000, 0, -10_000, 500_000)))
    polygon = polygon_of(place)
    assert place.bbox[0::2] == (-180, 180)
    assert place.bbox[1] == -90
    assert polygon.contains(shapely.Point(100, -89))
    assert not polygon.contains(shapely.Point(100, -80))


def test_nothing_is_said_of_unknown_places():
    assert footprint(Grid(3, 3, None, Affine.identity())) is None
    assert footprint(Grid(3, 3, CRS.from_epsg(32633), Affine(1e9, 0, 0, 0, -1e9, 0))) is None
