"""Scenes in Zarr stores, version 2 or 3, as xarray, rioxarray or GDAL write them; here or at an address."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from .band_tags import BandTags
from .raster_source import Numbers
from .scene import Scene, scene_of
from .sidecars import is_remote
from .wavelengths import to_nm

_MARKS = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")
_WIDTHS, _GOOD = ("fwhm", "FWHM", "band_width"), ("bbl", "good_wavelengths", "good")


def zarr_array(source: str) -> tuple[str, str | None] | None:
    """Return store and array of ``store.zarr`` or ``store.zarr:array``; None if there is no store of that name."""
    if _is_store(source):
        return source, None
    store, colon, array = source.rpartition(":")
    return (store, array) if colon and len(store) > 1 and _is_store(store) else None


def _is_store(name: str) -> bool:
    if is_remote(name):
        return urlsplit(name).path.rstrip("/").lower().endswith(".zarr")
    try:
        return any((Path(name) / mark).is_file() for mark in _MARKS) or (name.endswith(".zarr.zip") and Path(name).is_file())
    except (OSError, ValueError):
        return False


def open_zarr(name: str) -> Scene:
    """Open an array (band, y, x), in whatever order, of a Zarr store. Axes of length 1 before them are passed over.

    A store at an address (``https://.../scene.zarr``, ``s3://...``) is read by fsspec, and needs consolidated metadata where the
    server does not list folders.

    Wavelengths come from a coordinate or attribute ``wavelength`` with its unit, widths from ``fwhm``, bad bands from ``bbl``.

    Raises:
        ValueError: no such array or several, axes that cannot be told, damaged.
    """
    from .collections.zarr_stacks import dimensions, fill_of, grid_of, image_arrays, image_axes, wavelengths_of
    from .collections.zarr_store import ZarrImage, opened

    store, path = zarr_array(name) or (name, None)
    with opened(store) as root:
        arrays = [""] if hasattr(root, "shape") else sorted(image_arrays(root))
        if path is None and len(arrays) != 1:
            listing = ", ".join(arrays) or "none"
            raise ValueError(f"{store}: {len(arrays)} arrays of bands, rows and columns ({listing}): name one, as {store}:ARRAY")
        path = arrays[0] if path is None else path.strip("/")
        if path not in arrays:
            raise ValueError(f"{store}: no array {path!r} of bands, rows and columns; it has {', '.join(arrays) or 'none'}")
        array = root[path] if path else root
        where = f"{store}/{path}" if path else store
        if array.dtype.kind not in "iufb":
            raise ValueError(f"{where}: data type {array.dtype}, expected real numbers")
        beside = None if not path else (root[path.rpartition("/")[0]] if "/" in path else root)
        names = dimensions(array) or [*(f"axis{i}" for i in range(array.ndim - 3)), "band", "y", "x"]
        axes = image_axes(where, names)
        before = [i for i in range(array.ndim) if i not in axes]
        if before != list(range(array.ndim - 3)) or any(array.shape[i] != 1 for i in before):
            shown = ", ".join(f"{axis}: {size}" for axis, size in zip(names, array.shape, strict=True))
            raise ValueError(f"{where}: axes ({shown}), expected bands, rows and columns, and nothing else of more than one step")
        band, row, column = axes
        if 0 in array.shape:
            raise ValueError(f"{where}: shape {array.shape} holds nothing")
        count, shape = array.shape[band], (array.shape[row], array.shape[column])
        grid = grid_of(array, beside, (names[row], names[column]), shape)
        fill = fill_of(array)
        centres = wavelengths_of(where, array, beside, names[band])
        if centres is not None and len(centres) != count:
            raise ValueError(f"{where}: {len(centres)} wavelengths for {count} bands")
        good = _column(array, beside, _GOOD, count)
        tags = BandTags(centres, _widths(where, array, beside, count, centres), None if good is None else good[0] != 0)
        block = array.chunks[row], array.chunks[column]
        order = (band - len(before), row - len(before), column - len(before))
        source = ZarrImage(store, path, (0,) * len(before), order, fill, block)
        scaling = float(array.attrs.get("scale_factor", 1.0)), float(array.attrs.get("add_offset", 0.0))
        told = {str(key).lower(): str(value) for key, value in array.attrs.items() if isinstance(value, str | int | float)}
        numbers = Numbers(np.dtype(array.dtype), fill is not None, (scaling,), told)
        return scene_of(name, grid, tags, source, count, nodata=fill, numbers=numbers)


def _column(array: Any, beside: Any, names: tuple[str, ...], count: int) -> tuple[np.ndarray[Any, Any], str | None] | None:
    """Numbers for each band, from an attribute or an array beside it, and their unit."""
    for name in names:
        found = array.attrs.get(name)
        unit = array.attrs.get("wavelength_units")
        if found is None and beside is not None and name in beside and getattr(beside[name], "ndim", 0) == 1:
            found, unit = beside[name][:], beside[name].attrs.get("units")
        if found is None:
            continue
        try:
            values = np.asarray(found, dtype=np.float64)
        except (TypeError, ValueError):
            continue
        if values.shape == (count,):
            return values, None if unit is None else str(unit)
    return None


def _widths(where: str, array: Any, beside: Any, count: int, centres: np.ndarray[Any, Any] | None) -> Any:
    found = _column(array, beside, _WIDTHS, count)
    if found is None or centres is None:
        return None
    values, unit = found
    # Without a unit: hardly a band is wider than a micrometre, or narrower than a nanometre.
    if unit is None:
        return values if np.nanmedian(values) >= 1 else values * 1000
    return to_nm(values.tolist(), None, unit, where)[0]
