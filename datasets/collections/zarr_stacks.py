"""Zarr stores: arrays (sample, band, y, x), or as xarray writes them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.windows import Window

from ..grid import Grid
from ..sensors import Band, Sensor, find_sensor, sensor
from ..wavelengths import to_nm
from .collection import Place
from .folders import Reading
from .layer import Layer, together
from .rasters import check_wavelengths, named_bands

_BAND = {"band", "bands", "channel", "channels", "wavelength", "wavelengths"}
_Y = {"y", "lat", "latitude", "northing", "row", "rows", "height"}
_X = {"x", "lon", "longitude", "easting", "column", "columns", "width"}


@dataclass(frozen=True)
class _Source:
    """An image of an array. Opened for each call."""

    store: str
    path: str
    at: tuple[int, ...]  # along the axes before band, y and x
    order: tuple[int, int, int]  # of band, y and x among the last three axes
    fill: float | None

    def read(self, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        (top, bottom), (left, right) = ((None, None), (None, None)) if window is None else window.toranges()
        parts: dict[int, Any] = dict(zip(self.order, (slice(None), slice(top, bottom), slice(left, right)), strict=True))
        with _opened(self.store) as root:
            array = root[self.path] if self.path else root
            try:
                cube = np.asarray(array[(*self.at, *(parts[i] for i in range(3)))])
            except (RuntimeError, OSError, KeyError) as error:
                raise ValueError(f"{self.store}/{self.path}: cannot be read ({error})") from error
        cube = cube.transpose(self.order)[[band - 1 for band in bands]]
        values: NDArray[np.float32] = cube.astype(np.float32)
        if self.fill is not None:
            values[cube == self.fill] = np.nan
        values[~np.isfinite(values)] = np.nan
        return values


def is_zarr(path: Path) -> bool:
    """Whether a path is a Zarr store, version 2 or 3: a folder, or a zip archive named so."""
    names = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")
    return path.name.endswith(".zarr.zip") or any((path / name).is_file() for name in names)


@contextmanager
def _opened(store: str) -> Iterator[Any]:
    """The root of a store: a group or an array."""
    try:
        import zarr
    except ImportError as error:
        raise ValueError("Zarr stores are read by zarr: pip install 'geovit[foundation]'") from error
    if not Path(store).exists():
        raise FileNotFoundError(f"{store}: no such file")
    try:
        archive = zarr.storage.ZipStore(store, mode="r") if store.endswith(".zip") else None
        root = zarr.open(archive or store, mode="r")
    except (ValueError, KeyError, OSError, BadZipFile) as error:
        raise ValueError(f"{store}: no Zarr store that can be read ({error})") from error
    try:
        yield root
    finally:
        if archive is not None:
            archive.close()


def places_of_zarr(store: Path, sensors: Sequence[str] | Mapping[str, str] | None, reading: Reading) -> dict[str, Place]:
    """List the images of a Zarr store: one for each step of the axes before band, y and x, such as sample or time.

    Axes are told by ``_ARRAY_DIMENSIONS`` (version 2) or ``dimension_names`` (version 3), else bands, y and x are the last three.
    Bands are told by the coordinate ``band`` or ``wavelength``, or by attributes of the array of such names; else they are the
    sensor's in its order.

    Args:
        store: folder or zip of the store.
        sensors: of the arrays by their paths; or one, of the only array; None where the arrays' names tell it.
        reading: how.

    Raises:
        ValueError: no such array, axes or bands that cannot be told, or arrays of different places.
    """
    found: dict[str, dict[str, Layer]] = {}
    with _opened(str(store)) as root:
        for path, known in _arrays(str(store), root, sensors).items():
            for place, layer in _layers(str(store), root, path, known, reading).items():
                found.setdefault(place, {})[known.name] = reading.told(layer)
    every = set().union(*found.values()) if found else set()
    if reading.paired and (alone := [place for place, held in found.items() if set(held) != every]):
        raise ValueError(
            f"{store}: {len(alone)} of {len(found)} places are not in all arrays: {alone[0]}; "
            "allowed only if they need not be paired"
        )
    return {place: Place(held) for place, held in found.items()}


def _arrays(store: str, root: Any, sensors: Sequence[str] | Mapping[str, str] | None) -> dict[str, Sensor]:
    """The sensor of each array, by path."""
    paths = [""] if hasattr(root, "shape") else sorted(_images(root))
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


def _images(group: Any, prefix: str = "") -> list[str]:
    """Paths of arrays with bands, rows and columns."""
    paths = [f"{prefix}{name}" for name, array in group.arrays() if array.ndim >= 3]
    for name, part in group.groups():
        paths += _images(part, f"{prefix}{name}/")
    return paths


def _dimensions(array: Any) -> list[str] | None:
    names = array.attrs.get("_ARRAY_DIMENSIONS") or getattr(array.metadata, "dimension_names", None)
    return None if names is None or None in names else [str(name) for name in names]


def _layers(store: str, root: Any, path: str, known: Sensor, reading: Reading) -> dict[str, Layer]:
    array = root[path] if path else root
    where = f"{store}/{path}" if path else store
    beside = root[path.rpartition("/")[0]] if "/" in path else (root if path else None)
    names = _dimensions(array) or [*(f"axis{i}" for i in range(array.ndim - 3)), "band", "y", "x"]
    axes = _axes(where, names)
    before = [i for i in range(array.ndim) if i not in axes]
    if before != list(range(array.ndim - 3)):
        raise ValueError(f"{where}: axes are {', '.join(names)}, expected samples or times before band, y and x")
    band, row, column = axes
    order = (band - len(before), row - len(before), column - len(before))
    bands = _bands(where, array, beside, names[band], array.shape[band], known, reading.bands.get(known.name))
    grid = _grid(array, beside, (names[row], names[column]), (array.shape[row], array.shape[column]))
    fill = array.attrs.get("_FillValue", array.attrs.get("nodata"))
    attributes = {str(key).lower(): str(value) for key, value in array.attrs.items() if isinstance(value, str | int | float)}
    scaling = None
    if "scale_factor" in array.attrs or "add_offset" in array.attrs:
        scaling = float(array.attrs.get("scale_factor", 1.0)), float(array.attrs.get("add_offset", 0.0))
    steps = list(product(*(range(array.shape[i]) for i in before)))
    layers = [
        Layer(
            where=where,
            sensor=known,
            bands=bands,
            indices=tuple(range(1, len(bands) + 1)),
            grid=grid,
            source=_Source(store, path, step, order, None if fill is None else float(fill)),
            whole=np.dtype(array.dtype).kind in "ui",
            bits=8 * np.dtype(array.dtype).itemsize,
            marked=fill is not None,
            tags=attributes,
            scaling=scaling,
        )
        for step in steps
    ]
    return dict(zip(_names(store, beside, [names[i] for i in before], steps), together(layers), strict=True))


def _axes(where: str, names: Sequence[str]) -> tuple[int, int, int]:
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
    where: str, array: Any, beside: Any, axis: str, count: int, known: Sensor, given: Sequence[str] | None
) -> tuple[Band, ...]:
    if given is not None:
        if len(given) != count:
            raise ValueError(f"{where}: {count} bands, but {len(given)} names are given: {', '.join(given)}")
        return named_bands(where, known, given)
    wavelengths = _wavelengths(where, array, beside, axis)
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
        return tuple(_nearest(where, known, float(w)) for w in wavelengths)
    if count == len(known.bands):
        return known.bands
    raise ValueError(f"{where}: {count} bands without names, expected the {len(known.bands)} of {known.name}; or name them")


def _nearest(where: str, known: Sensor, wavelength: float) -> Band:
    optical = [band for band in known.bands if band.wavelength is not None]
    best = min(optical, key=lambda band: abs((band.wavelength or 0.0) - wavelength), default=None)
    if best is None or best.wavelength is None or abs(best.wavelength - wavelength) > 0.03 * wavelength:
        raise ValueError(f"{where}: {known.name} has no band at {wavelength:g} nm")
    return best


def _wavelengths(where: str, array: Any, beside: Any, axis: str) -> NDArray[np.float64] | None:
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


def _grid(array: Any, beside: Any, axes: tuple[str, str], shape: tuple[int, int]) -> Grid:
    """From coordinates of pixel centres, or the attribute ``transform``."""
    attributes = dict(array.attrs)
    if beside is not None and "spatial_ref" in beside:
        attributes |= dict(beside["spatial_ref"].attrs)
    crs = None
    text = attributes.get("crs_wkt", attributes.get("spatial_ref", attributes.get("proj:code", attributes.get("crs"))))
    if text is not None:
        try:
            crs = CRS.from_user_input(text)
        except CRSError as error:
            raise ValueError(f"{array.name}: CRS {str(text)[:60]!r} cannot be read") from error
    ys, xs = (None if (found := _coordinate(beside, name)) is None else np.asarray(found[:], np.float64) for name in axes)
    if xs is None or ys is None or len(xs) != shape[1] or len(ys) != shape[0] or min(shape) < 2:
        return Grid(*shape, None, Affine.identity())
    across, down = (xs[-1] - xs[0]) / (len(xs) - 1), (ys[-1] - ys[0]) / (len(ys) - 1)
    return Grid(*shape, crs, Affine(across, 0.0, xs[0] - across / 2, 0.0, down, ys[0] - down / 2))


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
