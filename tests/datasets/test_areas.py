import pickle

import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.warp import transform
from shapely import MultiPolygon, Point, Polygon, box

from geovit.datasets.areas import AreaMask, window_of
from geovit.datasets.grid import Grid

GRID = Grid(1300, 1500, CRS.from_epsg(32633), Affine(10, 0, 400_000, 0, -10, 5_800_000))


def write(path, geometries, crs="EPSG:32633"):
    wkb = shapely.to_wkb(np.asarray(geometries, dtype=object))
    pyogrio.raw.write(path, wkb, [np.arange(len(wkb))], np.array(["n"]), [None], crs=crs, geometry_type="Unknown")
    return str(path)


def on_map(polygon, grid=GRID):
    return shapely.transform(polygon, lambda xy: grid.to_map(*xy.T).T)


def star(row, column, radius, points=17):
    turns = np.linspace(0, 2 * np.pi, 2 * points, endpoint=False)
    reach = np.where(np.arange(2 * points) % 2, radius / 3, radius)
    return Polygon(np.column_stack([column + reach * np.cos(turns), row + reach * np.sin(turns)]))


@pytest.fixture
def polygons():
    holed = box(300, 200, 900.5, 700.5) - star(400, 600, 90)
    return [holed, star(900, 1000, 400), MultiPolygon([box(5, 5, 9, 9), box(5, 1290, 300, 1400)]), star(520, 512, 3)]


def whole(mask):
    return mask.read(0, 0, *mask.grid.shape)


def test_a_pixel_is_inside_if_its_centre_is(tmp_path, polygons):
    mask = whole(AreaMask.of(write(tmp_path / "m.gpkg", [on_map(p) for p in polygons]), GRID))
    expected = rasterize(polygons, out_shape=GRID.shape)
    np.testing.assert_array_equal(mask, expected != 0)
    assert mask[450, 350]
    assert not mask[400, 600]
    assert mask[5, 5]
    assert not mask[5, 9]


@pytest.mark.parametrize("name", ["m.gpkg", "m.geojson"])
def test_a_window_is_a_crop_of_the_whole(tmp_path, polygons, name):
    placed, crs = [on_map(p) for p in polygons], "EPSG:32633"
    # Edges of slope 1/3 that run exactly through centres of pixels, where rounding would tell windows apart.
    placed.append(on_map(Polygon([(3.5, 800.5), (1203.5, 1200.5), (3.5, 1200.5)])))
    if name.endswith("json"):
        placed = [shapely.transform(p, lambda xy: np.column_stack(transform(GRID.crs, "EPSG:4326", *xy.T))) for p in placed]
        crs = "EPSG:4326"
    mask = AreaMask.of(write(tmp_path / name, placed, crs), GRID)
    all_of_it = whole(mask)
    assert 0.2 < all_of_it.mean() < 0.8
    rng = np.random.default_rng(0)
    for _ in range(25):
        row, column = int(rng.integers(0, 1200)), int(rng.integers(0, 1400))
        height, width = int(rng.integers(1, 1300 - row + 1)), int(rng.integers(1, 1500 - column + 1))
        part = mask.read(row, column, height, width)
        np.testing.assert_array_equal(part, all_of_it[row : row + height, column : column + width])
    assert not mask.read(-40, -30, 40, 60).any()


def test_another_process_gets_the_same(tmp_path, polygons):
    mask = AreaMask.of(write(tmp_path / "m.gpkg", [on_map(p) for p in polygons]), GRID)
    before = whole(mask)
    np.testing.assert_array_equal(whole(pickle.loads(pickle.dumps(mask))), before)


def test_long_edges_in_degrees_are_bent_as_the_map_demands(tmp_path):
    # A box of half a degree: its northern edge, a parallel, is a curve in UTM that leaves its chord by many pixels.
    grid = Grid(800, 3000, GRID.crs, Affine(10, 0, 470_000, 0, -10, 5_765_000))
    mask = AreaMask.of(write(tmp_path / "m.geojson", [box(14.6, 51.0, 15.4, 52.0)], "EPSG:4326"), grid)
    rows, columns = np.mgrid[0:800:7, 0:3000:7]
    xs, ys = grid.to_map(columns.ravel() + 0.5, rows.ravel() + 0.5)
    lon, lat = map(np.asarray, transform(grid.crs, "EPSG:4326", xs, ys))
    expected = ((lon > 14.6) & (lon < 15.4) & (lat < 52)).reshape(rows.shape)
    disagree = whole(mask)[::7, ::7] != expected
    assert 0.1 < expected.mean() < 0.99
    assert disagree.sum() <= 20  # a tenth of a pixel off along the edge
    chord = rasterize([shapely.transform(box(14.6, 51.0, 15.4, 52.0), lambda xy: np.column_stack(
        transform("EPSG:4326", grid.crs, *xy.T)))], out_shape=grid.shape, transform=grid.transform)  # fmt: skip
    assert (whole(mask) != chord).sum() > 10_000


