"""STAC items as scenes: their assets are bands."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np

from .band_tags import BandTags, band_tags
from .handles import Handles
from .raster import grid_of, open_raster
from .raster_source import Numbers, RasterSource, gdal_numbers
from .scene import Scene, scene_of
from .sidecars import linked
from .stacks import Piece, StackSource, open_stack, stack_grid

if TYPE_CHECKING:
    import pystac

    from .collections.stac import Told

_LARGEST = 2**24  # bytes of an item: real ones have some tens of thousands
_WAIT = 60  # seconds for a server's answer
_OPEN = 16  # files that stay open between reads


def is_item(source: str) -> bool:
    """Whether a source is a JSON file of STAC, or a URL of JSON."""
    path = urlsplit(source).path if _is_url(source) else source
    if not path.lower().endswith((".json", ".geojson")):
        return False
    if _is_url(source):
        return True
    try:
        with Path(source).open("rb") as file:
            return b'"stac_version"' in file.read(_LARGEST)
    except (OSError, ValueError):
        return False


def _is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def open_item(source: str) -> Scene:
    """Open the bands of a STAC item (1.0 or 1.1) on the grid of the finest; coarser pixels are repeated.

    Bands are those with a centre wavelength if there are any; else those of files that tell wavelengths themselves; else all
    assets that are rasters, without pictures; each once, by name. Scales and offsets are told and not applied, as everywhere.
    Assets lie in the folder of the item or below, or at URLs: an item that was downloaded may not make us read other files.

    Raises:
        FileNotFoundError: no such file, or an asset is missing.
        ValueError: no item, several, an asset elsewhere, bands of different places, or a server that does not answer.
    """
    item = _read(source)
    from .collections.stac import bands_of

    told = _once(bands_of(item))
    if any(band.wavelength is not None for band in told):
        told = [band for band in told if band.wavelength is not None]
    if not told:
        raise ValueError(f"{source}: none of its assets is a raster: {', '.join(item.assets) or 'there are none'}")
    properties = {key.lower(): str(value) for key, value in item.properties.items()}
    if all(band.wavelength is None for band in told):
        found = {place: band for band in reversed(told) if _tells_wavelengths(place := _place(source, band))}
        if found:
            files = list(reversed(found))
            scene = open_stack(source, files, {place: band.nodata for place, band in found.items()})
            own = scene.numbers
            told_by_item = tuple(dict.fromkeys(band.scaling for band in found.values() if band.scaling))
            numbers_of_all = replace(own, scalings=told_by_item or own.scalings, tags={**own.tags, **properties})
            return replace(scene, numbers=numbers_of_all)
    handles, pieces, grids, numbers = Handles(_OPEN), [], {}, []
    for band in told:
        path = _place(source, band)
        with open_raster(path) as src:
            if band.number > src.count or src.dtypes[band.number - 1].startswith("complex"):
                raise ValueError(f"{source}: band {band.number} of asset {band.asset} is not there, or not of real numbers")
            opened = RasterSource.of(path, src, handles)
            grids[path] = grid_of(src)
            numbers.append(gdal_numbers(src, opened))
            pieces.append(Piece(opened, (band.number,), grids[path], band.nodata if src.nodata is None else None))
    grid = stack_grid(source, grids)
    block = next(piece.source.block for piece in pieces if piece.grid is grid)
    centres = [np.nan if band.wavelength is None else band.wavelength for band in told]
    widths = [np.nan if band.width is None else band.width for band in told]
    tags = BandTags(
        None if np.isnan(centres).all() else np.array(centres), None if np.isnan(widths).any() else np.array(widths), None
    )
    scalings = dict.fromkeys(band.scaling or own.scaling(source) or (1.0, 0.0) for band, own in zip(told, numbers, strict=True))
    about = Numbers(
        np.result_type(*(own.dtype for own in numbers)),
        all(own.marked or piece.nodata is not None for own, piece in zip(numbers, pieces, strict=True)),
        tuple(scalings),
        properties,
    )
    return scene_of(source, grid, tags, StackSource(tuple(pieces), grid, block), len(told), nodata=told[0].nodata, numbers=about)


def _tells_wavelengths(place: str) -> bool:
    with open_raster(place) as src:
        return band_tags(src).wavelengths is not None


def _once(told: "list[Told]") -> "list[Told]":
    """Each band once, in the order of the assets; catalogues hold some in several assets, files of their own first."""
    known: set[str] = set()
    kept = []
    for band in told:
        names = set(band.names[:1]) or {f"{band.asset}:{band.number}"}
        if not names & known:
            known |= names
            kept.append(band)
    return kept


def _read(source: str) -> "pystac.Item":
    from .collections.stac import require_pystac

    library = require_pystac()
    try:
        if _is_url(source):
            with urlopen(source, timeout=_WAIT) as answer:  # noqa: S310  # a URL of http or https, see is_item
                text = answer.read(_LARGEST + 1)
        else:
            with Path(source).open("rb") as file:
                text = file.read(_LARGEST + 1)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{source}: no such file") from error
    except HTTPError as error:
        error.close()  # it is the answer, too
        raise ValueError(f"{source}: cannot be read ({error})") from error
    except (URLError, TimeoutError, OSError) as error:
        raise ValueError(f"{source}: cannot be read ({getattr(error, 'reason', error)})") from error
    if len(text) > _LARGEST:
        raise ValueError(f"{source}: more than {_LARGEST >> 20} MiB, which no STAC item is")
    try:
        content: Any = json.loads(text)
        if isinstance(content, dict) and content.get("type") == "FeatureCollection":
            features = content.get("features")
            if not isinstance(features, list) or len(features) != 1:
                count = len(features) if isinstance(features, list) else 0
                raise ValueError(f"{source}: {count} items, expected one: a scene is one item")
            content = features[0]
        if not isinstance(content, dict) or content.get("type") != "Feature":
            raise ValueError(f"{source}: no STAC item")
        place = source if _is_url(source) else str(Path(source).absolute())
        return cast("pystac.Item", library.Item.from_dict(content, href=place))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{source}: not JSON ({error})") from error
    except (AttributeError, KeyError, TypeError, library.STACError, library.STACTypeError) as error:
        raise ValueError(f"{source}: no STAC item ({error!r})") from error


def _place(source: str, band: "Told") -> str:
    """Where the asset of a band lies, if it may be read there."""
    place = linked(source if _is_url(source) else Path(source), band.href)
    if "://" not in place and not place.startswith("/vsi") and not Path(place).is_file():
        raise FileNotFoundError(f"{source}: asset {band.asset} at {place}: no such file")
    return place
