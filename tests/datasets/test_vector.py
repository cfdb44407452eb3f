import sys

import numpy as np
import pyogrio
import pytest
import shapely
from shapely import MultiPoint, MultiPolygon, Point, Polygon, box

from geovit.datasets import open_scene, read_labels


@pytest.fixture
def place(grid):
    """Build a box from pixel coordinates: left, top, right, bottom."""

    def make(left, top, right, bottom):
        (x0, x1), (y0, y1) = grid.to_map([left, right], [top, bottom])
        return box(x0, y1, x1, y0)

    return make


@pytest.fixture
def write(tmp_path):
    def save(geometries, *, name="l.gpkg", crs="EPSG:32633", layer=None, kind="Unknown", append=False, **fields):
        columns = [np.asarray(column) for column in fields.values()]
        masks = [np.array([value is None for value in column]) for column in fields.values()]
        pyogrio.raw.write(
            tmp_path / name, shapely.to_wkb(np.asarray(geometries, dtype=object)), columns, np.array(list(fields)), masks,
            crs=crs, layer=layer, geometry_type=kind, append=append,
        )  # fmt: skip
        return tmp_path / name

    return save


def values_of(labels):
    return np.array([0] + [info.value for info in labels.classes])[labels.index + 1]


@pytest.mark.parametrize("name", ["l.gpkg", "l.geojson", "l.shp"])
def test_polygons_label_the_pixels_whose_centre_they_hold(write, grid, place, name):
    polygons = [place(2, 3, 6.4, 5.6), MultiPolygon([place(10, 10, 12, 12), place(20, 10, 21, 11)])]
    if name.endswith(".geojson"):  # GeoJSON is in longitude and latitude: this is a reprojection as well
        polygons, crs = to_lonlat(polygons, grid), "EPSG:4326"
    else:
        crs = "EPSG:32633"
    labels = read_labels(
        write(polygons, name=name, crs=crs, kind="MultiPolygon" if name != "l.shp" else "Polygon", code=[12, 5]), grid
    )
    expected = np.zeros(grid.shape, int)
    expected[3:6, 2:6], expected[10:12, 10:12], expected[10, 20] = 12, 5, 5
    np.testing.assert_array_equal(values_of(labels), expected)


def to_lonlat(geometries, grid):
    from rasterio.warp import transform

    return [
        shapely.transform(geometry, lambda xy: np.column_stack(transform(grid.crs, "EPSG:4326", xy[:, 0], xy[:, 1])))
        for geometry in geometries
    ]


def test_points_label_their_pixel(write, grid):
    xs, ys = grid.to_map([0.01, 4.99, 29.9, 100], [0.01, 7.5, 23.9, 5])
    points = [MultiPoint([(xs[0], ys[0]), (xs[1], ys[1])]), Point(xs[2], ys[2]), Point(xs[3], ys[3])]
    labels = read_labels(write(points, code=[1, 2, 1]), grid)
    assert [tuple(at) for at in np.argwhere(labels.index >= 0)] == [(0, 0), (7, 4), (23, 29)]
    assert values_of(labels)[23, 29] == 2


def test_text_is_numbered_by_name_over_the_whole_file(write, grid, place, caplog):
    away = place(-20, -20, -10, -10)
    path = write([place(1, 1, 3, 3), place(5, 5, 7, 7), away, place(9, 9, 11, 11)], kind_=["wood", "soil", "asphalt", None])
    labels = read_labels(path, grid)
    assert [(info.value, info.name) for info in labels.classes] == [(2, "soil"), (3, "wood")]
    assert labels.counts().tolist() == [4, 4]
    assert "no pixel on the scene for asphalt" in caplog.text


def test_numbers_outside_the_range_are_renumbered_and_keep_their_names(write, grid, place, caplog):
    labels = read_labels(write([place(1, 1, 3, 3), place(5, 5, 7, 7)], code=[111000, 0]), grid)
    assert [(info.value, info.name) for info in labels.classes] == [(1, "0"), (2, "111000")]
    assert "renumbered" in caplog.text


def test_integers_stay_integers_beside_nulls(write, grid, place):
    path = write([place(1, 1, 3, 3), place(5, 5, 7, 7)], code=np.array([4.0, np.nan]))
    assert [info.value for info in read_labels(path, grid).classes] == [4]


def test_classes_that_overlap_leave_their_pixels_unlabelled(write, grid, place, caplog):
    x, y = grid.to_map(8.5, 8.5)
    path = write([place(1, 1, 5, 5), place(3, 1, 7, 5), place(3, 3, 5, 5), place(8, 8, 9, 9), Point(x, y)], code=[1, 2, 1, 3, 1])
    labels = read_labels(path, grid)
    expected = np.zeros(grid.shape, int)
    expected[1:5, 1:3], expected[1:5, 5:7] = 1, 2
    np.testing.assert_array_equal(values_of(labels), expected)
    assert "9 pixels claimed by several classes" in caplog.text


def test_a_small_polygon_labels_what_it_touches(write, grid, place, caplog):
    path = write([place(1, 1, 5, 5), place(10.1, 10.1, 10.3, 11.2), place(2, 2, 4, 4)], code=[1, 2, 1])
    labels = read_labels(path, grid)
    assert [tuple(at) for at in np.argwhere(values_of(labels) == 2)] == [(10, 10), (11, 10)]
    assert "1 polygons hold no pixel centre" in caplog.text  # not the third, which the first covers


