"""`geovit embed`: rasters in, rasters of features out."""

import hashlib
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from rich.console import Console, Group
from rich.progress import Progress

from ... import __version__
from ...core.precision import Precision
from ...core.sensors.model import model_file
from ...datasets import Image, check_writable, stream_bands, write_image
from .embedding import Embedder, Tick, Tiling, token_grid
from .features import LAST
from .scenes import SensorScene, open_sensor_scene

logger = logging.getLogger(__name__)

DType = Literal["float16", "float32", "int8"]
_STRIP_VALUES = 2**22  # written at a time: 16 MB
_NO_DATA = -128  # of int8
_PICTURE, _SMALL_PICTURE = 2048, 512  # pixels on the longer side of a picture: at most, and up to which tokens are enlarged
_STRETCH = 2.5  # standard deviations to both sides of the middle grey of a quick-look


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
    model: Path,
    sensor: str | None = None,
    gsd: float | None = None,
    out: Path | None = None,
    layer: str = LAST,
    dtype: DType = "float16",
    pca: bool = False,
    tiling: Tiling | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    overwrite: bool = False,
    progress: bool = False,
) -> Embedded:
    """Embed scenes: write a raster of features, one pixel for each token, on the scene's grid made coarser by the patch.

    NAME_embedding.tif is a Cloud Optimized GeoTIFF of as many bands as there are features; its tags tell model, sensor, bands and
    tiles. Scenes of any size are encoded tile by tile. A token sees its tile alone, and neighbouring tiles share a halo so that
    it sees something on each side: its place in the tile is in its features, so that seams can be seen: less with a larger
    halo, not at all in a scene that is no larger than a tile.

    Args:
        scenes: rasters; any number of them.
        model: what `geovit pretrain` wrote, a file or its folder, or a published checkpoint (SMARTIES, SatMAE++, DOFA,
            SpectralGPT, ...).
        sensor: of all the scenes; its table tells bands and scale. Default: wavelengths of the file, and reflectance.
        gsd: metres on the ground from a pixel to the next. Default: the file's, else the sensor's.
        out: folder to write to, made if there is none. Default: beside each scene.
        layer: depth of the features: last, a number of blocks, several joined by commas, or all.
        dtype: float16 (as Float32 of 16 bits, which every GDAL reads), float32, or int8 with a scale for each band.
        pca: write NAME_pca.tif, too, the first three principal components as colours, and NAME_pca.png of them to look at.
        tiling: how scenes are cut.
        device: auto, cpu, cuda, cuda:1 or mps.
        precision: auto, fp32, bf16 or fp16.
        overwrite: replace files that exist.
        progress: show a progress bar.

    Returns:
        The files written, by scene.

    Raises:
        ValueError: anything wrong with the input; one line that says what was given and what is allowed.
        OSError: a file is missing, or cannot be written.
    """
    started = time.perf_counter()
    if not scenes:
        raise ValueError("no scene given")
    sources = [Path(scene) for scene in scenes]
    targets = {source: _targets(source, out, pca) for source in sources}
    written = [path for paths in targets.values() for path in paths]
    if len(set(written)) < len(written):
        twice = next(path for path in written if written.count(path) > 1)
        raise ValueError(f"two of the scenes would both be written to {twice}: embed them into different folders")
    file = model_file(model)
    embedder = Embedder(file, layer=layer, tiling=tiling or Tiling(), device=device, precision=precision)
    tags = {
        "GEOVIT_VERSION": __version__,
        "GEOVIT_MODEL": file.name,
        "GEOVIT_MODEL_SHA256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "GEOVIT_LAYER": layer,
        "GEOVIT_PATCH": str(embedder.patch),
        "GEOVIT_TILE": str(embedder.tile),
        "GEOVIT_HALO": str(embedder.halo),
    }
    # All that can be wrong is found before the first hour of work.
    opened = {source: open_sensor_scene(source, sensor, gsd=gsd) for source in sources}
    for scene in opened.values():
        embedder.check(scene)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"cannot make the folder {out}: {error.strerror}") from error
    check_writable(written, overwrite)
    with Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar:
        for source, scene in opened.items():
            task = bar.add_task(source.name.replace("[", r"\["), total=1.0)

            def tick(done: int, tiles: int, task: int = task) -> None:
                bar.update(task, completed=done / tiles)  # type: ignore[arg-type]

            _write(embedder, scene, targets[source], dtype, tags, overwrite, tick)
    return Embedded(targets, time.perf_counter() - started)


def _targets(source: Path, out: Path | None, pca: bool) -> tuple[Path, ...]:
    folder = source.parent if out is None else out
    names = ["embedding.tif", "pca.tif", "pca.png"] if pca else ["embedding.tif"]
    return tuple(folder / f"{source.stem}_{name}" for name in names)


