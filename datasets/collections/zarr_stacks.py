"""Zarr stores: arrays (sample, band, y, x), or as xarray writes them."""

import struct
from base64 import b64decode
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError

from ..grid import Grid
from ..sensors import Band, Sensor, find_sensor, sensor
from ..sensors.sensor import plain
from ..wavelengths import to_nm
from .folders import LABELS, Reading
from .layer import Layer, together
from .place import Place
from .rasters import bands_at, check_wavelengths, named_bands, picked
from .zarr_store import ZarrImage, ZarrLabels, ZarrScl, opened

_BAND = {"band", "bands", "channel", "channels", "wavelength", "wavelengths"}
_Y = {"y", "lat", "latitude", "northing", "row", "rows", "height"}
_X = {"x", "lon", "longitude", "easting", "column", "columns", "width"}


def places_of_zarr(store: Path, sensors: Sequence[str] | Mapping[str, str] | None, reading: Reading) -> dict[str, Place]:
    """List the images of a Zarr store: one for each step of the axes before band, y and x, such as sample or time.

    Axes are told by ``_ARRAY_DIMENSIONS`` (version 2) or ``dimension_names`` (version 3), else bands, y and x are the last three.
    Bands are told by the coordinate ``band`` or ``wavelength``, or by attributes of the array of such names; else they are the
    sensor's in its order. Whole numbers without bands beside them are labels if they are called LULC, labels and so on, and hide
    clouds if they are called SCL.

    Args:
        store: folder or zip of the store.
        sensors: of the arrays by their paths; or one, of the only array; None where the arrays' names tell it.
        reading: how.

    Raises:
        ValueError: no such array, axes or bands that cannot be told, or arrays of different places.
    """
    found: dict[str, dict[str, Layer]] = {}
    labels: dict[str, ZarrLabels] = {}
    with opened(str(store)) as root:
        for path, known in _arrays(str(store), root, sensors).items():
            layers, classes = _layers(str(store), root, path, known, reading)
            for place, layer in layers.items():
                found.setdefault(place, {})[known.name] = reading.told(layer)
            labels = classes | labels
    every = set().union(*found.values()) if found else set()
    if reading.paired and (alone := [place for place, held in found.items() if set(held) != every]):
        raise ValueError(
            f"{store}: {len(alone)} of {len(found)} places are not in all arrays: {alone[0]}; "
            "allowed only if they need not be paired"
        )
    return {place: Place(held, labels.get(place)) for place, held in found.items()}


def _arrays(store: str, root: Any, sensors: Sequence[str] | Mapping[str, str] | None) -> dict[str, Sensor]:
    """The sensor of each array, by path."""
    paths = [""] if hasattr(root, "shape") else sorted(image_arrays(root))
    if isinstance(sensors, Mapping):
        if lacking := [path for path in sensors if path not in paths]:
            raise ValueError(f"{store}: no array {lacking[0]!r} of images, it has {', '.join(paths) or 'none'}")
        return {path: sensor(name) for path, name in sensors.items()}
    known = {path: named for path in paths if (named := _named(path))}
    if sensors is not None:
        wanted = [sensor(name) for name in sensors]
        if not known and len(wanted) == 1 and len(paths) == 1:
            return {paths[0]: wanted[0]}
        known = {path: named for path, named in known.items() if named in wanted}
        if lacking := [each.name for each in wanted if each not in known.values()]:
            raise ValueError(f"{store}: no array is named as {lacking[0]}, its arrays are {', '.join(paths) or 'none'}")
    if not known:
        raise ValueError(f"{store}: tell the sensor of its arrays, which are {', '.join(paths) or 'none'}")
    return known


def _named(path: str) -> Sensor | None:
    return next((found for part in reversed(path.split("/")) if (found := find_sensor(part))), None)


def image_arrays(group: Any, prefix: str = "") -> list[str]:
    """Paths of arrays with bands, rows and columns."""
    paths = [f"{prefix}{name}" for name, array in group.arrays() if array.ndim >= 3]
    for name, part in group.groups():
        paths += image_arrays(part, f"{prefix}{name}/")
    return paths


def dimensions(array: Any) -> list[str] | None:
    names = array.attrs.get("_ARRAY_DIMENSIONS") or getattr(array.metadata, "dimension_names", None)
    return None if names is None or None in names else [str(name) for name in names]


