"""What is written of a map, beside the map itself."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window
from rich.console import Group
from rich.table import Table

from ... import __version__
from ...core.streaming.plan import Area
from ...datasets import ClassInfo, Grid, Scene, check_writable, open_scene
from ...datasets.classes import map_colors, map_names, map_type
from ...datasets.growing import Layer
from ...datasets.hectares import row_hectares
from ...datasets.several import stem_of
from ...datasets.vectorizing import check_vectors
from ...datasets.writing import make_folder
from ..forecasting import Forecast
from .quicklook import natural_colours, preview_shape, write_quicklook
from .working import MAP, PROBABILITIES

POLYGONS = "polygons"
PROBABILITY_BANDS = ("largest class probability, calibrated", "entropy, 0 sure to 1 undecided")

logger = logging.getLogger(__name__)

_ENDINGS = {
    "map": "_classes.tif",
    "model": "_model.safetensors",
    "adapters": "_adapters.safetensors",
    "probabilities": "_probabilities.tif",
    "quicklook": "_quicklook.png",
    "page": "_report.html",
    "report": "_report.json",
    "run": "_run.json",
    "item": "_item.json",
}


@dataclass(frozen=True, eq=False)
class Classification:
    """A finished map or model: what was written, and what the report says; or what a run would take, and nothing written."""

    files: dict[str, Path]
    report: dict[str, Any]
    forecast: Forecast | None = None

    def __rich__(self) -> Group:
        parts: list[Any] = []
        if self.forecast is not None:
            return Group(*([f"First, {self.report['first']}. Not counted below:"] if self.report["first"] else []), self.forecast)
        if "classes" in self.report:
            table = Table("value", "class", box=None, padding=(0, 2, 0, 0))
            for name in ("pixels", "share", "hectares"):
                table.add_column(name, justify="right")
            for row in self.report["classes"]:
                hectares = "" if row["hectares"] is None else f"{row['hectares']:,.1f}"
                table.add_row(str(row["value"]), row["name"], f"{row['pixels']:,}", f"{row['share']:.1%}", hectares)
            parts.append(table)
        accuracy = self.report.get("validation", {}).get("accuracy")
        if accuracy is not None:
            parts.append(f"Accuracy on held-out blocks of the labels, which also stopped the training: {accuracy:.3f}")
        parts += [f"{kind}: {path}" for kind, path in self.files.items()]
        parts.append(f"{self.report['seconds']:.1f} seconds")
        return Group(*parts)


@dataclass(frozen=True, kw_only=True, eq=False)
class Mapped:
    """A finished map, for the files that are made of it before all appear.

    Args:
        scene: that was mapped.
        area: of it.
        classes: of the map.
        pixels: of each class.
        confidence: summed over them; None where there is none.
        hectares: of each class, where pixels of different rows differ in area; else None.
        map_file: the map, where it lies now.
        report: what the run noted; it becomes `NAME_report.json`.
    """

    scene: Scene
    area: Area
    classes: tuple[ClassInfo, ...]
    pixels: NDArray[np.int64]
    confidence: NDArray[np.float64] | None
    hectares: NDArray[np.float64] | None
    map_file: Path
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """Of the map."""
        return grid_of_area(self.scene, self.area)

    def areas(self) -> list[dict[str, Any]]:
        """Return for each class its value, name, pixels, share, hectares and mean confidence.

        Hectares are None where ``row_hectares`` cannot tell them.
        """
        of_rows, hectares = row_hectares(self.grid), self.hectares
        if of_rows is None and self.grid.crs is not None:
            logger.warning("areas are left out: they cannot be told from pixels in %s", self.grid.crs.to_string())
        if of_rows is not None and hectares is None:  # all pixels are alike
            hectares = self.pixels * of_rows[0]
        rows = []
        for position, (info, count) in enumerate(zip(self.classes, self.pixels.tolist(), strict=True)):
            row = {
                "value": info.value,
                "name": info.name,
                "pixels": count,
                "share": round(count / max(int(self.pixels.sum()), 1), 4),
                "hectares": None if hectares is None else round(float(hectares[position]), 2),
            }
            if self.confidence is not None:
                row["confidence"] = round(float(self.confidence[position]) / count, 4) if count else None
            rows.append(row)
        return rows

    def write_quicklook(self, path: Path) -> None:
        """Draw scene and map side by side."""
        shape = preview_shape(self.area.height, self.area.width)
        index = np.full(shape, -1, dtype=np.int32)
        if self.pixels.any():  # a file of nothing is refused
            values = open_scene(self.map_file).preview([0], Window(0, 0, self.area.width, self.area.height), shape)[0]
            known = np.array([info.value for info in self.classes])
            index = np.where(np.isfinite(values), np.searchsorted(known, np.nan_to_num(values)), -1).astype(np.int32)
        title = self.report["method"]
        write_quicklook(
            path,
            natural_colours(self.scene, Window(self.area.column, self.area.row, self.area.width, self.area.height), shape),
            index,
            self.classes,
            name=Path(self.scene.path).name,
            title="unsupervised map" if self.confidence is None else f"land cover, {title}",
        )


def summed(facts: Sequence[Mapping[str, Any]], name: str) -> NDArray[Any] | None:
    """Add up what parts told of each class, in their order; None if they told nothing of that name."""
    return None if name not in facts[0] else np.sum([part[name] for part in facts], axis=0)


def grid_of_area(scene: Scene, area: Area) -> Grid:
    """Return the grid of a part of a scene."""
    return scene.grid.part(area.column, area.row, area.width, area.height)


def layers_of(files: Mapping[str, Path], grid: Grid, classes: Sequence[ClassInfo]) -> dict[str, Layer]:
    """Return the rasters of a map: classes with colours and names, and probabilities if a file for them is named."""
    layers = {
        MAP: Layer(
            path=files[MAP],
            grid=grid,
            bands=1,
            dtype=map_type(info.value for info in classes),
            nodata=0,
            names=map_names(classes),
            colors=map_colors(classes),
        )
    }
    if PROBABILITIES in files:
        layers[PROBABILITIES] = Layer(
            path=files[PROBABILITIES], grid=grid, bands=2, dtype="float32", nodata=float("nan"), descriptions=PROBABILITY_BANDS,
            overviews="average",
        )  # fmt: skip
    return layers


def result_files(
    scene: Scene, folder: Path, kinds: Iterable[str], inputs: Sequence[str | Path | None], *, polygons: Path | None = None
) -> dict[str, Path]:
    """Return the files to write.

    Raises:
        ValueError: one of them is an input, or polygons of another format than are written.
    """
    stem = stem_of(scene.path)
    files = {kind: folder / f"{stem}{_ENDINGS[kind]}" for kind in kinds}
    if polygons is not None:
        check_vectors(polygons)
        files[POLYGONS] = polygons
    for path in files.values():
        if any(given is not None and path.resolve() == Path(given).resolve() for given in inputs):
            raise ValueError(f"{path} is an input and would be overwritten: choose another folder to write to")
    return files


def ready_folder(folder: Path, files: Iterable[Path], overwrite: bool) -> None:
    """Make the folder if there is none, and find out before long work whether results can be written.

    Raises:
        OSError: they cannot, or may not be replaced.
    """
    make_folder(folder)
    check_writable(files, overwrite)


def describe(scene: Scene, seed: int) -> dict[str, Any]:
    """Return what a report begins with."""
    return {
        "geovit": __version__,
        "scene": scene.path,
        "size": list(scene.grid.shape),
        "crs": scene.grid.crs.to_string() if scene.grid.crs else None,
        "bands": scene.num_bands,
        "bands_dropped": {str(band): reason for band, reason in scene.dropped.items()},
        "wavelengths_nm": None if scene.wavelengths is None else [scene.wavelengths[0], scene.wavelengths[-1]],
        "seed": seed,
    }
