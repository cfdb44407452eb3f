"""Run cards and STAC items: what stands in them is true, valid, and enough to tell whether a run can be repeated."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from pystac.extensions.classification import ClassificationExtension
from pystac.extensions.mlm import MLMExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from rasterio.crs import CRS

from geovit.apps.cards import RunFacts, write_run_card, write_stac_item
from geovit.datasets import ClassInfo, Grid, write_class_map

GRID = Grid(8, 12, CRS.from_epsg(32633), Affine(10, 0, 400_000, 0, -10, 5_800_000))
CLASSES = (ClassInfo(1, "open water", (0, 114, 178)), ClassInfo(3, "Grünland / Wiese", (1, 2, 3)))


def facts_in(folder: Path, **changes) -> RunFacts:
    scene = folder / "scene.tif"
    with rasterio.open(
        scene, "w", driver="GTiff", height=8, width=12, count=2, dtype="uint8", crs=GRID.crs, transform=GRID.transform
    ) as dst:
        dst.write(np.ones((2, 8, 12), np.uint8))
        dst.update_tags(**changes.pop("tags", {}))
    values = np.where(np.arange(96).reshape(8, 12) % 2, 1, 3)
    write_class_map(folder / "scene_classes.tif", values, GRID, CLASSES)
    (folder / "other").mkdir()
    (folder / "other" / "my model!.safetensors").write_bytes(b"weights")
    (folder / "scene_report.json").write_text("{}")
    given = {
        "command": "classify",
        "parameters": {"scene": str(scene), "out": folder, "clusters": 8, "bounds": (1.0, 2.0, 3.0, 4.0), "labels": None},
        "inputs": [str(scene)],
        "model": folder / "other" / "my model!.safetensors",
        "results": {"map": folder / "scene_classes.tif", "report": folder / "scene_report.json"},
        "grid": GRID,
        "seconds": {"map": 1.234},
        "architecture": "spectral_swin",
        "task": "semantic-segmentation",
        "bands": ("500.1 nm", "600.2 nm"),
        "classes": CLASSES,
    }
    return RunFacts(**{**given, **changes})


def written(path: Path, write, facts: RunFacts) -> dict:
    write(path, facts)
    return json.loads(path.read_text(encoding="utf-8"))


def item_of(folder: Path, **changes) -> dict:
    return written(folder / "scene_item.json", write_stac_item, facts_in(folder, **changes))


def validate(item: dict) -> None:
    """By the schema of the core, which pystac brings along; those of extensions would have to be fetched."""
    uri = "https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/item.json"
    JsonSchemaSTACValidator()._validate_from_uri(item, pystac.STACObjectType.ITEM, uri)


def test_a_card_holds_hashes_parameters_versions_and_times(tmp_path):
    card = written(tmp_path / "scene_run.json", write_run_card, facts_in(tmp_path))
    assert card["command"] == "classify"
    assert card["parameters"]["bounds"] == [1.0, 2.0, 3.0, 4.0]
    assert card["parameters"]["out"] == str(tmp_path)
    for known, file in (
        (card["inputs"][str(tmp_path / "scene.tif")][0], "scene.tif"),
        (card["model"], "other/my model!.safetensors"),
        (card["results"]["map"], "scene_classes.tif"),
    ):
        assert known["digest"] == hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()
        assert known["method"] == "sha256"
        assert known["bytes"] == (tmp_path / file).stat().st_size
    assert card["results"]["map"]["path"] == "scene_classes.tif"
    assert {"geovit", "python", "torch", "gdal"} <= card["versions"].keys()
    assert card["seconds"] == {"map": 1.23}


def test_a_fitted_model_is_a_result_and_no_input(tmp_path):
    facts = facts_in(tmp_path)
    results = {**facts.results, "model": facts.model}
    (tmp_path / "fitted").mkdir()
    facts = facts_in(tmp_path / "fitted", model=facts.model, results=results)
    card = written(tmp_path / "run.json", write_run_card, facts)
    assert card["model"] is None
    assert card["results"]["model"]["bytes"] == 7
    item = written(tmp_path / "item.json", write_stac_item, facts)
    assert item["assets"]["model"]["href"] == "./my%20model%21.safetensors"


def test_parameters_that_json_cannot_hold_are_refused_by_type(tmp_path):
    facts = facts_in(tmp_path, parameters={"model": object()})
    with pytest.raises(ValueError, match="a parameter is a object"):
        write_run_card(tmp_path / "run.json", facts)


def test_an_item_is_valid_and_pystac_understands_it(tmp_path):
    item = item_of(tmp_path)
    validate(item)
    read = pystac.Item.from_dict(item)
    projection = ProjectionExtension.ext(read.assets["map"])
    assert (projection.code, projection.shape, projection.transform[:6]) == ("EPSG:32633", [8, 12], list(GRID.transform)[:6])
    classes = ClassificationExtension.ext(read.assets["map"]).classes
    assert [(c.value, c.name, c.description, c.color_hint) for c in classes] == [
        (1, "open_water", "open water", "0072B2"),
        (3, "Gr_nland_Wiese", "Grünland / Wiese", "010203"),
    ]
    assert read.assets["map"].media_type == pystac.MediaType.COG
    assert read.assets["map"].roles == ["data"]
    assert read.assets["report"].roles == ["metadata"]
    assert item["assets"]["map"]["bands"] == [{"name": "band 1", "data_type": "uint8", "nodata": 0.0}]
    digest = hashlib.sha256((tmp_path / "scene_classes.tif").read_bytes()).hexdigest()
    assert item["assets"]["map"]["file:checksum"] == "1220" + digest


def test_an_item_has_what_the_mlm_extension_requires(tmp_path):
    """Its README, "Item Properties", "Model Input Object", "Model Output Object" and "Model Asset"."""
    item = item_of(tmp_path)
    properties, model = item["properties"], item["assets"]["model"]
    # "mlm:name" must match ^[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]$, as the schema has it
    assert properties["mlm:name"] == "geovit my model"
    assert properties["mlm:tasks"] == ["semantic-segmentation"]
    assert (properties["mlm:architecture"], properties["mlm:framework"]) == ("spectral_swin", "PyTorch")
    (given,), (made,) = properties["mlm:input"], properties["mlm:output"]
    assert given["bands"] == [band["name"] for band in properties["bands"]] == ["500.1 nm", "600.2 nm"]
    assert given["input"] == {
        "shape": [-1, 2, -1, -1], "dim_order": ["batch", "bands", "height", "width"], "data_type": "float32",
    }  # fmt: skip
    assert made["tasks"] == properties["mlm:tasks"]
    assert made["result"]["shape"] == [-1, 2, -1, -1]
    assert [c["value"] for c in made["classification:classes"]] == [1, 3]
    assert "mlm:model" in model["roles"]
    assert model["mlm:artifact_type"] == "safetensors.torch.save_file"
    assert model["href"] == "other/my%20model%21.safetensors"
    assert not any("mlm:model" in asset["roles"] for name, asset in item["assets"].items() if name != "model")
    ext = MLMExtension.ext(pystac.Item.from_dict({**item, "stac_extensions": [MLMExtension.get_schema_uri()]}))
    assert ext.mlm_name == "geovit my model"


def test_without_a_model_nothing_is_said_of_one(tmp_path):
    item = item_of(tmp_path, model=None)
    validate(item)
    assert not any("mlm" in uri for uri in item["stac_extensions"])
    assert not any(key.startswith("mlm") for key in item["properties"])
    assert "model" not in item["assets"]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"TIFFTAG_DATETIME": "2021:06:30 10:11:12"}, "2021-06-30T10:11:12Z"),
        ({"acquisition_time": "2021-06-30T12:11:12.5+02:00"}, "2021-06-30T10:11:12.500Z"),
    ],
)
def test_the_time_is_the_scenes_where_it_says_so(tmp_path, tags, expected):
    item = item_of(tmp_path, tags=tags)
    validate(item)
    assert item["properties"]["datetime"] == expected


def test_a_span_or_a_day_becomes_an_interval(tmp_path):
    (tmp_path / "b").mkdir()
    span = item_of(tmp_path, tags={"PRODUCT_START_TIME": "2021-06-30T10:11:12Z", "PRODUCT_STOP_TIME": "2021-06-30T10:11:42Z"})
    assert (span["properties"]["start_datetime"], span["properties"]["end_datetime"]) == (
        "2021-06-30T10:11:12Z",
        "2021-06-30T10:11:42Z",
    )
    day = item_of(tmp_path / "b", tags={"acquisition_time": "2021-06-30"})
    assert (day["properties"]["datetime"], day["properties"]["end_datetime"]) == (None, "2021-06-30T23:59:59.999Z")
    validate(span)
    validate(day)


@pytest.mark.parametrize("tags", [{}, {"TIFFTAG_DATETIME": "0000:00:00 00:00:00"}, {"TIFFTAG_DATETIME": "yesterday"}])
def test_an_unknown_time_is_an_interval_that_holds_it(tmp_path, tags):
    facts = facts_in(tmp_path, tags=tags)
    os.utime(tmp_path / "scene.tif", (1_600_000_000, 1_600_000_000))
    item = written(tmp_path / "scene_item.json", write_stac_item, facts)
    validate(item)
    properties = item["properties"]
    assert (properties["datetime"], properties["start_datetime"]) == (None, "0001-01-01T00:00:00Z")
    assert properties["end_datetime"] == "2020-09-13T12:26:40Z"
    assert "does not say when" in properties["description"]


def test_an_item_without_georeference_has_no_geometry(tmp_path):
    item = item_of(tmp_path, grid=Grid(8, 12, None, Affine.identity()))
    validate(item)
    assert item["geometry"] is None
    assert "bbox" not in item