def _layers(store: str, root: Any, path: str, known: Sensor, reading: Reading) -> tuple[dict[str, Layer], dict[str, ZarrLabels]]:
    """Images of an array and the classes beside it, by place."""
    array = root[path] if path else root
    where = f"{store}/{path}" if path else store
    beside = root[path.rpartition("/")[0]] if "/" in path else (root if path else None)
    names = dimensions(array) or [*(f"axis{i}" for i in range(array.ndim - 3)), "band", "y", "x"]
    axes = image_axes(where, names)
    before = [i for i in range(array.ndim) if i not in axes]
    if before != list(range(array.ndim - 3)):
        raise ValueError(f"{where}: axes are {', '.join(names)}, expected samples or times before band, y and x")
    band, row, column = axes
    order = (band - len(before), row - len(before), column - len(before))
    given = reading.bands.get(known.name)
    indices = tuple(range(1, array.shape[band] + 1))
    if given is not None:
        indices = picked(where, indices, given)
    bands = _bands(where, array, beside, names[band], array.shape[band], known, given)
    grid = grid_of(array, beside, (names[row], names[column]), (array.shape[row], array.shape[column]))
    fill = fill_of(array)
    attributes = {str(key).lower(): str(value) for key, value in array.attrs.items() if isinstance(value, str | int | float)}
    scaling = None
    if "scale_factor" in array.attrs or "add_offset" in array.attrs:
        scaling = float(array.attrs.get("scale_factor", 1.0)), float(array.attrs.get("add_offset", 0.0))
    steps = list(product(*(range(array.shape[i]) for i in before)))
    plane = (*(array.shape[i] for i in before), *grid.shape)
    clouds = _plane(beside, path, {"scl"}, plane) if known.optical else None
    classes = _plane(beside, path, LABELS, plane)
    layers = [
        Layer(
            where=where,
            sensor=known,
            bands=bands,
            indices=indices,
            grid=grid,
            source=ZarrImage(store, path, step, order, fill),
            whole=np.dtype(array.dtype).kind in "ui",
            bits=8 * np.dtype(array.dtype).itemsize,
            marked=fill is not None,
            tags=attributes,
            scaling=scaling,
            mask=None if clouds is None else ZarrScl(store, clouds, step, grid),
        )
        for step in steps
    ]
    places = _names(store, beside, [names[i] for i in before], steps)
    labels = [] if classes is None else [ZarrLabels(store, classes, step, grid) for step in steps]
    return dict(zip(places, together(layers), strict=True)), dict(zip(places, labels, strict=False))


def _plane(beside: Any, path: str, names: Collection[str], shape: tuple[int, ...]) -> str | None:
    """Path of an array beside another, of a name and shape."""
    if beside is None:
        return None
    for name, array in beside.arrays():
        if plain(name) in names and array.shape == shape and np.dtype(array.dtype).kind in "ui":
            return f"{path.rpartition('/')[0]}/{name}".lstrip("/")
    return None


def image_axes(where: str, names: Sequence[str]) -> tuple[int, int, int]:
    found = []
    for allowed in (_BAND, _Y, _X):
        at = [i for i, name in enumerate(names) if name.lower() in allowed]
        if len(at) != 1:
            raise ValueError(f"{where}: axes are {', '.join(names)}, expected one of {', '.join(sorted(allowed))}")
        found.append(at[0])
    return found[0], found[1], found[2]


def _coordinate(beside: Any, name: str) -> Any:
    if beside is None or name not in beside:
        return None
    array = beside[name]
    return array if hasattr(array, "shape") and array.ndim == 1 else None


def _bands(
    where: str, array: Any, beside: Any, axis: str, count: int, known: Sensor, given: Sequence[str | None] | None
) -> tuple[Band, ...]:
    if given is not None:
        return named_bands(where, known, [name for name in given if name is not None])
    wavelengths = wavelengths_of(where, array, beside, axis)
    if not known.bands:
        if wavelengths is None:
            raise ValueError(f"{where}: its bands have no wavelengths, which those of {known.name} must have in the file")
        if len(wavelengths) != count:
            raise ValueError(f"{where}: {len(wavelengths)} wavelengths for {count} bands")
        return tuple(Band(f"B{i:03d}", float(w)) for i, w in enumerate(wavelengths, start=1))
    coordinate = _coordinate(beside, axis)
    names = array.attrs.get("bands", array.attrs.get("band"))
    if names is None and coordinate is not None and np.dtype(coordinate.dtype).kind not in "iuf":
        names = coordinate[:]
    if names is not None and len(names) == count:
        return named_bands(where, known, [str(name) for name in names])
    if wavelengths is not None and len(wavelengths) == count:
        return bands_at(where, known, wavelengths.tolist())
    if count == len(known.bands):
        return known.bands
    raise ValueError(f"{where}: {count} bands without names, expected the {len(known.bands)} of {known.name}; or name them")


