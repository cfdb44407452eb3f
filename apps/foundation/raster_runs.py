"""Scenes of any size to rasters of features, part by part: what is finished outlives a crash, and memory does not grow."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ... import __version__
from ...core.memory import bytes_allowed, used_bytes
from ...core.precision import Precision
from ...core.streaming.plan import Area
from ...datasets.areas import AreaMask, window_of
from ...datasets.growing import GrowingRasters, Layer, growing_cog
from ...datasets.identity import content_of, sha256
from ..cards import RunFacts, write_run_card, write_stac_item
from ..forecasting import Forecast, forecast
from ..streaming import RunOptions, carried_out, compute_threads, unfinished_folder
from .components import Components, write_picture
from .embedder import Embedder, Tiling, evaluating, prepare
from .embedding import token_grid
from .parts import EMBEDDING, PartEmbedder
from .scenes import SensorScene

DType = Literal["float16", "float32", "int8"]
_STRIP_VALUES = 2**22  # read at a time: 16 MB
_NO_DATA = -128  # of int8
_QUANTIZED, _COLOURS, _PICTURE, _RUN, _ITEM = "quantized", "pca", "picture", "run", "item"


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(RunOptions):
    """How scenes are gone through, and what is written; options as of ``embed_files``."""

    dtype: DType = "float16"
    pca: bool = False
    mask: str | None = None


@dataclass(frozen=True)
class ModelUse:
    """A model file and how it is used, to be sent to other processes; parameters as of ``embed``."""

    file: Path
    layer: str
    tiling: Tiling
    device: str
    precision: Precision

    def load(self) -> Embedder:
        """Load it."""
        return Embedder(self.file, layer=self.layer, tiling=self.tiling, device=self.device, precision=self.precision)


@dataclass(eq=False)
class EmbedJob:
    """Embeds parts of a scene, in this process or another.

    Args:
        use: of the model.
        opened: the scene.
        mask: see ``PartEmbedder``, likewise ``corner``.
        here: the model, if it is loaded already and in evaluation mode; it does not go to other processes.
    """

    use: ModelUse
    opened: SensorScene
    mask: AreaMask | None
    corner: tuple[int, int]
    here: Embedder | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "here": None}

    def open(self) -> PartEmbedder:
        """Load the model."""
        if self.here is None:
            self.here = self.use.load()
            prepare(self.here.model, self.here.device)
        return PartEmbedder(self.here, self.opened, self.mask, self.corner)


class SceneRun:
    """One scene that is to be embedded.

    Args:
        embedder: the model.
        use: what it was made of.
        opened: the scene.
        given: its name, as the user wrote it.
        targets: the raster of features, and if there are colours, their raster and picture.
        how: it is gone through.

    Raises:
        ValueError: bounds or mask beside the scene, bands that the model has no scale for, or not enough memory.
    """

    def __init__(
        self, embedder: Embedder, use: ModelUse, opened: SensorScene, given: str, targets: Sequence[Path], how: EmbedOptions
    ) -> None:
        embedder.check(opened)
        self.embedder, self.use, self.opened, self.given, self.how = embedder, use, opened, given, how
        self.target, self.colours = targets[0], targets[1:]
        self.folder = unfinished_folder(self.target)
        patch, (rows, columns) = embedder.patch, opened.shape
        row, column, height, width = (0, 0, rows, columns) if how.bounds is None else window_of(opened.grid, how.bounds)
        top, left, bottom, right = row // patch, column // patch, -(-(row + height) // patch), -(-(column + width) // patch)
        self.area = Area(top * patch, left * patch, (bottom - top) * patch, (right - left) * patch)
        self.grid = token_grid(opened.grid, patch).part(left, top, right - left, bottom - top)
        mask = None if how.mask is None else AreaMask.of(how.mask, opened.grid)
        self.job = EmbedJob(use, opened, mask, (self.area.row, self.area.column), embedder)

    @cached_property
    def threads(self) -> int:
        """How many tiles are encoded at the same time.

        Raises:
            ValueError: memory does not suffice for one.
        """
        given, device = self.how.max_memory, self.embedder.device
        allowed = bytes_allowed(given)
        if allowed is not None and device.type == "cpu":
            needed = used_bytes(device) + self.embedder.bytes_of(self.opened)
            if needed > allowed:
                raise ValueError(
                    f"{self.opened.where}: tiles of {self.embedder.tile} pixels need {needed / 1e9:.2f} GB; allowed are "
                    f"{given:.2f} GB: pass a smaller --tiling.tile"
                )
        bytes_of = {count: self.embedder.bytes_of(self.opened, count) for count in (1, 2)}
        each = bytes_of[2] - bytes_of[1]
        return compute_threads(self.embedder.device, lambda count: bytes_of[1] + (count - 1) * each, max_memory=given)

    @property
    def tags(self) -> dict[str, str]:
        """What the files tell of how they were made."""
        scene = self.opened
        return {
            "GEOVIT_VERSION": __version__,
            "GEOVIT_MODEL": self.use.file.name,
            "GEOVIT_MODEL_SHA256": self._model,
            "GEOVIT_LAYER": self.use.layer,
            "GEOVIT_PATCH": str(self.embedder.patch),
            "GEOVIT_TILE": str(self.embedder.tile),
            "GEOVIT_HALO": str(self.embedder.halo),
            "GEOVIT_SENSOR": scene.sensor,
            "GEOVIT_BANDS": ",".join(band.name for band in scene.bands),
            "GEOVIT_GSD": f"{scene.gsd:g}",
        }

    @cached_property
    def _model(self) -> str:
        return sha256(self.use.file)

    @property
    def layers(self) -> dict[str, Layer]:
        """The raster that grows. For int8 the largest feature must be known first: then it is kept as floats meanwhile."""
        whole = self.how.dtype != "int8"
        layer = Layer(
            path=self.target if whole else None,
            grid=self.grid,
            bands=self.embedder.features,
            dtype=self.how.dtype if whole else "float32",
            nodata=float("nan"),
            descriptions=self.descriptions,
            tags=self.tags,
        )
        return {EMBEDDING: layer}

    @property
    def descriptions(self) -> list[str]:
        """Of the features."""
        return [f"feature {k}" for k in range(self.embedder.features)]

    @property
    def others(self) -> dict[str, Path]:
        """Files beside the raster that grows."""
        stem = self.target.with_suffix("").name
        others = {kind: self.target.with_name(f"{stem}_{kind}.json") for kind in (_RUN, _ITEM)}
        others |= dict(zip((_COLOURS, _PICTURE), self.colours, strict=False))
        return others | ({_QUANTIZED: self.target} if self.how.dtype == "int8" else {})

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result."""
        area = self.area
        return {
            "command": "embed",
            "scene": content_of(self.given),
            "mask": content_of(self.how.mask),
            "precision": str(self.embedder.dtype),
            "valid": self.embedder.valid,
            "area": [area.row, area.column, area.height, area.width],
        }

    def forecast(self) -> Forecast:
        """Tell what it will take, and write nothing."""
        plan = self.embedder.plan(self.opened, self.area)
        memory = used_bytes(self.embedder.device) + self.embedder.bytes_of(self.opened, self.threads)
        with evaluating(self.embedder.model, self.embedder.device):
            return forecast(plan, self.job, self.layers, memory=memory, threads=self.threads, dask=self.how.dask)

    def embed(self, parameters: Mapping[str, Any]) -> None:
        """Embed it and write all files.

        Args:
            parameters: of the command, for the card.

        Raises:
            ValueError, OSError: as of ``embed_files``; what is finished is kept, and can be gone on with.
        """
        how = self.how
        with (
            evaluating(self.embedder.model, self.embedder.device),
            carried_out(
                self.embedder.plan(self.opened, self.area),
                self.job,
                self.layers,
                folder=self.folder,
                identity=self.identity,
                how=how,
                others=self.others,
                threads=self.threads,
                label=Path(self.given).name,
            ) as rasters,
        ):
            if not any(facts["tokens"] for facts in rasters.facts):
                rasters.give_up()
                raise ValueError(f"{self.opened.where}: no token has enough pixels with data")
            if how.dtype == "int8":
                self._quantize(rasters)
            if how.pca:
                self._colour(rasters)
            self._tell(rasters, parameters)

    def _strips(self, rasters: GrowingRasters) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Rows of features (rows, columns, features), from top to bottom."""
        strip = max(1, _STRIP_VALUES // (self.grid.width * self.embedder.features))
        for row in range(0, self.grid.height, strip):
            values = rasters.read(EMBEDDING, row, 0, min(strip, self.grid.height - row), self.grid.width)
            yield row, np.moveaxis(values, 0, -1).astype(np.float32)

    def _quantize(self, rasters: GrowingRasters) -> None:
        largest = np.zeros(self.embedder.features)
        for _, values in self._strips(rasters):
            largest = np.maximum(largest, np.nan_to_num(np.abs(values), nan=0.0).max(axis=(0, 1)))
        scales = np.maximum(largest, 1e-12) / 127
        layer = replace(self.layers[EMBEDDING], path=self.target, dtype="int8", nodata=_NO_DATA, scales=scales.tolist())
        with growing_cog(rasters.other(_QUANTIZED), layer, overwrite=True) as raster:
            for row, values in self._strips(rasters):
                whole = np.nan_to_num(np.rint(values / scales), nan=_NO_DATA).astype(np.int8)
                raster.write(np.moveaxis(whole, -1, 0), row, 0)

    def _colour(self, rasters: GrowingRasters) -> None:
        components = Components.of((values for _, values in self._strips(rasters)), self.embedder.features)
        layer = Layer(
            path=self.colours[0],
            grid=self.grid,
            bands=3,
            dtype="uint8",
            nodata=0,
            descriptions=["component 1", "component 2", "component 3"],
            tags=self.tags,
        )
        with growing_cog(rasters.other(_COLOURS), layer, overwrite=True) as raster:
            for row, values in self._strips(rasters):
                raster.write(np.moveaxis(components.colours(values), -1, 0), row, 0)
        write_picture(rasters.other(_PICTURE), rasters.other(_COLOURS))

    def _tell(self, rasters: GrowingRasters, parameters: Mapping[str, Any]) -> None:
        results = {EMBEDDING: rasters.other(_QUANTIZED) if self.how.dtype == "int8" else rasters.raster(EMBEDDING)}
        if self.how.pca:
            results |= {kind: rasters.other(kind) for kind in (_COLOURS, _PICTURE)}
        facts = RunFacts(
            command="embed",
            parameters=parameters,
            inputs=[self.given] if self.how.mask is None else [self.given, self.how.mask],
            model=self.use.file,
            results=results,
            grid=self.grid,
            folder=self.target.parent,
            architecture=type(self.embedder.model.encoder).__name__,
            task="similarity-search",
            bands=[band.name for band in self.opened.bands],
        )
        write_run_card(rasters.other(_RUN), facts)
        write_stac_item(rasters.other(_ITEM), facts)