def test_polygons_that_reach_round_the_world_are_cut_to_the_scene(tmp_path):
    mask = AreaMask.of(write(tmp_path / "m.geojson", [box(-180, -89, 180, 89)], "EPSG:4326"), GRID)
    assert whole(mask).all()


def test_a_polygon_that_crosses_itself_is_mended(tmp_path):
    bow = Polygon([(100, 100), (300, 300), (300, 100), (100, 300)])
    mask = whole(AreaMask.of(write(tmp_path / "m.gpkg", [on_map(bow)]), GRID))
    assert mask[200, 110]
    assert mask[200, 290]
    assert not mask[110, 200]
    assert not mask[290, 200]


def test_only_the_polygons_around_the_scene_are_kept(tmp_path):
    away = [box(x, 0, x + 5, 5) for x in range(20_000, 30_000, 10)]
    mask = AreaMask.of(write(tmp_path / "m.gpkg", [on_map(p) for p in [*away, box(0, 0, 9, 9)]]), GRID)
    assert len(mask.polygons) == 1


@pytest.mark.parametrize(
    ("geometries", "crs", "message"),
    [
        ([box(0, 0, 5, 5)], "EPSG:32633", "no polygon on the scene"),
        ([Point(*GRID.to_map(5, 5))], "EPSG:32633", "Point geometries, expected polygons"),
        ([on_map(box(0, 0, 5, 5))], None, "known for the scene, not for the polygons"),
    ],
)
def test_what_is_no_mask_is_said_in_one_line(tmp_path, geometries, crs, message):
    with pytest.warns(UserWarning, match="crs") if crs is None else _nothing():
        path = write(tmp_path / "m.gpkg", geometries, crs)
    with pytest.raises(ValueError, match=message) as caught:
        AreaMask.of(path, GRID)
    assert "\n" not in str(caught.value)


def _nothing():
    from contextlib import nullcontext

    return nullcontext()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"m\.gpkg: no such file"):
        AreaMask.of(str(tmp_path / "m.gpkg"), GRID)


def test_bounds_are_the_pixels_that_they_touch():
    assert window_of(GRID, (400_000, 5_787_000, 415_000, 5_800_000)) == (0, 0, 1300, 1500)
    assert window_of(GRID, (400_020, 5_799_900, 400_050, 5_799_970)) == (3, 2, 7, 3)
    assert window_of(GRID, "400019.9,5799899.9,400050.1,5799970.1") == (2, 1, 9, 5)
    assert window_of(GRID, (399_000, 5_799_995, 400_001, 5_900_000)) == (0, 0, 1, 1)


def test_bounds_on_a_turned_grid_hold_the_whole_box():
    turned = Grid(100, 100, GRID.crs, Affine(8.66, -5, 0, -5, -8.66, 0))
    row, column, height, width = window_of(turned, (300, -500, 400, -400))
    corners = turned.to_pixel([300, 300, 400, 400], [-500, -400, -500, -400])
    assert column == np.floor(corners[0].min())
    assert column + width == np.ceil(corners[0].max())
    assert row == np.floor(corners[1].min())
    assert row + height == np.ceil(corners[1].max())


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ((0, 0, 5, 5), "bounds: no overlap of box in .* with the scene.*look like degrees"),
        ((5, 0, 0, 5), "expected left,bottom,right,top with left < right"),
        ("1,2,3", "four numbers left,bottom,right,top"),
        ("a,2,3,4", "four numbers left,bottom,right,top"),
        ((0, 0, float("inf"), 5), "expected left,bottom"),
        ((400_000, 5_800_000, 400_010, 5_800_050), "no pixel of the scene lies there"),
    ],
)
def test_bounds_that_are_none_are_refused(bounds, message):
    with pytest.raises(ValueError, match=message):
        window_of(GRID, bounds)
