"""STAC items of results.

STAC 1.1.0 (github.com/radiantearth/stac-spec) with the extensions projection 2.0.0, classification 1.1.0, file 2.1.0 and machine
learning model (MLM) 1.5.2, all of github.com/stac-extensions.
"""

import json
import os
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..datasets import ClassInfo
from ..datasets.acquisition import acquisition_time
from ..datasets.footprint import footprint
from ..datasets.identity import SHA256, files_of, identify
from ..datasets.raster import band_facts
from .run_facts import RunFacts

_MLM = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
_PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
_CLASSIFICATION = "https://stac-extensions.github.io/classification/v1.1.0/schema.json"
_FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"

_MEDIA_TYPES = {
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".png": "image/png",
    ".json": "application/json",
    ".html": "text/html",
    ".gpkg": "application/geopackage+sqlite3",
    ".parquet": "application/vnd.apache.parquet",
}
# MLM, best practices, "Framework-specific Artifact Types"
_ARTIFACTS = {".safetensors": "safetensors.torch.save_file", ".pt2": "torch.export.save", ".onnx": "onnx", ".xml": "openvino"}
_MODELS = ("model", "adapters")  # kinds of results that are models


def write_stac_item(path: Path, facts: RunFacts) -> None:
    """Write NAME_item.json: a STAC item with the projection, classification and MLM extensions.

    Its time is that of the scene. Where the scene does not say, STAC wants an interval: from the year 1 to when the scene's file
    was changed last, which is true and tells as much as is known.

    Raises:
        ValueError: a result without a place.
        OSError: a file cannot be read any more, or the item cannot be written.
    """
    if facts.grid is None:
        raise ValueError(f"{path}: a STAC item needs a place on earth")
    place = footprint(facts.grid)
    first = next(iter(facts.results))
    extensions = [_PROJECTION, _FILE]
    properties: dict[str, Any] = _times(facts) | {"title": f"{first} of {Path(facts.inputs[0]).name} by geovit {facts.command}"}
    if facts.classes:
        extensions.append(_CLASSIFICATION)
    if facts.model is not None:
        extensions.append(_MLM)
        properties |= _model_properties(facts, facts.model)
    assets = {
        kind: _asset(kind, file, facts, _href(kind, file, facts, path))
        for kind, file in facts.results.items()
        if kind not in _MODELS
    }
    if facts.model is not None:
        assets["model"] = _model_asset("model", facts.model, facts, path)
    if "adapters" in facts.results:
        assets["adapters"] = _model_asset("adapters", facts.results["adapters"], facts, path)
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": extensions,
        "id": path.stem.removesuffix("_item"),
        "geometry": None if place is None else place.geometry,
        **({} if place is None else {"bbox": list(place.bbox)}),
        "properties": properties,
        "links": [],
        "assets": assets,
    }
    path.write_text(json.dumps(item, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _times(facts: RunFacts) -> dict[str, Any]:
    span = acquisition_time(str(facts.inputs[0]))
    if span is not None and span[0] == span[1]:
        return {"datetime": _rfc3339(span[0])}
    if span is not None:
        return {"datetime": None, "start_datetime": _rfc3339(span[0]), "end_datetime": _rfc3339(span[1])}
    changed = [Path(file).stat().st_mtime for file in files_of(str(facts.inputs[0]))]
    end = datetime.fromtimestamp(min(changed), timezone.utc) if changed else datetime.now(timezone.utc)
    return {
        "datetime": None,
        "start_datetime": "0001-01-01T00:00:00Z",
        "end_datetime": _rfc3339(end),
        "description": "The scene does not say when it was taken: some time before its file was written.",
    }


def _rfc3339(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds" if time.microsecond else "seconds").replace("+00:00", "Z")


def _href(kind: str, file: Path, facts: RunFacts, item: Path) -> str:
    """Where a file is to lie, as seen from the item."""
    if file in facts.results.values() and kind not in facts.elsewhere:
        return f"./{quote(file.name)}"
    file = facts.elsewhere.get(kind, file).resolve()
    try:
        return quote(Path(os.path.relpath(file, (facts.folder or item.parent).resolve())).as_posix())
    except ValueError:  # another drive of Windows
        return file.as_uri()


def _asset(kind: str, file: Path, facts: RunFacts, href: str) -> dict[str, Any]:
    """Describe a result; rasters lie on the grid."""
    raster = file.suffix == ".tif"
    role = "data" if raster or file.suffix in (".gpkg", ".parquet") else "overview" if file.suffix == ".png" else "metadata"
    asset: dict[str, Any] = {"href": href, "title": kind, "roles": [role]}
    if file.suffix in _MEDIA_TYPES:
        asset["type"] = _MEDIA_TYPES[file.suffix]
    if file.is_file():
        asset |= _checksum(file)
        if raster and (grid := facts.grid) is not None:
            t = grid.transform
            authority = None if grid.crs is None else grid.crs.to_authority()
            asset["proj:code"] = ":".join(authority) if authority else None
            if grid.crs is not None and authority is None:
                asset["proj:wkt2"] = grid.crs.to_wkt(version="WKT2_2019")
            asset |= {"proj:shape": list(grid.shape), "proj:transform": [t.a, t.b, t.c, t.d, t.e, t.f]}
            asset["bands"] = band_facts(file)
    if facts.classes and kind == next(iter(facts.results)):
        asset["classification:classes"] = _classes(facts.classes)
    return asset


def _checksum(file: Path) -> dict[str, Any]:
    """Size and digest of the file extension: a multihash, where 12 20 stand for the 32 bytes of SHA-256."""
    known = identify(file)
    return {"file:size": known.bytes} | ({"file:checksum": f"1220{known.digest}"} if known.method == SHA256 else {})


def _classes(classes: Sequence[ClassInfo]) -> list[dict[str, Any]]:
    return [
        {
            "value": info.value,
            "name": re.sub(r"[^A-Za-z0-9_-]+", "_", info.name).strip("_") or f"class_{info.value}",
            "description": info.name,
            "color_hint": info.hex[1:].upper(),
        }
        for info in classes
    ]


def _model_properties(facts: RunFacts, model: Path) -> dict[str, Any]:
    """Fields of the MLM extension, "Item Properties and Collection Fields"."""
    name = re.sub(r"[^A-Za-z0-9_.\s-]+", "-", model.stem).strip("._- ") or "model"
    shape = [-1, len(facts.bands) or -1, -1, -1]
    tasks = [] if facts.task is None else [facts.task]
    axis = "bands" if facts.bands else "channel"
    spoken: dict[str, Any] = {
        "mlm:name": f"geovit {name}",
        "mlm:architecture": facts.architecture or "unknown",
        "mlm:tasks": tasks,
        "mlm:framework": "PyTorch",
        "mlm:framework_version": metadata.version("torch"),
        "mlm:input": [
            {
                "name": "scene",
                "description": "Values as the scene has them: how they are scaled and normalised is in the model's file.",
                "bands": list(facts.bands),
                "input": {"shape": shape, "dim_order": ["batch", axis, "height", "width"], "data_type": "float32"},
                "value_scaling": None,
            }
        ],
        "mlm:output": [
            {
                "name": next(iter(facts.results)),
                "tasks": tasks,
                "result": {
                    "shape": [-1, len(facts.classes) or -1, -1, -1],
                    "dim_order": ["batch", "class" if facts.classes else "channel", "height", "width"],
                    "data_type": "float32",
                },
                "classification:classes": _classes(facts.classes),
            }
        ],
    }
    # The extension wants bands that inputs name to be described in the item.
    return spoken | ({"bands": [{"name": band} for band in facts.bands]} if facts.bands else {})


def _model_asset(kind: str, file: Path, facts: RunFacts, item: Path) -> dict[str, Any]:
    return {
        "href": _href(kind, file, facts, item),
        "type": "application/octet-stream",
        "title": "weights of the model",
        "roles": ["mlm:model", "mlm:weights"],
        "mlm:artifact_type": _ARTIFACTS.get(file.suffix, "torch.save"),
        **_checksum(file),
    }
