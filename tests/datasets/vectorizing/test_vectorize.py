"""Polygons of class maps: the same as GDAL makes of the whole, however the map is cut, at memory that does not grow with it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.features import shapes

from geovit.datasets import ClassInfo
from geovit.datasets.vectorizing import vectorize
from geovit.datasets.vectorizing.scanning import Scan
from geovit.datasets.vectorizing.spill import spilling

UTM = CRS.from_epsg(32633)
AT = Affine(10, 0, 400_000, 0, -10, 5_800_000)
CLASSES = [ClassInfo(1, "water", (0, 0, 255)), ClassInfo(2, "Grünland", (0, 255, 0)), ClassInfo(3, "rock", (9, 9, 9))]


def polygons_of(values, rows, folder):
    """Class value and polygon, in pixel coordinates, of a map taken in strips."""
    found = []
    with spilling(folder) as spill:
        scan = Scan(values.shape[1], spill)
        strips = [values[row : row + rows] for row in range(0, len(values), rows)]
        for part in [*(scan.strip(strip, np.full(len(strip), 0.25)) for strip in strips), scan.end()]:
            assert (part.weights == part.pixels / 4).all()
            for i, value in enumerate(part.values.tolist()):
                rings = [part.points[part.rings[k] : part.rings[k + 1]] for k in range(part.polygons[i], part.polygons[i + 1])]
                polygon = shapely.Polygon(rings[0], rings[1:])
                assert polygon.area == part.pixels[i]
                found.append((value, polygon))
    return found


def normal(polygons):
    return sorted((value, shapely.normalize(polygon).wkt) for value, polygon in polygons)


def gdals(values):
    return [(int(v), shapely.geometry.shape(shape)) for shape, v in shapes(values, mask=values != 0, connectivity=4)]


def agree(values, rows, folder):
    values = values.astype(np.int32)
    found = polygons_of(values, rows, folder)
    assert all(polygon.is_valid for _, polygon in found)
    assert normal(found) == normal(gdals(values))


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 64])
def test_polygons_of_random_maps_are_gdals_however_they_are_cut(rows, tmp_path):
    random = np.random.default_rng(rows)
    for _ in range(60):
        height, width, classes = random.integers(1, 14), random.integers(1, 14), random.integers(2, 4)
        agree(random.integers(0, classes, (height, width)), rows, tmp_path)


@pytest.mark.parametrize("rows", [7, 32])
def test_larger_areas_with_holes_in_holes(rows, tmp_path):
    rings = np.hypot(*np.meshgrid(np.arange(-45, 45), np.arange(-40, 40)))
    agree((rings / 6).astype(int) % 2 + 1, rows, tmp_path)
    agree(np.random.default_rng(0).random((80, 90)) > 0.45, rows, tmp_path)  # just above where everything hangs together


def test_a_spiral_is_one_polygon(tmp_path):
    spiral = np.zeros((41, 41), np.int32)
    row, column, step = 20, 20, (0, 1)
    for length in range(2, 40, 2):
        for _ in range(2):
            for _ in range(length):
                spiral[row, column] = 1
                row, column = row + step[0], column + step[1]
            step = (step[1], -step[0])
    found = polygons_of(spiral, 3, tmp_path)
    assert len(found) == 1
    agree(spiral, 3, tmp_path)


def test_a_map_of_one_class_is_a_box_and_an_empty_map_has_no_polygon(tmp_path):
    ((value, box),) = polygons_of(np.full((9, 5), 7, np.int32), 2, tmp_path)
    assert value == 7
    assert box.equals_exact(shapely.box(0, 0, 5, 9), normalize=True)
    assert polygons_of(np.zeros((9, 5), np.int32), 2, tmp_path) == []


def write_map(path: Path, values, crs=UTM, transform=AT, nodata=0) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", height=len(values), width=len(values[0]), count=1, dtype="uint8", crs=crs, transform=transform,
        nodata=nodata, tiled=True, blockxsize=16, blockysize=16,
    ) as dst:  # fmt: skip
        dst.write(np.asarray(values, np.uint8), 1)
    return path


@pytest.fixture
def patchy():
    return np.random.default_rng(1).integers(0, 4, (50, 40)).repeat(2, 0).repeat(2, 1)


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet"])
def test_files_hold_the_map(suffix, patchy, tmp_path):
    source, out = write_map(tmp_path / "map.tif", patchy), tmp_path / f"map{suffix}"
    ticks = []
    count = vectorize(source, out, CLASSES, tick=lambda done, rows: ticks.append((done, rows)))
    assert ticks[-1] == (100, 100)
    table = read(out)
    assert count == len(table["value"])
    with rasterio.open(source) as src:
        expected = [
            (int(v), shapely.geometry.shape(s)) for s, v in shapes(patchy.astype(np.int32), patchy != 0, 4, src.transform)
        ]
    assert normal(zip(table["value"], table["geometry"], strict=True)) == normal(expected)
    areas = shapely.area(table["geometry"])
    assert np.allclose(np.asarray(table["hectares"], float) * 1e4, areas)
    assert np.bincount(table["value"], table["pixels"]).tolist() == [0, *np.bincount(patchy.ravel())[1:]]
    names = {1: "water", 2: "Grünland", 3: "rock"}
    assert [names[value] for value in table["value"]] == list(table["name"])
    assert set(table["color"]) == {"#0000ff", "#00ff00", "#090909"}
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("map.tif", out.name)] == []


def read(out):
    if out.suffix == ".parquet":
        table = pq.read_table(out).to_pydict()
        geometry = np.array(shapely.from_wkb(table["geometry"]))
        return {**table, "geometry": geometry}
    meta, _, wkb, columns = pyogrio.raw.read(out)
    return {**dict(zip(meta["fields"], columns, strict=True)), "geometry": shapely.from_wkb(wkb)}


def test_the_geopackage_knows_crs_layer_type_and_has_an_index(patchy, tmp_path):
    vectorize(write_map(tmp_path / "map.tif", patchy), tmp_path / "map.gpkg", CLASSES)
    info = pyogrio.read_info(tmp_path / "map.gpkg")
    assert (info["layer_name"], info["crs"], info["geometry_type"]) == ("classes", "EPSG:32633", "Polygon")
    assert info["capabilities"]["fast_spatial_filter"]


def test_geoparquet_metadata_are_those_of_1_1(patchy, tmp_path):
    vectorize(write_map(tmp_path / "map.tif", patchy), tmp_path / "map.parquet", CLASSES)
    geo = json.loads(pq.read_schema(tmp_path / "map.parquet").metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    column = geo["columns"]["geometry"]
    assert (column["encoding"], column["geometry_types"], column["edges"]) == ("WKB", ["Polygon"], "planar")
    assert column["bbox"] == [400_000, 5_799_000, 400_800, 5_800_000]
    assert CRS.from_user_input(json.dumps(column["crs"])) == UTM


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet"])
def test_without_a_crs_there_are_polygons_and_no_hectares(suffix, tmp_path):
    vectorize(write_map(tmp_path / "map.tif", [[1, 1], [2, 1]], crs=None), tmp_path / f"m{suffix}", CLASSES)
    table = read(tmp_path / f"m{suffix}")
    assert sorted(table["pixels"]) == [1, 3]
    assert all(value is None or np.isnan(value) for value in table["hectares"])


def test_geographic_maps_have_areas_on_the_ellipsoid(tmp_path):
    from pyproj import Geod

    source = write_map(tmp_path / "map.tif", [[1] * 6] * 8, crs=CRS.from_epsg(4326), transform=Affine(0.1, 0, 10, 0, -0.1, 60))
    vectorize(source, tmp_path / "m.parquet", CLASSES)
    (hectares,) = read(tmp_path / "m.parquet")["hectares"]
    # a geodesic between two points of a parallel leaves it: many points keep it there
    ring = shapely.segmentize(shapely.box(10, 59.2, 10.6, 60), 0.001)
    assert hectares == pytest.approx(abs(Geod(ellps="WGS84").geometry_area_perimeter(ring)[0]) / 1e4, rel=1e-7)


def test_another_nodata_value_is_no_polygon(tmp_path):
    vectorize(write_map(tmp_path / "map.tif", [[1, 3], [3, 2]], nodata=3), tmp_path / "m.parquet", CLASSES)
    assert sorted(read(tmp_path / "m.parquet")["value"]) == [1, 2]


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet"])
def test_values_that_are_no_class_are_refused_and_nothing_is_left(suffix, tmp_path):
    source = write_map(tmp_path / "map.tif", [[1, 2], [9, 1]])
    with pytest.raises(ValueError, match="value 9 is not among the classes 1, 2, 3"):
        vectorize(source, tmp_path / f"m{suffix}", CLASSES)
    assert [path.name for path in tmp_path.iterdir()] == ["map.tif"]


def test_other_endings_and_existing_files_are_refused(tmp_path):
    source = write_map(tmp_path / "map.tif", [[1, 2]])
    with pytest.raises(ValueError, match="m.shp: polygons are written as .gpkg or .parquet"):
        vectorize(source, tmp_path / "m.shp", CLASSES)
    (tmp_path / "m.gpkg").write_text("mine")
    with pytest.raises(FileExistsError, match="exists: pass --overwrite"):
        vectorize(source, tmp_path / "m.gpkg", CLASSES)
    assert (tmp_path / "m.gpkg").read_text() == "mine"
    vectorize(source, tmp_path / "m.gpkg", CLASSES, overwrite=True)
    assert len(read(tmp_path / "m.gpkg")["value"]) == 2


def test_the_bytes_of_a_geoparquet_file_repeat(patchy, tmp_path):
    source = write_map(tmp_path / "map.tif", patchy)
    for name in ("a", "b"):
        vectorize(source, tmp_path / f"{name}.parquet", CLASSES)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


_PEAK = """
import resource
import sys
from pathlib import Path
from geovit.datasets import ClassInfo
from geovit.datasets.vectorizing import vectorize
vectorize(Path(sys.argv[1]), Path(sys.argv[2]), [ClassInfo(1, "sea", (0, 0, 1)), ClassInfo(2, "islands", (0, 1, 0))])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
"""


def test_memory_does_not_grow_with_the_map(tmp_path):
    """Sea with islands: one polygon as large as the map, with a hole for each island, which cannot be written before the end."""
    peaks = []
    for rows in (1000, 4000):
        values = np.ones((rows, 1000), np.uint8)
        values[5::20, 5::20] = 2
        source = write_map(tmp_path / f"{rows}.tif", values)
        command = [sys.executable, "-c", _PEAK, str(source), str(tmp_path / f"{rows}.parquet")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        peaks.append(float(done.stdout))
        assert len(read(tmp_path / f"{rows}.parquet")["value"]) == rows * 1000 // 400 + 1
    assert peaks[1] - peaks[0] < 25  # megabytes; the sea has 40,000 corners, 30,000 more than before