def wavelengths_of(where: str, array: Any, beside: Any, axis: str) -> NDArray[np.float64] | None:
    """In nm, from attributes or coordinates; None if there are none."""
    for name in ("wavelength", "wavelengths", "center_wavelength"):
        values = array.attrs.get(name)
        if isinstance(values, list):
            unit = array.attrs.get("wavelength_units", array.attrs.get("wavelength_unit"))
            break
        coordinate = _coordinate(beside, name)
        if coordinate is not None:
            values, unit = coordinate[:], coordinate.attrs.get("units")
            break
    else:
        return None
    centres = to_nm([float(v) for v in values], None, None if unit is None else str(unit), where)[0]
    check_wavelengths(where, centres.tolist())
    return centres


def grid_of(array: Any, beside: Any, axes: tuple[str, str], shape: tuple[int, int]) -> Grid:
    """Where the pixels of an array lie.

    The CRS is told by attributes as CF (``crs_wkt`` of the grid mapping), rioxarray, GDAL, or GeoZarr's ``proj:`` write them; the
    place by ``GeoTransform`` (GDAL's order), ``transform`` or ``spatial:transform`` (affine order), else by coordinates of
    pixel centres.
    """
    attributes = dict(array.attrs)
    mapping = next((name for name in (attributes.get("grid_mapping"), "spatial_ref", "crs") if name and _in(beside, name)), None)
    if mapping is not None:
        attributes |= dict(beside[mapping].attrs)
    crs = None
    names = ("crs_wkt", "spatial_ref", "proj:code", "proj:wkt2", "proj:epsg", "crs")
    if (text := next((attributes[name] for name in names if attributes.get(name) is not None), None)) is not None:
        try:
            crs = CRS.from_user_input(text)
        except CRSError as error:
            raise ValueError(f"{array.name}: CRS {str(text)[:60]!r} cannot be read") from error
    if (transform := _transform(attributes)) is not None:
        return Grid(*shape, crs, transform)
    ys, xs = (None if (found := _coordinate(beside, name)) is None else np.asarray(found[:], np.float64) for name in axes)
    if xs is None or ys is None or len(xs) != shape[1] or len(ys) != shape[0] or min(shape) < 2:
        return Grid(*shape, None, Affine.identity())
    across, down = (xs[-1] - xs[0]) / (len(xs) - 1), (ys[-1] - ys[0]) / (len(ys) - 1)
    return Grid(*shape, crs, Affine(across, 0.0, xs[0] - across / 2, 0.0, down, ys[0] - down / 2))


def _in(beside: Any, name: Any) -> bool:
    return beside is not None and isinstance(name, str) and name in beside


def _transform(attributes: Mapping[str, Any]) -> Affine | None:
    """None if there is none, or one that is no six numbers of which a grid could be made."""
    for name in ("GeoTransform", "transform", "spatial:transform"):
        value = attributes.get(name)
        words = value.split() if isinstance(value, str) else value
        if not isinstance(words, list | tuple) or len(words) not in (6, 9):
            continue
        try:
            a, b, c, d, e, f = (float(word) for word in words[:6])
        except (TypeError, ValueError):
            continue
        found = Affine.from_gdal(a, b, c, d, e, f) if name == "GeoTransform" else Affine(a, b, c, d, e, f)
        if np.isfinite([a, b, c, d, e, f]).all() and found.determinant:
            return found
    return None


def fill_of(array: Any) -> float | None:
    """The number for no data: an attribute, which xarray writes in base64 to version 3; or the fill value of a version 2 array.

    There 0 is what arrays get that nobody gave one, and is taken for a number.
    """
    for name in ("_FillValue", "missing_value", "nodata"):
        value = array.attrs.get(name)
        if isinstance(value, str):
            try:
                value = struct.unpack("<d", b64decode(value, validate=True))[0]
            except (ValueError, struct.error):
                continue
        if isinstance(value, int | float):
            return float(value)
    fill = array.fill_value if getattr(array.metadata, "zarr_format", 2) == 2 else None
    return float(fill) if fill is not None and fill != 0 else None


def _names(store: str, beside: Any, axes: Sequence[str], steps: Sequence[tuple[int, ...]]) -> list[str]:
    """Names of the images: coordinates of text, else numbers."""
    texts: list[list[str] | None] = []
    for name in axes:
        coordinate = _coordinate(beside, name)
        is_text = coordinate is not None and np.dtype(coordinate.dtype).kind not in "iufmM"
        texts.append([str(v) for v in coordinate[:]] if is_text else None)
    stem = Path(store).name.partition(".")[0]  # of the only image, if there are no other axes
    names = ["_".join(t[i] if t else f"{i:06d}" for t, i in zip(texts, step, strict=True)) or stem for step in steps]
    if len(set(names)) < len(names):
        names = [f"{name}_{i:06d}" for i, name in enumerate(names)]
    return names
