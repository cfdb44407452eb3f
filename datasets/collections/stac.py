"""STAC items: which assets are bands of a sensor, where they lie, what their numbers mean."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..raster import grid_of, open_raster, reason
from ..sensors import Band, Sensor, find_sensor, sensor
from ..sidecars import linked
from .folders import Reading
from .layer import Layer, mismatch
from .mosaic import BandFile, BandFiles
from .place import Place
from .rasters import RasterMask, band_at

if TYPE_CHECKING:
    import pystac

_PICTURES = {"visual", "overview", "thumbnail"}
_RASTERS = (".tif", ".tiff", ".jp2", ".img", ".vrt")


@dataclass(frozen=True)
class Told:
    """A band as an asset tells it."""

    asset: str
    href: str
    number: int
    names: tuple[str, ...]
    wavelength: float | None  # nm
    width: float | None  # nm, full at half maximum
    scaling: tuple[float, float] | None
    nodata: float | None


def read_items(path: Path) -> "list[pystac.Item]":
    """Read the items of a JSON file: an item, an item collection, or a static catalogue with its items.

    Raises:
        FileNotFoundError: no such file.
        ValueError: pystac is not installed, the file is none of these, or it names local files outside of its folder.
    """
    pystac = require_pystac()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = content.get("type")
        if kind == "FeatureCollection":
            items = list(pystac.ItemCollection.from_dict(content))
        elif kind == "Feature":
            items = [pystac.Item.from_dict(content, href=os.path.abspath(path))]
        else:
            reader = _contained(path)
            items = list(pystac.Catalog.from_file(os.path.abspath(path), stac_io=reader).get_items(recursive=True))
        for item in items:
            _anchor(item, path)
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError, pystac.STACError, pystac.STACTypeError) as error:
        raise ValueError(f"{path}: no STAC item, item collection or catalogue ({reason(error)})") from error
    return items


def _contained(path: Path) -> "pystac.StacIO":
    """What reads the files that a catalogue names, none outside of its folder."""
    from pystac.stac_io import DefaultStacIO

    class Contained(DefaultStacIO):
        def read_text(self, source: Any, *args: Any, **kwargs: Any) -> str:
            return super().read_text(linked(path, str(source)), *args, **kwargs)

    return Contained()


def require_pystac() -> Any:
    """Return pystac.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import pystac
    except ImportError as error:
        raise ValueError("STAC items are read by pystac: pip install 'geovit[foundation]'") from error
    return pystac


def _anchor(item: "pystac.Item", path: Path) -> None:
    """Relative paths of an item collection are relative to its file, those of an item to the item's; none leads elsewhere."""
    for key, asset in item.assets.items():
        if _is_raster(asset):
            asset.href = linked(path, _href(item, key))


def _is_raster(asset: "pystac.Asset") -> bool:
    media, name = (asset.media_type or "").lower(), asset.href.lower().partition("?")[0]
    return name.endswith(_RASTERS) or "tiff" in media or "jp2" in media


def places_of_items(
    items: "Iterable[pystac.Item]", sensors: Sequence[str] | Mapping[str, str] | None, reading: Reading
) -> dict[str, Place]:
    """Make places of items: each is one; items of one id in several collections are one place, seen by several sensors.

    Args:
        items: of STAC 1.0 or 1.1.
        sensors: those that are wanted; or the sensor of each STAC collection, by its id.
        reading: how.

    Raises:
        ValueError: no item, one whose sensor or bands are not known, or images that do not belong together.
    """
    wanted = None if sensors is None or isinstance(sensors, Mapping) else {sensor(name).name for name in sensors}
    layers: dict[str, dict[str, Layer]] = {}
    for item in items:
        known = _sensor_of(item, sensors)
        if wanted is None or known.name in wanted:
            held = layers.setdefault(item.id, {})
            if known.name in held:
                raise ValueError(f"two items of {known.name} have the id {item.id}")
            held[known.name] = reading.told(_layer(item, known))
    if not layers:
        raise FileNotFoundError("no STAC items" + (f" of {', '.join(sorted(wanted))}" if wanted else ""))
    every = set().union(*layers.values())
    if reading.paired and (alone := [name for name, held in layers.items() if set(held) != every]):
        raise ValueError(
            f"{len(alone)} of {len(layers)} items are not seen by all of {', '.join(sorted(every))}: {alone[0]}; "
            "allowed only if they need not be paired"
        )
    return {name: Place(held) for name, held in layers.items()}


def _sensor_of(item: "pystac.Item", sensors: Sequence[str] | Mapping[str, str] | None) -> Sensor:
    collection = item.collection_id or ""
    if isinstance(sensors, Mapping):
        if collection not in sensors:
            raise ValueError(f"item {item.id} is of collection {collection!r}, sensors are told for {', '.join(sensors)}")
        return sensor(sensors[collection])
    platform = str(item.properties.get("platform", ""))
    level = "l2" if "l2" in collection.lower() else "toa"
    for name in (collection, f"{platform}-{level}"):
        if found := find_sensor(name):
            return found
    if sensors is not None and len(sensors) == 1:
        return sensor(sensors[0])
    raise ValueError(f"item {item.id}: no sensor is known for collection {collection!r}; tell it")


