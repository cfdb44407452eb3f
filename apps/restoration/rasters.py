"""GeoTIFFs of any size, part by part: what is finished outlives a crash, and memory does not grow with the image."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ...core.engines import EngineName
from ...core.memory import is_out_of_memory
from ...core.precision import Precision
from ...core.streaming.plan import Area
from ...datasets.areas import window_of
from ...datasets.growing import CACHE_BYTES, GrowingRasters, Layer, mask_of
from ...datasets.identity import content_of
from ...datasets.images import GeoTiff, Survey, open_geotiff, survey
from ...datasets.images.geotiff import cropped_details, picked_details, resized_details
from ..cards import RunFacts, write_run_card, write_stac_item
from ..forecasting import Forecast, forecast
from ..streaming import RunOptions, carried_out, compute_threads, earlier_side, unfinished_folder
from .models import open_restorer
from .parts import IMAGE, MASK, PartRestorer
from .restoration import Restoration
from .tiling import LARGEST

_PAYS = 512  # pixels on a side of parts: computing several at once pays as long as memory allows so many
_SMALL = 256  # smaller parts of a small image would look at little but surroundings
_WORDS: Mapping[torch.dtype, Precision] = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(eq=False)
class RestoreJob:
    """Restores parts of a GeoTIFF, in this process or another.

    Args:
        source: the file.
        weights: a checkpoint file, or one of `geovit export`.
        device: as of ``restore``.
        precision: that all parts are computed in.
        known: of the whole image.
        engine: of an exported network.
        here: the network, if it is loaded already; it does not go to other processes.
    """

    source: str
    weights: Path
    device: str
    precision: Precision
    known: Survey
    engine: EngineName | None = None
    here: Restoration | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "here": None}

    def open(self) -> PartRestorer:
        """Load the network and open the file."""
        image = open_geotiff(self.source)
        if image is None:
            raise FileNotFoundError(f"{self.source}: no longer the GeoTIFF that it was")
        if self.here is None:
            self.here = Restoration(open_restorer(self.weights, engine=self.engine), device=self.device, precision=self.precision)
        return self.here.parts(image, self.known)


class RasterRun:
    """One GeoTIFF that is to be restored.

    Args:
        restoration: the network.
        image: what is restored.
        target: where the result is to appear.
        how: it is gone through.

    Raises:
        ValueError: bounds beside the image, or what ``Restoration`` refuses.
    """

    def __init__(self, restoration: Restoration, image: GeoTiff, target: Path, how: RunOptions) -> None:
        self.restoration, self.image, self.target, self.how = restoration, image, target, how
        self.folder = unfinished_folder(target)
        window = (0, 0, *image.shape) if how.bounds is None else window_of(image.grid, how.bounds)
        self.area = Area(*window)
        self.known = survey(image, restoration.value_range)
        self.parts = restoration.parts(image, self.known)
        weights = restoration.restorer.file
        assert weights is not None, "a network that is to be named has a file"
        tiler = restoration.tiler
        precision = _WORDS[tiler.dtype]
        self.job = RestoreJob(
            image.name, weights, str(tiler.device), precision, self.known, restoration.restorer.engine, restoration
        )
        self.load = self.parts.load(min(CACHE_BYTES, image.shape[0] * image.shape[1] * image.channels * image.dtype.itemsize))
        # From the image alone, not from the number of cores, so that other machines cut it alike: four parts or more.
        half = (max(self.area.height, self.area.width) + tiler.shared) // 2
        self.most = min(max(half, _SMALL), LARGEST)

    @property
    def threads(self) -> int:
        """How many parts are computed at the same time."""
        tiler = self.restoration.tiler
        side = max(min(_PAYS, self.most), tiler.smallest)
        return compute_threads(
            tiler.device,
            lambda count: tiler.bytes_of(self.image.shape, side, self.load, count) + self.load.held,
            max_memory=self.how.max_memory,
        )

    def side(self, threads: int) -> int:
        """Pixels on a side of parts: those of the run that is gone on with, or as many as memory allows."""
        earlier = earlier_side(self.folder) if self.how.resume else None
        if earlier is not None:
            return earlier
        return self.restoration.tiler.side(self.image.shape, self.load, threads=threads, most=self.most)

    @property
    def layers(self) -> dict[str, Layer]:
        """What is written: all that the image's file holds, made larger."""
        image, area, s = self.image, self.area, self.restoration.network.scale
        height, width = area.height * s, area.width * s
        geo = cropped_details(picked_details(image.geo, self.parts.bands), area.row, area.column)
        layer = Layer(
            path=self.target,
            grid=image.grid.part(area.column, area.row, area.width, area.height).resized(height, width),
            bands=len(self.parts.bands) + image.transparent,
            dtype=image.dtype.name,  # type: ignore[arg-type] # one of PIXEL_TYPES
            nodata=image.nodata,
            overviews="average",
            details=resized_details(geo, s, s),
            icc=image.icc,
        )
        return {IMAGE: replace(layer, mask=MASK), MASK: mask_of(layer)} if image.masked else {IMAGE: layer}

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result."""
        tiler = self.restoration.tiler
        return {
            "command": "restore",
            "scene": content_of(self.image.name),
            "weights": content_of(self.job.weights),
            "engine": self.job.engine,
            "precision": self.job.precision,
            "value range": list(self.known.value_range),
            "overlap": tiler.shared,
            "area": [self.area.row, self.area.column, self.area.height, self.area.width],
        }

    def forecast(self) -> Forecast:
        """Tell what it will take, and write nothing."""
        threads, tiler = self.threads, self.restoration.tiler
        side = self.side(threads)
        needed = tiler.bytes_of(self.image.shape, side, self.load, threads) + self.load.held
        plan = tiler.plan(self.image.shape, side, self.area)
        return forecast(plan, self.job, self.layers, memory=needed, threads=threads, dask=self.how.dask)

    def restore(self, parameters: Mapping[str, Any]) -> None:
        """Restore it and write the result, its run card and STAC item.

        Args:
            parameters: of the command, for the card.

        Raises:
            ValueError, OSError: as of ``restore_files``; what is finished is kept, and can be gone on with.
        """
        threads, tiler = self.threads, self.restoration.tiler
        side = self.side(threads)
        while True:
            try:
                self._restore(side, threads, parameters)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if GrowingRasters.unfinished(self.folder) is not None:
                    raise ValueError(
                        f"out of memory with parts of {side} pixels: pass a smaller --tile and --overwrite"
                    ) from error
                cause = error.with_traceback(None)  # its frames hold what has to be freed
            else:
                return
            side = tiler.halved(side, self.image.shape, cause)

    def _restore(self, side: int, threads: int, parameters: Mapping[str, Any]) -> None:
        tiler = self.restoration.tiler
        layers = self.layers
        others = {kind: self.target.with_name(f"{self.target.stem}_{kind}.json") for kind in ("run", "item")}
        with carried_out(
            tiler.plan(self.image.shape, side, self.area),
            self.job,
            layers,
            folder=self.folder,
            identity=self.identity,
            how=self.how,
            others=others,
            threads=threads,
            label=Path(self.image.name).name,
        ) as rasters:
            facts = RunFacts(
                command="restore",
                parameters=parameters,
                inputs=[self.image.name],
                model=self.job.weights,
                results={IMAGE: rasters.raster(IMAGE)},
                grid=layers[IMAGE].grid,
                folder=self.target.parent,
                architecture=self.restoration.restorer.architecture.official,
                task="super-resolution" if self.restoration.network.scale > 1 else "regression",
                bands=[text or f"band {number}" for number, text in enumerate(self.image.geo.descriptions, start=1)],
            )
            write_run_card(rasters.other("run"), facts)
            write_stac_item(rasters.other("item"), facts)
