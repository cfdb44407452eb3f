"""Features of xarray's arrays, made when they are asked for where the array is made of dask's chunks."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from ...core.precision import Precision
from ...core.sensors.model import FoundationModel
from ...core.streaming.blend import blended, reaching
from ...core.streaming.plan import Part, Plan
from ...datasets import Grid
from ...datasets.collections.layer import Layer, sample_windows
from ...datasets.collections.rasters import spectral_bands, told_bands
from ...datasets.collections.zarr_stacks import grid_of
from ...datasets.sensors import Radiometry, decide_radiometry
from ...datasets.sensors import sensor as named_sensor
from ..arrays import Cut, bands_of, image_of, name_of, nodata_of, without_nodata, xarray_module
from .embedder import Embedder, Tiling, prepare
from .parts import PartEmbedder, embed_whole
from .scenes import SensorScene, check_gsd, sensor_of_wavelengths, warn_of_gsd

if TYPE_CHECKING:
    import xarray

_SAMPLED = 4  # windows on a side that radiometry of a lazy array is decided by, as of files


@dataclass(frozen=True)
class _Use:
    """A model and how it is used; parameters as of ``embed``."""

    model: str | Path | FoundationModel | None
    layer: str
    tiling: Tiling
    device: str
    precision: Precision

    def load(self) -> Embedder:
        """Load it, or take a copy of what is loaded."""
        model = deepcopy(self.model) if isinstance(self.model, FoundationModel) else self.model
        embedder = Embedder(model, layer=self.layer, tiling=self.tiling, device=self.device, precision=self.precision)
        prepare(embedder.model, embedder.device)
        return embedder


@dataclass(frozen=True, eq=False)
class _Array:
    """What is known of an array without its values; the source of the layer is there when they are."""

    layer: Layer
    gsd: float
    nodata: tuple[float, ...]

    def cut(self, values: NDArray[Any], row: int = 0, column: int = 0) -> Layer:
        """Return the layer of values (bands, height, width) that begin there."""
        return replace(self.layer, source=Cut(without_nodata(values, self.nodata), row, column))

    def radiometry(self, samples: Sequence[NDArray[Any]]) -> Radiometry:
        """Find out what the numbers mean."""
        every = range(len(self.layer.bands))
        numbers = [self.cut(sample).numbers(every, None).reshape(len(every), -1) for sample in samples]
        return decide_radiometry(self.layer.sensor, [self.layer.sample_of(np.concatenate(numbers, 1))])

    def tile(self, embedder: Embedder, radiometry: Radiometry, values: NDArray[Any], part: Part) -> NDArray[np.float32]:
        """Embed what a part looks at."""
        scene = SensorScene(self.cut(values, part.rows.start, part.columns.start), radiometry, self.gsd)
        worker = PartEmbedder(embedder, scene)
        return worker.compute(worker.read(part), part)


def embed_array(
    array: "xarray.DataArray",
    model: str | Path | FoundationModel | None,
    *,
    sensor: str | None,
    gsd: float | None,
    layer: str,
    tiling: Tiling,
    device: str,
    precision: Precision,
) -> "xarray.DataArray":
    """Embed an array (bands, rows and columns, in whatever order).

    The features are those of a file with the same pixels. Of an array of dask's chunks nothing is read or computed before they
    are asked for, chunk by chunk: a chunk is what a tile adds to those before it.

    Args:
        array: numbers as a file of the sensor holds them, or reflectance. NaN is nodata, and so are the numbers of the attributes
            ``_FillValue``, ``missing_value`` and ``nodata``. Bands are told by names (the coordinate of their axis, or the
            attribute ``long_name``), or by the coordinate ``wavelength`` with its unit in the attribute ``units``; ``bbl`` or
            ``good_wavelengths`` tells bad bands (0).
        model, sensor, gsd, layer, tiling, device, precision: as of ``embed``.

    Returns:
        Features, float32 (feature, y, x), NaN where there is no data, with the coordinates of the tokens' centres.

    Raises:
        TypeError: no array of xarray.
        ValueError: axes or bands that cannot be told, or as of ``embed``; for what lazy values tell, when they are asked for.
    """
    cube, axes = image_of(array)
    use = _Use(model, layer, tiling, device, precision)
    embedder = Embedder(model, layer=layer, tiling=tiling, device=device, precision=precision)
    known, cube = _known(cube, axes, sensor, gsd)
    if not cube.chunks:
        whole = known.cut(cube.values)
        features: Any = np.moveaxis(embed_whole(embedder, SensorScene(whole, whole.decide(), known.gsd)), -1, 0)
    else:
        undecided = Radiometry(1.0, 0.0, known.layer.sensor.unit, "not decided")
        shape_only = SensorScene(known.layer, undecided, known.gsd)
        embedder.check(shape_only)
        features = _lazily(cube, use, known, embedder.plan(shape_only), embedder.features)
    return _labelled(cube, axes, features, known, embedder.patch)


def _known(
    cube: "xarray.DataArray", axes: tuple[str, str, str], name: str | None, gsd: float | None
) -> "tuple[_Array, xarray.DataArray]":
    """What is told of an array, and the array of its good bands."""
    check_gsd(gsd)
    where, mapping = name_of(cube), cube.encoding.get("grid_mapping")
    placed = cube if mapping is None else cube.assign_attrs(grid_mapping=mapping)
    grid = grid_of(placed, cube.coords, axes[1:], (cube.shape[1], cube.shape[2]))
    kept, wavelengths = bands_of(cube, axes[0])
    centres = None if wavelengths is None else [float(w) for w in wavelengths]
    known = sensor_of_wavelengths(where, centres is not None, grid, gsd) if name is None else named_sensor(name)
    if known.bands:
        bands = told_bands(where, known, _names(cube, axes[0], kept), centres)
    elif centres is None:
        raise ValueError(f"{where}: its bands have no wavelengths, which those of {known.name} must have")
    else:
        bands = spectral_bands(where, [band + 1 for band in kept], centres)
    scaling = float(cube.attrs.get("scale_factor", 1.0)), float(cube.attrs.get("add_offset", 0.0))
    nodata = nodata_of(cube)
    layer = Layer(
        where=where,
        sensor=known,
        bands=bands,
        indices=tuple(range(1, len(kept) + 1)),
        grid=grid,
        source=Cut(np.empty((len(kept), 0, 0), np.float32), 0, 0),
        whole=cube.dtype.kind in "iu",
        bits=8 * cube.dtype.itemsize,
        marked=bool(nodata),
        tags={str(key).lower(): value for key, value in cube.attrs.items() if isinstance(value, str)},
        scaling=None if scaling == (1.0, 0.0) else scaling,
    )
    warn_of_gsd(layer, gsd)
    return _Array(layer, gsd or layer.gsd, nodata), cube.isel({axes[0]: kept})


def _names(cube: "xarray.DataArray", axis: str, kept: Sequence[int]) -> list[str]:
    """Of bands; "" where there is none."""
    told = cube.coords[axis].values.tolist() if axis in cube.coords else []
    if not (told and all(isinstance(name, str) for name in told)):
        told = cube.attrs.get("long_name", ())
    if not (isinstance(told, list | tuple) and len(told) == cube.sizes[axis]):
        return [""] * len(kept)
    return [str(told[band] or "") for band in kept]


def _lazily(cube: "xarray.DataArray", use: _Use, known: _Array, plan: Plan, features: int) -> Any:
    """A task for each tile, and one that joins it with those that fade into it."""
    import dask.array
    from dask.delayed import delayed

    array: Any = dask.array  # whose functions have no types
    loaded = delayed(use.load)()
    height, width = cube.shape[1:]
    windows = [window.toranges() for window in sample_windows((height, width), _SAMPLED)]
    radiometry = delayed(known.radiometry)([cube.data[:, slice(*rows), slice(*columns)] for rows, columns in windows])

    def tile(part: Part) -> Any:
        looked = cube.data[:, part.rows.start : min(part.rows.stop, height), part.columns.start : min(part.columns.stop, width)]
        return delayed(known.tile)(loaded, radiometry, looked, part)

    tiles = {part.index: tile(part) for part in plan}

    def block(part: Part) -> Any:
        area = plan.finishes(part)
        made = delayed(blended)(plan, part, {other.index: tiles[other.index] for other in reaching(plan, part)})
        return array.from_delayed(made, (features, area.height, area.width), dtype=np.float32)

    across = len(plan.columns)
    return array.block([[block(plan.part(row * across + column)) for column in range(across)] for row in range(len(plan.rows))])


def _labelled(
    cube: "xarray.DataArray", axes: tuple[str, str, str], features: Any, known: _Array, patch: int
) -> "xarray.DataArray":
    xarray, grid, sizes = xarray_module(), known.layer.grid, features.shape[1:]
    coarse: dict[str, NDArray[np.float64]] = {}
    for axis, count in zip(axes[1:], sizes, strict=True):
        values = cube.coords[axis].values if axis in cube.coords else np.empty(0)
        if values.dtype.kind in "iuf" and len(values) > 1:
            coarse[axis] = _centres(values.astype(np.float64), patch, count)
    at: dict[Any, Any] = {name: found for name, found in cube.coords.items() if not found.dims and name != axes[0]}
    about = {name: cube.attrs[name] for name in ("grid_mapping",) if name in cube.attrs}
    placed = {name: cube.encoding[name] for name in ("grid_mapping",) if name in cube.encoding}
    for name, found in at.items():
        if "GeoTransform" in found.attrs:
            at[name] = found.assign_attrs(GeoTransform=" ".join(map(repr, _coarse_transform(cube, axes, grid, patch))))
    told = {"long_name": "features", "sensor": known.layer.sensor.name, "patch": patch}
    coordinates: Mapping[Any, Any] = at | {axis: (axis, values, cube.coords[axis].attrs) for axis, values in coarse.items()}
    made = xarray.DataArray(features, coords=coordinates, dims=("feature", *axes[1:]), name="embedding", attrs=about | told)
    made.encoding.update(placed)
    return made  # type: ignore[no-any-return] # xarray is imported without its types


def _centres(values: NDArray[np.float64], patch: int, count: int) -> NDArray[np.float64]:
    """Coordinates of tokens; the last one may reach beyond the array."""
    places = patch * np.arange(count) + (patch - 1) / 2
    last = len(values) - 1
    return np.asarray(np.interp(places, np.arange(last + 1), values) + np.maximum(places - last, 0) * (values[-1] - values[-2]))


def _coarse_transform(cube: "xarray.DataArray", axes: tuple[str, str, str], grid: Grid, patch: int) -> tuple[float, ...]:
    """In GDAL's order. Of an array that was cut out of another its coordinates tell the corner, the transform no longer."""
    t: Affine = grid.transform
    corner = t.c, t.f
    if t.b == t.d == 0 and all(axis in cube.coords for axis in axes[1:]):
        y, x = (float(cube.coords[axis].values[0]) for axis in axes[1:])
        corner = x - t.a / 2, y - t.e / 2
    return tuple(map(float, (corner[0], t.a * patch, t.b * patch, corner[1], t.d * patch, t.e * patch)))