def _write(
    embedder: Embedder,
    scene: SensorScene,
    targets: Sequence[Path],
    dtype: DType,
    tags: dict[str, str],
    overwrite: bool,
    tick: Tick,
) -> None:
    grid = token_grid(scene.grid, embedder.patch)
    count = embedder.features
    # Tiles come in their own order, and int8 and colours need all of them: a file beside the result holds them meanwhile.
    with tempfile.TemporaryDirectory(prefix=".embedding.", dir=targets[0].parent) as folder:
        kept = np.memmap(Path(folder) / "features", dtype=np.float32, mode="w+", shape=(grid.height, grid.width, count))
        moments = _Moments(count)
        for row, column, part in embedder.parts(scene, tick):
            kept[row : row + part.shape[0], column : column + part.shape[1]] = part
            moments.add(part[np.isfinite(part[..., 0])])
        if not moments.count:
            raise ValueError(f"{scene.layer.where}: no token has enough pixels with data")
        strip = max(1, _STRIP_VALUES // (grid.width * count))
        strips = [(row, kept[row : row + strip]) for row in range(0, grid.height, strip)]
        scales = np.maximum(moments.largest, 1e-12) / 127 if dtype == "int8" else None
        facts = {
            "GEOVIT_SENSOR": scene.sensor,
            "GEOVIT_BANDS": ",".join(band.name for band in scene.bands),
            "GEOVIT_GSD": f"{scene.gsd:g}",
        }
        with stream_bands(
            targets[0],
            grid,
            descriptions=[f"feature {k}" for k in range(count)],
            dtype=dtype,
            nodata=float("nan") if scales is None else _NO_DATA,
            scales=None if scales is None else scales.tolist(),
            tags={**tags, **facts},
            overwrite=overwrite,
        ) as writer:
            for row, values in strips:
                writer.write(np.moveaxis(values if scales is None else _quantized(values, scales), -1, 0), row, 0)
        if len(targets) > 1:
            with stream_bands(
                targets[1],
                grid,
                descriptions=["component 1", "component 2", "component 3"],
                dtype="uint8",
                nodata=0,
                tags={**tags, **facts},
                overwrite=overwrite,
            ) as writer:
                for row, colours in _colours(strips, moments):
                    writer.write(np.moveaxis(colours, -1, 0), row, 0)
            _write_picture(targets[2], targets[1], overwrite)
        del kept, strips  # some systems keep a file that is still mapped


def _write_picture(path: Path, colours: Path, overwrite: bool) -> None:
    """Write a raster of colours as a picture of at most 2048 pixels a side, and with few tokens, larger: a token is a square."""
    with rasterio.open(colours) as source:
        step = -(-max(source.shape) // _PICTURE)
        shown = source.read(out_shape=(source.count, -(-source.height // step), -(-source.width // step)))
    times = max(_SMALL_PICTURE // max(shown.shape[1:]), 1)
    pixels = np.moveaxis(shown, 0, -1).repeat(times, axis=0).repeat(times, axis=1)
    write_image(path, Image(pixels=np.ascontiguousarray(pixels)), overwrite=overwrite)


def _quantized(values: NDArray[np.float32], scales: NDArray[np.float64]) -> NDArray[np.int8]:
    whole = np.nan_to_num(np.rint(values / scales), nan=_NO_DATA)
    return whole.astype(np.int8)


def _colours(strips: Sequence[tuple[int, NDArray[np.float32]]], moments: "_Moments") -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The first three principal components, 1 to 255, and 0 where there is no data; of each the largest weight is positive."""
    spread, directions = np.linalg.eigh(moments.covariance)
    take = min(3, len(spread))
    directions = directions[:, ::-1][:, :take]
    directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(take)])
    deviation = np.sqrt(np.maximum(spread[::-1][:take], 1e-24))
    for row, values in strips:
        position = (values - moments.mean) @ directions / (_STRETCH * deviation)
        grey = np.clip(128 + 127 * position, 1, 255)
        colour = np.zeros((*values.shape[:2], 3))
        colour[..., :take] = np.nan_to_num(grey, nan=0.0)
        yield row, np.rint(colour).astype(np.uint8)


class _Moments:
    """Mean, covariance and largest size of features, in float64."""

    def __init__(self, features: int) -> None:
        self.count = 0
        self.largest = np.zeros(features)
        self._sum = np.zeros(features)
        self._products = np.zeros((features, features))

    def add(self, values: NDArray[np.float32]) -> None:
        if not len(values):
            return
        exact = values.astype(np.float64)
        self.count += len(exact)
        self.largest = np.maximum(self.largest, np.abs(exact).max(axis=0))
        self._sum += exact.sum(axis=0)
        self._products += exact.T @ exact

    @property
    def mean(self) -> NDArray[np.float64]:
        return self._sum / self.count

    @property
    def covariance(self) -> NDArray[np.float64]:
        return self._products / self.count - np.outer(self.mean, self.mean)
