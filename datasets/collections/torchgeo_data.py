"""Data sets and samplers of torchgeo as collections."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.windows import Window

from ..grid import Grid
from ..sensors import Radiometry, Sensor
from ..sensors import sensor as sensor_of
from .collection import Collection, OnError
from .layer import Layer, together
from .place import Place
from .rasters import named_bands


class _Dataset(Protocol):
    """torchgeo's ``NonGeoDataset``, asked by number, or ``GeoDataset``, asked by the queries of a sampler."""

    def __getitem__(self, query: Any) -> dict[str, Any]: ...

    def __len__(self) -> int: ...


def from_torchgeo(
    dataset: _Dataset,
    *,
    sensor: str,
    bands: Sequence[str] | None = None,
    sampler: Iterable[Any] | None = None,
    radiometry: Radiometry | None = None,
    on_error: OnError = "raise",
    check: bool = True,
    keep_mib: int = 256,
) -> Collection:
    """Make a collection of a data set of torchgeo: each of its samples is a place, its ``mask`` the labels.

    Args:
        dataset: a ``NonGeoDataset``, or a ``GeoDataset`` with a sampler.
        sensor: of its images.
        bands: their names in the order of the data set's images; by default what it tells as ``bands``, else the sensor's order.
        sampler: of a ``GeoDataset``: its queries, drawn once, are the places.
        radiometry: what the numbers mean, where that is not to be found out.
        on_error, check, keep_mib: as for ``open_collection``.

    Raises:
        ValueError: a ``GeoDataset`` without sampler, samples that are no images or not of the sensor's bands, or no sample.
    """
    known = sensor_of(sensor)
    source = f"torchgeo {type(dataset).__name__}"
    placed = hasattr(dataset, "crs") and hasattr(dataset, "bounds")
    if placed and sampler is None:
        raise ValueError(f"{source}: a GeoDataset needs a sampler, such as torchgeo.samplers.GridGeoSampler")
    queries = list(range(len(dataset))) if sampler is None else list(sampler)
    if not queries:
        raise ValueError(f"{source}: no samples")
    first = _image(dataset, queries[0], source)
    found = _bands(source, dataset, known, bands, len(first))
    finite = first[np.isfinite(first)]
    # torchgeo gives floats, whatever the file holds.
    whole = bool((finite == np.round(finite)).all()) and float(finite.max(initial=0)) > 1
    height, width = first.shape[1:]
    layers = [
        Layer(
            where=source,
            sensor=known,
            bands=found,
            indices=tuple(range(1, len(found) + 1)),
            grid=_grid(dataset, query, height, width) if placed else Grid(height, width, None, Affine.identity()),
            source=_Samples(dataset, query, source, first.shape),
            whole=whole,
            told=radiometry,
        )
        for query in queries
    ]
    labelled = "mask" in dataset[queries[0]]
    members = {
        f"{i:06d}": Place({known.name: layer}, _Mask(dataset, query, source, layer.grid) if labelled else None)
        for i, (query, layer) in enumerate(zip(queries, together(layers), strict=True))
    }
    collection = Collection(source, members, keep_mib)
    return collection.check(on_error=on_error) if check else collection


@dataclass(frozen=True)
class _Samples:
    dataset: _Dataset
    query: Any
    where: str
    shape: tuple[int, ...]

    def read(self, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        image = _image(self.dataset, self.query, self.where)
        if image.shape != self.shape:
            raise ValueError(f"{self.where}: sample {self.query} is of shape {image.shape}, the first is of {self.shape}")
        picked = image[[band - 1 for band in bands]]
        if window is None:
            return picked
        (top, bottom), (left, right) = window.toranges()
        return picked[:, top:bottom, left:right]


@dataclass(frozen=True)
class _Mask:
    dataset: _Dataset
    query: Any
    where: str
    grid: Grid

    def read(self, window: Window | None = None) -> NDArray[np.int64]:
        """Return classes (height, width)."""
        codes: NDArray[np.int64] = np.squeeze(np.asarray(self.dataset[self.query]["mask"])).astype(np.int64)
        if codes.shape != self.grid.shape:
            raise ValueError(f"{self.where}: the mask of sample {self.query} is of shape {codes.shape}, not {self.grid.shape}")
        if window is None:
            return codes
        (top, bottom), (left, right) = window.toranges()
        return codes[top:bottom, left:right]


def _image(dataset: _Dataset, query: Any, where: str) -> NDArray[np.float32]:
    sample = dataset[query]
    if "image" not in sample:
        raise ValueError(f"{where}: its samples hold {', '.join(sample)}, expected image")
    image = np.asarray(sample["image"]).astype(np.float32)
    if image.ndim != 3:
        raise ValueError(f"{where}: images of shape {image.shape}, expected bands, height and width")
    image[~np.isfinite(image)] = np.nan
    return image


def _bands(where: str, dataset: Any, known: Sensor, bands: Sequence[str] | None, count: int) -> Any:
    told = getattr(dataset, "bands", None) if bands is None else bands
    if told is not None and len(told) == count and (bands is not None or all(known.band(str(name)) for name in told)):
        return named_bands(where, known, [str(name) for name in told])
    if bands is not None:
        raise ValueError(f"{where}: {count} bands, but {len(bands)} names are given: {', '.join(bands)}")
    if count == len(known.bands):
        return known.bands
    raise ValueError(f"{where}: {count} bands without names, expected the {len(known.bands)} of {known.name}; or name them")


def _grid(dataset: Any, query: Any, height: int, width: int) -> Grid:
    """Where a query lies: slices of x, y and time, or in old versions a box."""
    if hasattr(query, "minx"):
        left, right, bottom, top = query.minx, query.maxx, query.miny, query.maxy
    else:
        x, y, *_ = query
        left, right, bottom, top = x.start, x.stop, y.start, y.stop
    across, down = (right - left) / width, (top - bottom) / height
    return Grid(height, width, CRS.from_wkt(dataset.crs.to_wkt()), Affine(across, 0.0, left, 0.0, -down, top))
