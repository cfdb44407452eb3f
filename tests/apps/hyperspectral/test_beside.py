"""What lies beside a map: a run card that makes the same map again, a STAC item, and polygons."""

import json
import shutil

import numpy as np
import pyogrio
import pystac
import pytest
import rasterio
from affine import Affine

from geovit.apps.cli import main
from geovit.apps.hyperspectral.classification import classify
from geovit.datasets.grid import Grid
from geovit.datasets.hectares import row_hectares


@pytest.fixture(scope="module")
def done(files, tiny, tmp_path_factory):
    """A fitted map with polygons."""
    out = tmp_path_factory.mktemp("done")
    (out / "parts").mkdir()
    polygons = out / "parts" / "map.gpkg"
    return classify(str(files.scene), labels=str(files.labels), out=out, recipe=tiny, device="cpu", vectorize=polygons)


def card_of(done):
    return json.loads(done.files["run"].read_text())


def test_a_run_from_its_card_makes_the_same_bytes(done, tmp_path, capsys):
    assert main(["classify", "--from-card", str(done.files["run"]), "--out", str(tmp_path)]) == 0, capsys.readouterr().err
    assert (tmp_path / done.files["map"].name).read_bytes() == done.files["map"].read_bytes()
    before, after = card_of(done), json.loads((tmp_path / "scene_run.json").read_text())
    assert after["results"]["map"]["digest"] == before["results"]["map"]["digest"]
    assert after["parameters"]["recipe"] == before["parameters"]["recipe"]


def test_options_win_over_the_card(done, files, tmp_path, capsys):
    options = ["--from-card", str(done.files["run"]), f"--out={tmp_path}", "--labels=null", "--clusters=3"]
    assert main(["classify", *options]) == 0, capsys.readouterr().err
    card = json.loads((tmp_path / "scene_run.json").read_text())
    assert (card["parameters"]["labels"], card["parameters"]["clusters"], card["model"]) == (None, 3, None)


def test_a_changed_input_is_told_in_one_line_and_nothing_is_written(done, tmp_path, capsys):
    card = card_of(done)
    scene = tmp_path / "scene.tif"
    shutil.copy(card["parameters"]["scene"], scene)
    old = card["parameters"]["scene"]
    card["parameters"]["scene"], card["inputs"][str(scene)] = str(scene), card["inputs"].pop(old)
    (tmp_path / "run.json").write_text(json.dumps(card))
    with rasterio.open(scene, "r+") as dst:
        dst.update_tags(note="changed")
    (tmp_path / "out").mkdir()
    assert main(["classify", "--from-card", str(tmp_path / "run.json"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"geovit: {tmp_path / 'run.json'}: the run cannot be repeated: {scene}")
    assert said.count("\n") == 1
    assert not any((tmp_path / "out").iterdir())


def test_the_item_tells_all_that_was_written(done):
    item = pystac.Item.from_file(str(done.files["item"]))
    folder = done.files["map"].parent
    assert item.id == "scene"
    found = {kind: (folder / asset.href).resolve() for kind, asset in item.assets.items()}
    assert found == {kind: path.resolve() for kind, path in done.files.items() if kind != "item"}
    assert item.properties["mlm:architecture"] == "spectral_swin"
    assert len(item.properties["mlm:input"][0]["bands"]) == 23
    assert [c["value"] for c in item.assets["map"].extra_fields["classification:classes"]] == [1, 2, 3]


def test_the_card_tells_inputs_results_and_times(done, files):
    card = card_of(done)
    assert card["inputs"].keys() == {str(files.scene), str(files.labels)}
    assert card["results"].keys() == {"map", "model", "report", "polygons"}
    assert card["seconds"].keys() == {"fit", "map", "polygons", "all"}
    assert (card["model"], card["parameters"]["labels"]) == (None, str(files.labels))


def test_polygons_are_those_of_the_map(done):
    meta, _, _, columns = pyogrio.raw.read(done.files["polygons"])
    table = dict(zip(meta["fields"], columns, strict=True))
    rows = {row["value"]: row for row in done.report["classes"]}
    for value, row in rows.items():
        mine = table["value"] == value
        assert table["pixels"][mine].sum() == row["pixels"]
        assert table["hectares"][mine].sum() == pytest.approx(row["hectares"], abs=0.01)
        assert set(table["name"][mine]) <= {row["name"]}


def test_wrong_endings_are_refused_before_anything_is_done(files, tmp_path):
    with pytest.raises(ValueError, match="polygons are written as .gpkg or .parquet"):
        classify(str(files.scene), clusters=2, out=tmp_path / "out", vectorize=tmp_path / "map.shp")
    assert not any(tmp_path.iterdir())


def test_geographic_maps_have_hectares_by_row(files, tmp_path):
    geographic = tmp_path / "scene.tif"
    shutil.copy(files.scene, geographic)
    transform = Affine(0.01, 0, 10, 0, -0.01, 60)
    with rasterio.open(geographic, "r+") as dst:
        dst.crs, dst.transform = rasterio.crs.CRS.from_epsg(4326), transform
    found = classify(str(geographic), clusters=3, out=tmp_path / "out")
    with rasterio.open(found.files["map"]) as src:
        values = src.read(1)
    weights = row_hectares(Grid(*values.shape, rasterio.crs.CRS.from_epsg(4326), transform))[:, None] * np.ones(values.shape)
    for row in found.report["classes"]:
        assert row["hectares"] == pytest.approx(weights[values == row["value"]].sum(), abs=0.01)
