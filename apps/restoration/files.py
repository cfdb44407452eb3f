"""`geovit restore`: image files in, image files out."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Group

from ...core.engines import EngineName
from ...core.memory import keep_no_freed_memory
from ...core.precision import Precision
from ...datasets import check_writable
from ...datasets.images import check_format, find_images, open_geotiff, open_image, output_paths, write_image
from ...datasets.writing import output_folder
from ..forecasting import Planned
from ..streaming import OF_THE_RUN, RunOptions
from .models import open_restorer
from .progress import progress_bar
from .rasters import RasterRun
from .restoration import Range, Restoration

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Restored:
    """What was written, and how long it took."""

    files: dict[Path, Path]
    seconds: float

    def __rich__(self) -> Group:
        """A line for each file and one for the time."""
        return Group(*(f"{source} -> {target}" for source, target in self.files.items()), f"{self.seconds:.1f} seconds")


def restore_files(
    inputs: Sequence[str],
    *,
    out: Path | None = None,
    weights: Path | None = None,
    engine: EngineName | None = None,
    model: str | None = None,
    scale: int | None = None,
    tile: Literal["auto"] | int = "auto",
    overlap: int | None = None,
    max_memory: float | None = None,
    precision: Precision = "auto",
    device: str = "auto",
    value_range: Range | None = None,
    bounds: str | None = None,
    plan: bool = False,
    resume: bool = False,
    dask: str | None = None,
    overwrite: bool = False,
    quality: int = 95,
    progress: bool = False,
) -> Restored | Planned:
    """Restore images: enlarge, sharpen or clean them, whatever the network was trained for.

    PNG, JPEG, TIFF, WebP, BMP, PGM, PPM and GeoTIFF, 8 and 16 bits, of any number of bands; colour profile, EXIF, alpha, nodata
    and georeference are kept. Written is NAME_x2.png for NAME.png where the scale is 2, NAME_restored.png where it is 1, beside
    the image or in another folder, each file whole or not at all. Of several images those that can be restored are; the
    others are told in a line each, and the exit code is 2.

    GeoTIFFs may be larger than memory: they are restored part by part into a Cloud Optimized GeoTIFF, with a run card and a STAC
    item beside it. A run that was cut off goes on with --resume.

    Args:
        inputs: image files, folders, and patterns such as 'photos/*.jpg'; any number of inputs.
        out: folder to write to, made if there is none. Default: beside each image.
        weights: a checkpoint file, of geovit or published, or a file of `geovit export`, .onnx or .xml.
        engine: runtime of a model that `geovit export` wrote: onnx or openvino, on the CPU in fp32. Default: the one of its file.
        model: name of a model of the package. Default, without weights: the one of that scale.
        scale: output pixels for each input pixel on an axis. Default: that of the network.
        tile: pixels on a side of the tiles that images are computed in, or auto: as many as memory allows.
        overlap: pixels that neighbouring tiles share. Default: twice the network's halo.
        max_memory: gigabytes (10^9 bytes) that the process may take at the most, on the device. Default: 4, or half of what is
            free if that is less, on a CPU; half of what is free on a GPU.
        precision: auto, fp32, bf16 or fp16.
        device: auto, cpu, cuda, cuda:1 or mps.
        value_range: pixel values that are black and white to the network, as 0,10000. Default: those of the type.
        bounds: of a GeoTIFF, the part to restore: left,bottom,right,top in its coordinates.
        plan: tell how many parts GeoTIFFs are cut into, and what memory, time and disk they take; write nothing.
        resume: go on with GeoTIFFs that an earlier run left unfinished; results that are there already are passed over.
        dask: compute the parts of GeoTIFFs on a Dask cluster: local:N for N processes here, or its address, tcp://...
        overwrite: replace files that exist, and throw unfinished ones away.
        quality: of JPEG and WebP, 1 to 100.
        progress: show a progress bar.

    Returns:
        The files written, by image; or what they would take.

    Raises:
        ValueError: anything wrong with the input; one line that says what was given and what is allowed.
        OSError: a file is missing, or cannot be written.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"quality is {quality}, allowed are 1..100")
    parameters = {name: value for name, value in locals().items() if name not in OF_THE_RUN}
    started = time.perf_counter()
    images = find_images(inputs)
    restorer = open_restorer(weights, model, scale, engine)
    factor = restorer.network.scale
    targets = output_paths(images, out, ending="_restored" if factor == 1 else f"_x{factor}")
    how = RunOptions(bounds=bounds, max_memory=max_memory, resume=resume, overwrite=overwrite, dask=dask, progress=progress)
    todo = {source: target for source, target in zip(images, targets, strict=True) if not how.passes_over(target)}
    # Memory that was asked to be kept to is; without a limit, speed comes first.
    frugal = max_memory is not None and keep_no_freed_memory()
    restoration = Restoration(
        restorer,
        device=device,
        precision=precision,
        tile=tile,
        overlap=overlap,
        max_memory=max_memory,
        value_range=value_range,
        frugal=frugal,
    )
    work = _Work(restoration, how, quality=quality, parameters=parameters)
    if plan:
        return Planned({source: work.run(source, target).forecast() for source, target in todo.items()})
    with output_folder(out):
        if not resume:
            check_writable(targets, overwrite)
        alone = len(images) == 1
        failed = sum(not work.restored(source, target, alone=alone) for source, target in todo.items())
    if failed:
        raise ValueError(f"{failed} of {len(images)} images were not restored")
    return Restored(dict(zip(images, targets, strict=True)), time.perf_counter() - started)


class _Work:
    """What is done with one image after the other."""

    def __init__(self, restoration: Restoration, how: RunOptions, *, quality: int, parameters: Mapping[str, Any]) -> None:
        self.restoration, self.how, self.quality, self.parameters = restoration, how, quality, parameters

    def run(self, source: Path, target: Path) -> RasterRun:
        """Look at a GeoTIFF.

        Raises:
            ValueError: it is something else.
        """
        image = open_geotiff(source)
        if image is None:
            raise ValueError(f"{source}: --plan, --bounds and --dask are for GeoTIFFs; other images are restored in memory")
        return RasterRun(self.restoration, image, target, self.how)

    def restored(self, source: Path, target: Path, *, alone: bool) -> bool:
        """Restore one file; tell what is wrong with it and return False if there are others."""
        try:
            if self.how.bounds is not None or self.how.dask is not None or open_geotiff(source) is not None:
                self.run(source, target).restore({**self.parameters, "inputs": [str(source)]})
            else:
                image = open_image(source)
                check_format(target, image)
                with progress_bar(self.how.progress) as bar:
                    made = self.restoration(image, bar)
                write_image(target, made, overwrite=self.how.overwrite, quality=self.quality)
        except (ValueError, OSError) as error:
            if alone:
                raise
            logger.error("%s", error)  # noqa: TRY400 - a line for users
            return False
        logger.debug("%s -> %s", source, target)
        return True