def test_a_polygon_beside_the_scene_touches_nothing(write, grid, place):
    labels = read_labels(write([place(1, 1, 3, 3), place(-5, 1, 0.3, 3)], code=[1, 2]), grid)
    assert [info.value for info in labels.classes] == [1]


def test_a_layer_is_named_where_there_are_several(write, grid, place):
    path = write([place(1, 1, 3, 3)], layer="a", code=[1])
    write([place(5, 5, 7, 7)], layer="b", append=True, code=[2])
    with pytest.raises(ValueError, match=r"2 layers \['a', 'b'\]: name one, for example .*l\.gpkg:a"):
        read_labels(path, grid)
    assert [info.value for info in read_labels(f"{path}:b", grid).classes] == [2]
    with pytest.raises(ValueError, match="no layer 'c'"):
        read_labels(f"{path}:c", grid)


class TestFields:
    def test_the_only_plausible_field_is_taken(self, write, grid, place):
        path = write([place(1, 1, 3, 3)], area=np.array([1.5]), species=["oak"])
        assert read_labels(path, grid).classes[0].name == "oak"

    def test_several_need_a_choice(self, write, grid, place):
        path = write([place(1, 1, 3, 3)], code=[9], species=["oak"])
        with pytest.raises(
            ValueError, match=r"several fields could hold the class; name it with --field, the file has code, species"
        ):
            read_labels(path, grid)
        assert read_labels(path, grid, field="code").classes[0].value == 9

    def test_an_unknown_field_is_answered_with_the_fields(self, write, grid, place):
        with pytest.raises(ValueError, match="no field 'klass'; it has code, species"):
            read_labels(write([place(1, 1, 3, 3)], code=[9], species=["oak"]), grid, field="klass")

    def test_fractions_are_no_classes(self, write, grid, place):
        path = write([place(1, 1, 3, 3)], area=np.array([1.5]))
        with pytest.raises(ValueError, match="no field could hold the class"):
            read_labels(path, grid)
        with pytest.raises(ValueError, match="float64 values, expected integers or text"):
            read_labels(path, grid, field="area")


class TestBadInput:
    def test_lines(self, write, grid):
        with pytest.raises(ValueError, match="holds LineString geometries, expected polygons or points"):
            read_labels(write([shapely.LineString([(400000, 5800000), (400100, 5799900)])], code=[1]), grid)

    def test_elsewhere(self, write, grid, place):
        with pytest.raises(ValueError, match=r"no overlap of labels in \(401000, .* with the scene in \(400000"):
            read_labels(write([place(100, 1, 110, 5)], code=[1]), grid)

    def test_coordinates_that_the_scene_cannot_have(self, write, grid):
        with pytest.raises(ValueError, match=r"labels in EPSG:4326 cannot be placed in EPSG:32633|no overlap"):
            read_labels(write([box(100, 200, 110, 210)], crs="EPSG:4326", code=[1]), grid)

    def test_no_crs(self, write, grid, place, recwarn):
        path = write([place(1, 1, 3, 3)], name="l.shp", crs=None, kind="Polygon", code=[1])
        recwarn.clear()  # pyogrio's about writing without a CRS
        with pytest.raises(ValueError, match="reference system known for the scene, not for the labels"):
            read_labels(path, grid)

    def test_nothing_labelled(self, write, grid, place):
        with pytest.raises(ValueError, match="no geometry with a class"):
            read_labels(write([place(1, 1, 3, 3)], code=[None], species=["oak"]), grid, field="code")

    def test_not_a_vector_file(self, tmp_path, grid):
        (tmp_path / "x.gpkg").write_text("hello")
        with pytest.raises(ValueError, match=r"x\.gpkg: not a vector file"):
            read_labels(tmp_path / "x.gpkg", grid)

    def test_missing_library_is_named(self, write, grid, place, monkeypatch):
        path = write([place(1, 1, 3, 3)], code=[1])
        monkeypatch.setitem(sys.modules, "pyogrio", None)
        with pytest.raises(ImportError, match=r"pip install 'geovit\[hyperspectral\]'"):
            read_labels(path, grid)


def test_a_polygon_with_a_hole_leaves_the_hole(write, grid, place):
    outer, hole = place(1, 1, 8, 8), place(3, 3, 5, 5)
    labels = read_labels(write([Polygon(outer.exterior, [hole.exterior])], code=[1]), grid)
    assert labels.counts().tolist() == [49 - 4]


def test_landsat_polygons_burn_as_their_authors_raster(data_dir):
    folder = data_dir / "satellite/landsat7_opengeo"
    grid = open_scene(folder / "LE70220491999322EDC01_stack.gtif").grid
    burnt = read_labels(folder / "training_data.shp", grid, field="id")
    np.testing.assert_array_equal(burnt.index, read_labels(folder / "training_data.gtif", grid).index)
    names = [info.name for info in read_labels(folder / "training_data.shp", grid, field="class").classes]
    assert names == ["barren", "forest", "herbaceous", "urban", "water"]
    with pytest.raises(ValueError, match="the file has id, class"):
        read_labels(folder / "training_data.shp", grid)
