"""From a finished map and its scene to what the page shows, reading little of either."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from ....datasets import ClassInfo, Grid, Scene, write_text_atomic
from ....datasets.raster import quiet_georeference
from ..quicklook import natural_colours
from ..results import Mapped
from .page import ClassRow, ClassSpectra, Page

_MOST_PIXELS = 1600  # on the longer side of the picture
_WINDOW = 64  # pixels on a side of the places that spectra are taken from
_MOST_WINDOWS = 100


def write_page(path: Path, mapped: Mapped) -> None:
    """Write the page of a finished map, whole or not at all; what the run noted must be complete.

    Raises:
        OSError: if the page cannot be written, or one of the files not be read.
    """
    write_text_atomic(path, page_of(mapped).html(), overwrite=True)


def page_of(mapped: Mapped) -> Page:
    """Gather the page."""
    grid, area, report = mapped.grid, mapped.area, mapped.report
    shrink = max(max(grid.shape) / _MOST_PIXELS, 1.0)
    small = max(round(grid.height / shrink), 1), max(round(grid.width / shrink), 1)
    with quiet_georeference(), rasterio.open(mapped.map_file) as src:
        values = src.read(1, out_shape=small, resampling=Resampling.nearest)
    validation = report.get("validation", {})
    confusion = validation.get("confusion")
    return Page(
        title=f"{Path(mapped.scene.path).name}: {report['method']}",
        facts=_facts(mapped.scene, grid, report),
        scene=natural_colours(mapped.scene, Window(area.column, area.row, area.width, area.height), small),
        index=_lookup(mapped.classes)[values],
        step=(grid.height / small[0], grid.width / small[1]),
        transform=grid.transform if grid.georeferenced else None,
        degrees=grid.crs is not None and grid.crs.is_geographic,
        classes=[_row(info, row) for info, row in zip(mapped.classes, mapped.areas(), strict=True)],
        spectra=class_spectra(mapped),
        confusion=None if confusion is None else np.array(confusion),
        note=validation.get("note", ""),
        run=report,
    )


def _row(info: ClassInfo, row: Mapping[str, Any]) -> ClassRow:
    return ClassRow(
        name=info.name,
        color=info.hex,
        pixels=row["pixels"],
        share=row["share"],
        hectares=row["hectares"],
        confidence=row.get("confidence"),
    )


def _facts(scene: Scene, grid: Grid, report: Mapping[str, Any]) -> list[str]:
    facts = [f"{grid.width:,} x {grid.height:,} pixels", f"{scene.num_bands} bands"]
    if scene.wavelengths is not None:
        facts.append(f"{scene.wavelengths[0]:.0f} to {scene.wavelengths[-1]:.0f} nm")
    facts.append(grid.crs.to_string() if grid.crs is not None else "no coordinate reference system")
    facts += [f"geovit {report['geovit']}", f"seed {report['seed']}"]
    return facts


def _lookup(classes: Sequence[ClassInfo]) -> NDArray[np.int32]:
    """Position of a class by its value in the map; -1 for what is none."""
    lookup = np.full(2**16, -1, np.int32)
    lookup[[info.value for info in classes]] = np.arange(len(classes))
    return lookup


def class_spectra(mapped: Mapped) -> ClassSpectra:
    """Measure the spectra of each class in windows spread evenly over the map; in all of it if it is small."""
    scene, classes, area = mapped.scene, mapped.classes, mapped.area
    count, sums, squares = np.zeros(len(classes), np.int64), *np.zeros((2, len(classes), scene.num_bands))
    lookup = _lookup(classes)
    with quiet_georeference(), rasterio.open(mapped.map_file) as src:
        for window in _places(src.height, src.width):
            index = lookup[src.read(1, window=window)]
            there = Window(window.col_off + area.column, window.row_off + area.row, window.width, window.height)
            values = scene.read(there).astype(np.float64)
            for k in np.unique(index[index >= 0]):
                spectra = values[:, (index == k) & np.isfinite(values).all(axis=0)]
                count[k] += spectra.shape[1]
                sums[k] += spectra.sum(axis=1)
                squares[k] += np.square(spectra).sum(axis=1)
    with np.errstate(invalid="ignore"):
        mean = sums / count[:, None]
        std = np.sqrt(np.maximum(squares / count[:, None] - mean**2, 0))
    return ClassSpectra(mean, std, count, scene.wavelengths)


def _places(height: int, width: int) -> list[Window]:
    rows, columns = (-(-side // _WINDOW) for side in (height, width))
    every = max(rows * columns / _MOST_WINDOWS, 1.0)
    chosen = [int(k * every) for k in range(int(rows * columns / every))]
    corners = [(k // columns * _WINDOW, k % columns * _WINDOW) for k in chosen]
    return [Window(column, row, min(_WINDOW, width - column), min(_WINDOW, height - row)) for row, column in corners]
