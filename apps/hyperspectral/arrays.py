"""Maps of xarray's arrays, made when they are asked for where the array is made of dask's chunks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray

from ...core.device import resolve_device
from ...core.precision import Precision, resolve_precision
from ...core.streaming.plan import Area, Part, Plan
from ...datasets import Grid, Scene
from ...datasets.classes import map_type
from ...datasets.raster_source import Numbers
from ..arrays import Cut, bands_of, image_of, name_of, nodata_of, without_nodata, xarray_module
from .mapping import ModelTeller, cost_of
from .model import Classifier, load_classifier, match_bands
from .working import Cost, SceneWorker, Wanted, lead_of, plan_of

if TYPE_CHECKING:
    import xarray

_SMALLEST = 256  # pixels on a side of what is computed at once: a call of torch costs as much as many pixels


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
        numbers = without_nodata(values, self.how.nodata)
        rows, columns = self.around(part)
        scene = _scene(Cut(numbers, rows.start, columns.start), self.how.shape)
        classes = [info.value for info in self.model.info.classes]
        wanted = Wanted(area=Area(0, 0, *self.how.shape))
        worker = SceneWorker(scene, self.teller, wanted, cell=self.how.cost.cell, values=classes)
        return worker.compute(worker.read(part), part)


def _scene(source: Cut, shape: tuple[int, int]) -> Scene:
    return Scene(
        path="array", grid=Grid(*shape, None, Affine.identity()), bands=tuple(range(1, len(source.values) + 1)), wavelengths=None,
        fwhm=None, dropped={}, nodata=None, numbers=Numbers(np.dtype(np.float32), marked=True), _source=source,
    )  # fmt: skip


def classify_array(
    array: "xarray.DataArray",
    model: str | Path | None,
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
    cube, axes = image_of(array)
    if unfit := [name for name, value in (beside or {}).items() if value is not None]:
        raise ValueError(f"{', '.join(unfit)} is for files: an array is mapped with a model alone")
    if model is None:
        raise ValueError("an array is mapped with a model: give one that was fitted to labels")
    classifier = load_classifier(model)
    on = resolve_device(device)
    kept, wavelengths = bands_of(cube, axes[0])
    bands = [kept[i] for i in match_bands(classifier.info, wavelengths, len(kept), name_of(array))]
    cube = cube.isel({axes[0]: bands})
    shape = cube.shape[1], cube.shape[2]
    cost = cost_of(classifier.to(on), device=on, precision=(dtype := resolve_precision(precision, on)))
    how = _Mapper(Path(model).absolute(), shape, nodata_of(array), cost, on, dtype)
    told = _lazily(cube, how, classifier) if cube.chunks else _at_once(cube, how, classifier)
    return _labelled(cube, axes, told, classifier, probabilities)


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
    xarray, classes = xarray_module(), model.info.classes
    values = np.array([0, *(info.value for info in classes)])
    values = values.astype(map_type(values.tolist()))
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
        "class_colors": [info.hex for info in classes],
    })  # fmt: skip
    if not probabilities:
        return mapped
    return xarray.Dataset({
        "classes": mapped,
        "probability": plane(told[1], "probability", {"long_name": "largest class probability, calibrated"}),
        "entropy": plane(told[2], "entropy", {"long_name": "entropy, 0 sure to 1 undecided"}),
    })  # fmt: skip