def _layer(item: "pystac.Item", known: Sensor) -> Layer:
    where = f"item {item.id}"
    chosen: dict[str, Told] = {}
    for told in bands_of(item):
        band = _match(where, known, told)
        if band is not None and band.name not in chosen:
            chosen[band.name] = told
    bands = tuple(band for band in (*known.bands, *known.others) if band.name in chosen)
    if not bands:
        raise ValueError(f"{where}: none of its assets is a band of {known.name}: {', '.join(item.assets)}")
    grids, files, whole, bits = [], [], True, 32
    for band in bands:
        told = chosen[band.name]
        with open_raster(told.href) as src:
            dtype = np.dtype(src.dtypes[told.number - 1])
            grids.append(grid_of(src))
            nodata = told.nodata if src.nodata is None else None
        whole, bits = whole and dtype.kind in "ui", 8 * dtype.itemsize
        files.append(BandFile(told.href, told.number, grids[-1].shape, nodata))
    finest = max(grids, key=lambda grid: grid.height)
    for band, grid in zip(bands, grids, strict=True):
        if why := mismatch(finest, grid):
            raise ValueError(f"{where}: band {band.name} is not of the same ground as the others ({why})")
    scalings = {chosen[band.name].scaling for band in bands}
    if len(scalings) > 1:
        raise ValueError(f"{where}: bands have different scales and offsets, which is not supported")
    return Layer(
        where=where,
        sensor=known,
        bands=bands,
        indices=tuple(range(1, len(bands) + 1)),
        grid=finest,
        source=BandFiles(tuple(files), finest),
        whole=whole,
        bits=bits,
        tags={key.lower(): str(value) for key, value in item.properties.items()},
        scaling=scalings.pop(),
        mask=_mask(item) if known.optical else None,
    )


def _mask(item: "pystac.Item") -> RasterMask | None:
    for key, asset in item.assets.items():
        if key.lower() == "scl" and asset.href.lower().endswith(_RASTERS):
            return RasterMask.of(_href(item, key), classes=True)
    return None


def _href(item: "pystac.Item", key: str) -> str:
    href = item.assets[key].get_absolute_href()
    return href if href is not None else item.assets[key].href


def bands_of(item: "pystac.Item") -> list[Told]:
    """Bands of the assets that hold numbers, those in a file of their own first."""
    found = []
    for key, asset in item.assets.items():
        if _PICTURES & {key.lower(), *(role.lower() for role in asset.roles or ())}:
            continue
        media, path = (asset.media_type or "").lower(), asset.href.lower().partition("?")[0]
        if not _is_raster(asset):
            continue
        fields = asset.extra_fields
        eo = fields.get("eo:bands") or fields.get("bands") or [{}]
        raster = fields.get("raster:bands") or eo
        if len(raster) != len(eo):
            raise ValueError(f"item {item.id}: asset {key} has {len(eo)} bands, but tells of {len(raster)} rasters")
        # GeoTIFF before JPEG 2000, which some catalogues hold beside it under the same names.
        rank = len(eo), "jp2" in media or path.endswith(".jp2")
        for number, (band, numbers) in enumerate(zip(eo, raster, strict=True), start=1):
            found.append((rank, _told(item, key, number, band, fields | numbers, len(eo))))
    return [told for _, told in sorted(found, key=lambda pair: pair[0])]


def _told(item: "pystac.Item", key: str, number: int, band: Mapping[str, Any], numbers: Mapping[str, Any], count: int) -> Told:
    common = band.get("common_name", band.get("eo:common_name"))
    names = [band.get("name"), key if count == 1 else None, common]
    centre = band.get("center_wavelength", band.get("eo:center_wavelength"))
    if centre is not None and not 0.2 <= float(centre) <= 20:
        hint = f", {centre} nm would be {float(centre) / 1000:g}" if 200 <= float(centre) <= 20_000 else ""
        raise ValueError(f"item {item.id}: asset {key} has centre wavelength {centre}, expected 0.2..20 um as in STAC{hint}")
    width = band.get("full_width_half_max", band.get("eo:full_width_half_max"))
    scale = numbers.get("raster:scale", numbers.get("scale"))
    offset = numbers.get("raster:offset", numbers.get("offset"))
    nodata = numbers.get("nodata")
    return Told(
        asset=key,
        href=_href(item, key),
        number=number,
        names=tuple(str(name) for name in names if name),
        wavelength=None if centre is None else 1000 * float(centre),
        width=None if width is None else 1000 * float(width),
        scaling=None if scale is None and offset is None else (float(scale or 1.0), float(offset or 0.0)),
        nodata=None if nodata is None else float(nodata),
    )


def _match(where: str, known: Sensor, told: Told) -> Band | None:
    """The sensor's band of an asset's band: by name, else by wavelength."""
    for name in told.names:
        if (band := known.band(name)) is not None:
            if told.wavelength is not None and band.wavelength is not None:
                apart = abs(told.wavelength - band.wavelength)
                if apart > 0.1 * band.wavelength:
                    raise ValueError(
                        f"{where}: asset {told.asset} is named {name}, but at {told.wavelength:g} nm, "
                        f"where {band.name} of {known.name} is at {band.wavelength:g} nm"
                    )
            return band
    return None if told.wavelength is None else band_at(known, told.wavelength)
