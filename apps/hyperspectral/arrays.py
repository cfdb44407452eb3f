"""Maps of xarray's arrays, made when they are asked for where the array is made of dask's chunks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from ...core.device import resolve_device
from ...core.precision import Precision, resolve_precision
from ...core.streaming.plan import Area, Part, Plan
from ...datasets import Grid, Scene
from ...datasets.raster import Numbers
from ...datasets.wavelengths import to_nm
from .mapping import ModelTeller, cost_of
from .model import Classifier, load_classifier, match_bands
from .working import Cost, SceneWorker, Wanted, lead_of, plan_of

if TYPE_CHECKING:
    import xarray

_BAND = ("band", "bands", "channel", "wavelength", "wavelengths")
_Y = ("y", "lat", "latitude", "northing", "row", "rows")
_X = ("x", "lon", "longitude", "easting", "column", "columns")
_NODATA = ("_FillValue", "missing_value", "nodata")
_SMALLEST = 256  # pixels on a side of what is computed at once: a call of torch costs as much as many pixels


@dataclass(frozen=True)
class _Cut:
    """Pixels (bands, height, width) of a rectangle of an array, of which ``row`` and ``column`` are the first."""

    values: NDArray[np.float32]
    row: int
    column: int
    block: tuple[int, int] = (_SMALLEST, _SMALLEST)

    def read(self, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        """The bands are those that there are."""
        if window is None:
            return self.values
        (top, bottom), (left, right) = window.toranges()
        return self.values[:, top - self.row : bottom - self.row, left - self.column : right - self.column]


@dataclass(frozen=True)
class _Mapper:
    """How parts of an array are mapped. It is sent to other processes, which load the model once.

    Args:
        model: file of the classifier.
        shape: rows and columns of the array.
        nodata: numbers that mean that there is none.
        cost: see ``cost_of``.
        device: that computes.
        precision: of the networks.
    """

    model: Path
    shape: tuple[int, int]
    nodata: tuple[float, ...]
    cost: Cost
    device: torch.device
    precision: torch.dtype

    def loaded(self) -> "_Loaded":
        """Load the model."""
        return _Loaded(self, load_classifier(self.model))


@dataclass(frozen=True, eq=False)
class _Loaded:
    how: _Mapper
    model: Classifier

    @cached_property
    def teller(self) -> ModelTeller:
        return ModelTeller(self.model, self.how.device, self.how.precision)

    def around(self, part: Part) -> tuple[slice, slice]:
        """Rows and columns of the array that a part looks at."""
        cell, halo = self.how.cost.cell, self.model.halo
        lead = lead_of(cell, halo)
        rows, columns = (
            slice(max(tile.first // cell * cell - lead - halo, 0), min(-(-tile.last // cell) * cell - lead + halo, size))
            for tile, size in zip((part.rows, part.columns), self.how.shape, strict=True)
        )
        return rows, columns

    def __call__(self, values: NDArray[Any], part: Part) -> NDArray[np.float32]:
        """Map what a part looks at to (3, height, width): position of the class, its probability, entropy; NaN for no data."""
        numbers = values.astype(np.float32)
        for value in self.how.nodata:
            numbers[values == value] = np.nan
        numbers[~np.isfinite(numbers)] = np.nan
        rows, columns = self.around(part)
        scene = _scene(_Cut(numbers, rows.start, columns.start), self.how.shape)
        classes = [info.value for info in self.model.info.classes]
        wanted = Wanted(area=Area(0, 0, *self.how.shape))
        worker = SceneWorker(scene, self.teller, wanted, cell=self.how.cost.cell, values=classes)
        return worker.compute(worker.read(part), part)


def _scene(source: _Cut, shape: tuple[int, int]) -> Scene:
    return Scene(
        path="array", grid=Grid(*shape, None, Affine.identity()), bands=tuple(range(1, len(source.values) + 1)), wavelengths=None,
        fwhm=None, dropped={}, nodata=None, numbers=Numbers(np.dtype(np.float32), marked=True), _source=source,
    )  # fmt: skip


def classify_array(
    array: "xarray.DataArray",
    model: Path | None,
    *,
    probabilities: bool = False,
    device: str = "auto",
    precision: Precision = "auto",
    beside: Mapping[str, Any] | None = None,
) -> Any:
    """Map an array (bands, rows and columns, in whatever order) with a model.

    The map is the one that `geovit classify --model` makes of a file with the same pixels, bit for bit. Of an array of dask's
    chunks nothing is read or computed before the map's values are asked for, chunk by chunk; each chunk of the map is a whole
    number of the squares that scenes are computed in, and looks at as much of its surroundings as the model does. The model is
    loaded once.

    Args:
        array: values as the model learned them. NaN is nodata, and so are the numbers of the attributes ``_FillValue``,
            ``missing_value`` and ``nodata``. Wavelengths are the coordinate ``wavelength`` of the bands, with its unit in the
            attribute ``units``; ``bbl`` or ``good_wavelengths`` tells bad bands (0).
        model: SCENE_model.safetensors from a fit.
        probabilities: also return the largest probability and the entropy.
        device: auto, cpu, cuda, cuda:1 or mps.
        precision: auto, fp32, bf16 or fp16.
        beside: other options of `classify`, by name, none of which may be set.

    Returns:
        Class values (uint8, or uint16 beyond 255) as a DataArray (y, x), 0 where there is no data, with the coordinates of the
        array and so its georeference; names and colours of the classes are attributes. With probabilities, a Dataset of
        ``classes``, ``probability`` and ``entropy``.

    Raises:
        TypeError: no array of xarray.
        ValueError: no model, options that are for files, axes that cannot be told, or bands that the array lacks.
    """
    xarray = _xarray()
    if not isinstance(array, xarray.DataArray):
        raise TypeError(f"scene is a {type(array).__name__}, expected a path or an xarray.DataArray")
    if unfit := [name for name, value in (beside or {}).items() if value is not None]:
        raise ValueError(f"{', '.join(unfit)} is for files: an array is mapped with a model alone")
    if model is None:
        raise ValueError("an array is mapped with a model: give one that was fitted to labels")
    classifier = load_classifier(model)
    cube, axes = _image(array)
    on = resolve_device(device)
    kept, wavelengths = _bands(cube, axes[0])
    bands = [kept[i] for i in match_bands(classifier.info, wavelengths, len(kept), _name(array))]
    cube = cube.isel({axes[0]: bands})
    shape = cube.shape[1], cube.shape[2]
    cost = cost_of(classifier.to(on), device=on, precision=(dtype := resolve_precision(precision, on)))
    nodata = tuple(float(array.attrs[name]) for name in _NODATA if isinstance(array.attrs.get(name), int | float | np.number))
    how = _Mapper(Path(model).absolute(), shape, nodata, cost, on, dtype)
    told = _lazily(cube, how, classifier) if cube.chunks else _at_once(cube, how, classifier)
    return _labelled(cube, axes, told, classifier, probabilities)


def _xarray() -> Any:
    try:
        import xarray
    except ImportError as error:
        raise ValueError("arrays are xarray's: pip install 'geovit[xarray]'") from error
    return xarray


def _name(array: "xarray.DataArray") -> str:
    return str(array.name or "array")


def _image(array: "xarray.DataArray") -> "tuple[xarray.DataArray, tuple[str, str, str]]":
    """The array as (bands, rows, columns), and the names of these axes; axes of one step beside them go."""
    shown = ", ".join(f"{name}: {size}" for name, size in array.sizes.items())
    axes = []
    for what, names in (("bands", _BAND), ("rows", _Y), ("columns", _X)):
        found = [str(name) for name in array.dims if str(name).lower() in names]
        if len(found) != 1:
            raise ValueError(f"{_name(array)}: axes ({shown}), expected one of {what} named {', '.join(names)}")
        axes += found
    others = [name for name in array.dims if name not in axes]
    if any(array.sizes[name] != 1 for name in others) or 0 in array.shape:
        raise ValueError(f"{_name(array)}: axes ({shown}), expected bands, rows and columns, and nothing else of several steps")
    if array.dtype.kind not in "iufb":
        raise ValueError(f"{_name(array)}: data type {array.dtype}, expected real numbers")
    band, y, x = axes
    return array.squeeze(others, drop=True).transpose(band, y, x), (band, y, x)


def _bands(cube: "xarray.DataArray", axis: str) -> tuple[list[int], NDArray[np.float64] | None]:
    """Positions of the bands that are not bad, by wavelength, and their wavelengths in nm; None if there are none."""
    kept = np.arange(cube.sizes[axis])
    for name in ("bbl", "good_wavelengths"):
        if name in cube.coords and cube.coords[name].dims == (axis,):
            kept = kept[np.asarray(cube.coords[name].values, dtype=np.float64)[kept] != 0]
    for name in ("wavelength", "wavelengths"):
        if name in cube.coords and cube.coords[name].dims == (axis,):
            coordinate = cube.coords[name]
            unit = coordinate.attrs.get("units", cube.attrs.get("wavelength_units"))
            centres, _ = to_nm(np.asarray(coordinate.values, dtype=np.float64)[kept].tolist(), None, unit, _name(cube))
            order = np.argsort(centres, kind="stable")
            return kept[order].tolist(), centres[order]
    return kept.tolist(), None


def _parts(how: _Mapper, halo: int, side: int) -> Plan:
    cell = how.cost.cell
    largest, smallest = max(how.cost.largest // cell, 1), max(_SMALLEST // cell, 1)
    whole = min(max(side // cell, smallest), largest) * cell
    return plan_of(how.shape, Area(0, 0, *how.shape), side=whole, cell=cell, halo=halo)


def _at_once(cube: "xarray.DataArray", how: _Mapper, model: Classifier) -> NDArray[np.float32]:
    loaded, plan = _Loaded(how, model), _parts(how, model.halo, _SMALLEST)
    values = cube.values
    told = np.empty((ModelTeller.channels, *how.shape), np.float32)
    for part in plan:
        rows, columns = loaded.around(part)
        area, (down, across) = plan.place(part)
        place = slice(area.row, area.row + area.height), slice(area.column, area.column + area.width)
        told[:, place[0], place[1]] = loaded(values[:, rows, columns], part)[:, down, across]
    return told


def _lazily(cube: "xarray.DataArray", how: _Mapper, model: Classifier) -> Any:
    """One task for each part: calls of torch are too slow for chunks as small as arrays often have."""
    import dask.array
    from dask.delayed import delayed

    array: Any = dask.array  # whose functions have no types
    loaded = delayed(how.loaded)()
    chunks = cube.data.chunks[1:]
    around, plan = _Loaded(how, model).around, _parts(how, model.halo, max(max(sizes) for sizes in chunks))

    def block(part: Part) -> Any:
        rows, columns = around(part)
        area, (down, across) = plan.place(part)
        looked = cube.data[:, rows, columns]
        shape = ModelTeller.channels, area.height, area.width
        return array.from_delayed(delayed(_told)(loaded, looked, part, down, across), shape, dtype=np.float32)

    def rows() -> Iterator[list[Any]]:
        for row in range(len(plan.rows)):
            yield [block(plan.part(row * len(plan.columns) + column)) for column in range(len(plan.columns))]

    return array.block(list(rows()))


def _told(loaded: _Loaded, values: NDArray[Any], part: Part, rows: slice, columns: slice) -> NDArray[np.float32]:
    return loaded(values, part)[:, rows, columns]


def _labelled(cube: "xarray.DataArray", axes: tuple[str, str, str], told: Any, model: Classifier, probabilities: bool) -> Any:
    xarray, classes = _xarray(), model.info.classes
    values = np.array([0, *(info.value for info in classes)])
    values = values.astype(np.uint8 if values.max() <= np.iinfo(np.uint8).max else np.uint16)
    at = {name: found for name, found in cube.coords.items() if axes[0] not in found.dims and name != axes[0]}
    about = {name: cube.attrs[name] for name in ("grid_mapping",) if name in cube.attrs}
    placed = {name: cube.encoding[name] for name in ("grid_mapping",) if name in cube.encoding}

    def plane(numbers: Any, name: str, attributes: Mapping[str, Any]) -> Any:
        found = xarray.DataArray(numbers, coords=at, dims=axes[1:], name=name, attrs=about | dict(attributes))
        found.encoding.update(placed)
        return found

    def values_of(positions: NDArray[np.float32]) -> NDArray[Any]:
        return np.asarray(values[np.where(np.isfinite(positions), positions + 1, 0).astype(np.int64)])

    chosen = told[0].map_blocks(values_of, dtype=values.dtype) if hasattr(told, "dask") else values_of(told[0])
    mapped = plane(chosen, "classes", {
        "long_name": "class", "_FillValue": values.dtype.type(0),
        "class_values": [info.value for info in classes], "class_names": [info.name for info in classes],
        "class_colors": ["#{:02x}{:02x}{:02x}".format(*info.color) for info in classes],
    })  # fmt: skip
    if not probabilities:
        return mapped
    return xarray.Dataset({
        "classes": mapped,
        "probability": plane(told[1], "probability", {"long_name": "largest class probability, calibrated"}),
        "entropy": plane(told[2], "entropy", {"long_name": "entropy, 0 sure to 1 undecided"}),
    })  # fmt: skip
