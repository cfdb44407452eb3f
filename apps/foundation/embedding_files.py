"""`geovit embed`: rasters in, rasters of features out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group

from ...core.precision import Precision
from ...core.sensors.model import model_file
from ...datasets import check_writable
from ...datasets.writing import output_folder
from ..forecasting import Planned
from ..streaming import OF_THE_RUN
from .embedder import Tiling
from .features import LAST
from .raster_runs import DType, EmbedOptions, ModelUse, SceneRun
from .scenes import open_sensor_scene


@dataclass(frozen=True, eq=False)
class Embedded:
    """What was written, and how long it took."""

    files: dict[Path, tuple[Path, ...]]
    seconds: float

    def __rich__(self) -> Group:
        """A line for each file and one for the time."""
        lines = [f"{source} -> {', '.join(map(str, targets))}" for source, targets in self.files.items()]
        return Group(*lines, f"{self.seconds:.1f} seconds")


def embed_files(
    scenes: Sequence[str],
    *,
    model: str | Path | None = None,
    sensor: str | None = None,
    gsd: float | None = None,
    out: str | Path | None = None,
    layer: str = LAST,
    dtype: DType = "float16",
    pca: bool = False,
    tiling: Tiling | None = None,
    bounds: str | None = None,
    mask: str | None = None,
    plan: bool = False,
    max_memory: float | None = None,
    resume: bool = False,
    dask: str | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    overwrite: bool = False,
    progress: bool = False,
) -> Embedded | Planned:
    """Embed scenes: write a raster of features, one pixel for each token, on the scene's grid made coarser by the patch.

    NAME_embedding.tif is a Cloud Optimized GeoTIFF of as many bands as there are features; its tags tell model, sensor, bands and
    tiles; a run card and a STAC item lie beside it. Scenes may be larger than memory: they are encoded tile by tile, and a run
    that was cut off goes on with --resume. A token sees its tile alone, and its place in the tile is in its features, so
    neighbouring tiles share a halo on each side and fade into each other over it.

    Args:
        scenes: rasters; any number of them.
        model: what `geovit pretrain` wrote, a file or its folder, or a published checkpoint (SMARTIES, SatMAE++, DOFA,
            SpectralGPT, ...). Default: the small encoder that comes with geovit, which has seen made-up places alone.
        sensor: of all the scenes; its table tells bands and scale. Default: wavelengths of the file, and reflectance.
        gsd: metres on the ground from a pixel to the next. Default: the file's, else the sensor's.
        out: folder to write to, made if there is none. Default: beside each scene.
        layer: depth of the features: last, a number of blocks, several joined by commas, or all.
        dtype: float16 (as Float32 of values that were rounded to 16 bits), float32, or int8 with a scale for each band.
        pca: write NAME_pca.tif, too, the first three principal components as colours, and NAME_pca.png of them to look at.
        tiling: how scenes are cut: --tiling.tile, --tiling.halo and --tiling.valid, which --tiling.help tells of.
        bounds: the part of the scenes to embed: left,bottom,right,top in their coordinates; widened to whole tokens. Features are
            those that the whole scene has there.
        mask: polygons, of any vector file; tokens outside are nodata.
        plan: tell how many tiles there are, and what memory, time and disk they take; write nothing.
        max_memory: gigabytes (10^9 bytes) that the process may take at the most. Default: 4, or half of what is free if that is
            less.
        resume: go on with scenes that an earlier run left unfinished; results that are there already are passed over.
        dask: compute the tiles on a Dask cluster: local:N for N processes here, or its address, tcp://...
        device: auto, cpu, cuda, cuda:1 or mps.
        precision: auto, fp32, bf16 or fp16.
        overwrite: replace files that exist, and throw unfinished ones away.
        progress: show a progress bar.

    Returns:
        The files written, by scene; or what they would take.

    Raises:
        ValueError: anything wrong with the input; one line that says what was given and what is allowed.
        OSError: a file is missing, or cannot be written.
    """
    parameters = {name: value for name, value in locals().items() if name not in OF_THE_RUN}
    started, folder = time.perf_counter(), None if out is None else Path(out)
    if not scenes:
        raise ValueError("no scene given")
    sources = {Path(scene): scene for scene in scenes}
    targets = {source: _targets(source, folder, pca) for source in sources}
    written = [path for paths in targets.values() for path in paths]
    if len(set(written)) < len(written):
        twice = next(path for path in written if written.count(path) > 1)
        raise ValueError(f"two of the scenes would both be written to {twice}: embed them into different folders")
    use = ModelUse(model_file(model), layer, tiling or Tiling(), device, precision)
    how = EmbedOptions(
        dtype=dtype,
        pca=pca,
        bounds=bounds,
        mask=mask,
        max_memory=max_memory,
        resume=resume,
        overwrite=overwrite,
        dask=dask,
        progress=progress,
    )
    embedder = use.load()
    # All that can be wrong is found before the first hour of work.
    runs = {
        source: SceneRun(embedder, use, open_sensor_scene(given, sensor, gsd=gsd), given, targets[source], how)
        for source, given in sources.items()
        if not how.passes_over(targets[source][0])
    }
    if plan:
        return Planned({source: run.forecast() for source, run in runs.items()})
    with output_folder(folder):
        if not resume:
            check_writable(written, overwrite)
        for run in runs.values():
            run.embed({**parameters, "scenes": [run.given]})
    return Embedded(targets, time.perf_counter() - started)


def _targets(source: Path, out: Path | None, pca: bool) -> tuple[Path, ...]:
    folder = source.parent if out is None else out
    names = ["embedding.tif", "pca.tif", "pca.png"] if pca else ["embedding.tif"]
    return tuple(folder / f"{source.stem}_{name}" for name in names)
