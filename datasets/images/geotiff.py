"""TIFF through GDAL: GeoTIFF of any band count, and plain TIFF and PNG of 16 bits, which Pillow cannot hold."""

import errno
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader, DatasetWriter, MemoryFile
from rasterio.windows import Window

from ..band_tags import alpha_bands
from ..grid import Grid
from ..raster import open_raster, quiet_georeference
from .containers import PHOTOMETRIC, first, needs_pillow
from .image import PIXEL_TYPES, GeoDetails, Image, Pixels, peak_of

_T = TypeVar("_T")
_EXTRA_SAMPLES = 338  # a tag of TIFF
_WHITE_IS_ZERO, _PREMULTIPLIED = 0, 1  # their values
_MOST_BANDS = 1024  # GDAL's time grows with their square, and a damaged header can claim 65535
PNG_LEVEL = 3  # of zlib; its usual 6 takes three times as long, for files 5 % smaller (enlarged photograph, Pillow 13)
_TILE = 256
_ROWS_BYTES = 2**26  # pixels that change their order of axes at a time
_STALE = ("STATISTICS_",)  # band tags that tell of pixels which are no longer there


def is_geographic(src: DatasetReader, tags: Mapping[int, Any]) -> bool:
    """Whether a TIFF is more than a picture: placed on a map, with nodata or a mask, or of bands that are no colours."""
    placed = Grid.of(src).georeferenced or bool(src.gcps[0]) or src.rpcs is not None
    bands = src.count - len(alpha_bands(src))
    return placed or _masked(src) or src.nodata is not None or (bands not in (1, 3) and not needs_pillow(tags))


def _masked(src: DatasetReader) -> bool:
    return any(MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags for flags in src.mask_flag_enums)


def read_pixels(src: DatasetReader, bands: list[int]) -> Pixels:
    """Bands (1-based) as (H, W, C).

    Raises:
        ValueError: bands of different types, or of a type that is not supported.
    """
    pixels: Pixels = np.empty((src.height, src.width, len(bands)), dtype=_pixel_type(src, bands))
    for window in _rows(src, pixels, Window(0, 0, src.width, src.height)):
        pixels[_slice(window)] = np.moveaxis(src.read(bands, window=window), 0, -1)
    return pixels


def _pixel_type(src: DatasetReader, bands: Sequence[int]) -> np.dtype[Any]:
    if len(bands) > _MOST_BANDS:
        raise ValueError(f"{src.name}: {len(bands)} bands, more than the limit of {_MOST_BANDS}")
    types = {src.dtypes[band - 1] for band in bands}
    if len(types) != 1 or not types <= set(PIXEL_TYPES):
        raise ValueError(f"{src.name}: pixels of type {', '.join(sorted(types))}, expected one of {', '.join(PIXEL_TYPES)}")
    found: np.dtype[Any] = np.dtype(types.pop())
    return found


@dataclass(frozen=True, kw_only=True)
class GeoTiff:
    """A GeoTIFF that is read window by window. It is opened for each, so that this may be sent to other processes.

    Args:
        name: the file.
        shape: height and width.
        bands: counted from 1, alpha not among them.
        dtype: of the pixels.
        transparency: the band that is alpha; None if there is none.
        masked: whether there is a mask beside nodata and alpha.
        nodata: value of pixels that hold nothing; None if there is none.
        grid: where it lies.
        geo: what else it says.
        icc: colour profile.
    """

    name: str
    shape: tuple[int, int]
    bands: tuple[int, ...]
    dtype: np.dtype[Any]
    transparency: int | None
    masked: bool
    nodata: float | None
    grid: Grid
    geo: GeoDetails
    icc: bytes | None = None

    @classmethod
    def of(cls, src: DatasetReader, name: str, icc: bytes | None = None) -> "GeoTiff":
        """Look at an open GeoTIFF.

        Raises:
            ValueError: bands of a type that is not supported, or with a colour table, which are classes and no brightness.
        """
        if ColorInterp.palette in src.colorinterp:
            raise ValueError(f"{name}: a GeoTIFF with a colour table holds classes, not brightness; expand it to RGB first")
        transparent = alpha_bands(src)
        bands = [band for band in src.indexes if band not in transparent[:1]]
        if not bands:
            raise ValueError(f"{name}: a GeoTIFF with an alpha band only")
        gcps, gcps_crs = src.gcps

        def kept(values: Sequence[_T]) -> tuple[_T, ...]:
            return tuple(values[band - 1] for band in bands)

        geo = GeoDetails(
            descriptions=kept(src.descriptions),
            colors=tuple(use.name for use in kept(src.colorinterp)),
            scales=kept(src.scales),
            offsets=kept(src.offsets),
            units=kept(src.units),
            tags=dict(src.tags()),
            band_tags=tuple({k: v for k, v in src.tags(band).items() if not k.startswith(_STALE)} for band in bands),
            gcps=tuple(gcps),
            gcps_crs=gcps_crs,
            rpcs=src.rpcs,
        )
        return cls(
            name=name,
            shape=src.shape,
            bands=tuple(bands),
            dtype=_pixel_type(src, [*bands, *transparent[:1]]),
            transparency=transparent[0] if transparent else None,
            masked=_masked(src),
            nodata=src.nodata,
            grid=Grid.of(src),
            geo=geo,
            icc=icc or None,
        )

    @property
    def channels(self) -> int:
        """Number of bands, alpha not among them."""
        return len(self.bands)

    @property
    def transparent(self) -> bool:
        """Whether there is alpha."""
        return self.transparency is not None

    @property
    def format(self) -> str:
        """As of ``Image``."""
        return "GTiff"

    def read(self, row: int, column: int, height: int, width: int) -> Image:
        """Return a window, without grid and details, which are those of the whole.

        Raises:
            ValueError: the file is damaged there.
            FileNotFoundError: it is gone.
        """
        with open_raster(self.name) as src:
            return self.window(src, Window(column, row, width, height))

    def window(self, src: DatasetReader, window: Window) -> Image:
        """Return a window of the open file; else as ``read``."""
        pixels: Pixels = np.empty((window.height, window.width, self.channels), self.dtype)
        for rows in _rows(src, pixels, window):
            begin = rows.row_off - window.row_off
            pixels[begin : begin + rows.height] = np.moveaxis(src.read(list(self.bands), window=rows), 0, -1)
        return Image(
            pixels=pixels,
            alpha=None if self.transparency is None else src.read(self.transparency, window=window),
            mask=src.dataset_mask(window=window) != 0 if self.masked else None,
            nodata=self.nodata,
            format="GTiff",
            name=self.name,
        )


def read_geotiff(src: DatasetReader, name: str) -> Image:
    """An open GeoTIFF with its grid, nodata, mask and what it says about its bands.

    Raises:
        ValueError: bands of a type that is not supported, or with a colour table, which are classes and no brightness.
    """
    seen = GeoTiff.of(src, name)
    return replace(seen.window(src, Window(0, 0, src.width, src.height)), grid=seen.grid, geo=seen.geo)


def read_plain(src: DatasetReader, tags: Mapping[int, Any]) -> tuple[Pixels, Pixels | None]:
    """Colours (H, W, 1 or 3) and alpha (H, W) of an open PNG or TIFF; ``tags`` are those of the TIFF.

    Raises:
        ValueError: bands that are neither grey nor RGB, or of a type that is not supported.
    """
    transparent = alpha_bands(src)
    colors = [band for band in src.indexes if band not in transparent]
    if len(transparent) > 1 or len(colors) not in (1, 3):
        raise ValueError(
            f"{src.name}: {len(colors)} colour and {len(transparent)} alpha bands; expected grey or RGB, and one alpha"
        )
    bits = src.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
    if bits is not None:
        raise ValueError(f"{src.name}: {bits} bits per channel in a TIFF; expected 8 or 16")
    pixels = read_pixels(src, colors)
    if first(tags, PHOTOMETRIC, 1) == _WHITE_IS_ZERO and pixels.dtype.kind == "u":
        pixels = np.invert(pixels)
    if not transparent:
        return pixels, None
    alpha = read_pixels(src, [*transparent])[..., 0]
    if first(tags, _EXTRA_SAMPLES, 0) == _PREMULTIPLIED:
        pixels = _divided(pixels, alpha)
    return pixels, alpha


def _divided(pixels: Pixels, alpha: Pixels) -> Pixels:
    peak = peak_of(pixels.dtype)
    with np.errstate(divide="ignore", invalid="ignore"):
        straight = np.where(alpha[..., None] > 0, pixels * np.float32(peak) / alpha[..., None], 0)
    if pixels.dtype.kind == "f":
        return straight.astype(pixels.dtype)
    return np.rint(np.minimum(straight, peak)).astype(pixels.dtype)


def resized_details(geo: GeoDetails, down: float, across: float) -> GeoDetails:
    """Details for pixels of which there are ``down`` times as many in a column and ``across`` times in a row."""
    points = tuple(
        GroundControlPoint(row=p.row * down, col=p.col * across, x=p.x, y=p.y, z=p.z, id=p.id, info=p.info) for p in geo.gcps
    )
    rpcs = copy(geo.rpcs)
    if rpcs is not None:  # these count from the centre of the first pixel, so its corner is at -0.5
        rpcs.line_off, rpcs.line_scale = (rpcs.line_off + 0.5) * down - 0.5, rpcs.line_scale * down
        rpcs.samp_off, rpcs.samp_scale = (rpcs.samp_off + 0.5) * across - 0.5, rpcs.samp_scale * across
    return replace(geo, gcps=points, rpcs=rpcs)


def picked_details(geo: GeoDetails, bands: Sequence[int]) -> GeoDetails:
    """Details of some of the bands, counted from 0."""

    def kept(values: Sequence[_T]) -> tuple[_T, ...]:
        return tuple(values[band] for band in bands)

    return replace(
        geo,
        descriptions=kept(geo.descriptions),
        colors=kept(geo.colors),
        scales=kept(geo.scales),
        offsets=kept(geo.offsets),
        units=kept(geo.units),
        band_tags=kept(geo.band_tags) if geo.band_tags else (),
    )


def cropped_details(geo: GeoDetails, row: int, column: int) -> GeoDetails:
    """Details for the pixels from one on that becomes the first."""
    points = tuple(
        GroundControlPoint(row=p.row - row, col=p.col - column, x=p.x, y=p.y, z=p.z, id=p.id, info=p.info) for p in geo.gcps
    )
    rpcs = copy(geo.rpcs)
    if rpcs is not None:
        rpcs.line_off, rpcs.samp_off = rpcs.line_off - row, rpcs.samp_off - column
    return replace(geo, gcps=points, rpcs=rpcs)


def encode_png(image: Image) -> bytes:
    """A PNG file of 16 bits, without metadata."""
    bands = image.channels + (image.alpha is not None)
    with MemoryFile() as memory, quiet_georeference():
        with memory.open(
            driver="PNG", count=bands, height=image.shape[0], width=image.shape[1], dtype="uint16", zlevel=PNG_LEVEL
        ) as dst:
            _write_pixels(dst, image)
        return bytes(memory.getbuffer())


def write_tiff(path: Path, image: Image) -> None:
    """Write a plain TIFF, or a tiled GeoTIFF if the image is one, both losslessly compressed; reads it back to be sure.

    Raises:
        OSError: what was written does not read back the same.
    """
    geo = image.geo
    bands = image.channels + (image.alpha is not None)
    rgb = image.channels == 3 if geo is None else geo.colors[:3] == ("red", "green", "blue")
    options: dict[str, Any] = {
        "driver": "GTiff", "count": bands, "height": image.shape[0], "width": image.shape[1], "dtype": image.pixels.dtype.name,
        "compress": "DEFLATE", "predictor": 3 if image.pixels.dtype.kind == "f" else 2, "bigtiff": "IF_SAFER",
        "photometric": "RGB" if rgb else "MINISBLACK", "interleave": "PIXEL" if bands <= 4 else "BAND",
    }  # fmt: skip
    if image.alpha is not None:
        options["alpha"] = "NON-PREMULTIPLIED"
    if geo is None:
        options["profile"] = "BASELINE"
    else:
        options |= {"tiled": True, "blockxsize": _TILE, "blockysize": _TILE, "nodata": image.nodata}
        if image.grid is not None and image.grid.georeferenced:
            options |= {"crs": image.grid.crs, "transform": image.grid.transform}
    with quiet_georeference(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        with rasterio.open(path, "w", **options) as dst:
            if geo is not None:
                describe(dst, geo)
            _write_pixels(dst, image)
            if image.mask is not None:
                dst.write_mask(image.mask)
        with rasterio.open(path) as src:
            for window in _rows(src, image.pixels, Window(0, 0, src.width, src.height)):
                if not np.array_equal(src.read(window=window), _bands(image, window), equal_nan=image.pixels.dtype.kind == "f"):
                    raise OSError(
                        errno.EIO, "what was written does not read back the same"
                    )  # a full disk, of which GDAL is silent


def describe(dst: DatasetWriter, geo: GeoDetails) -> None:
    """Write details into an open file; bands of it that they do not tell of are alpha."""
    alpha = (ColorInterp.alpha,) * (dst.count - len(geo.colors))
    dst.update_tags(**geo.tags)
    dst.colorinterp = (*(ColorInterp[color] for color in geo.colors), *alpha)
    for band, (text, unit) in enumerate(zip(geo.descriptions, geo.units, strict=True), start=1):
        if text is not None:
            dst.set_band_description(band, text)
        if unit is not None:
            dst.set_band_unit(band, unit)
        if geo.band_tags:
            dst.update_tags(band, **geo.band_tags[band - 1])
    if any(scale != 1 for scale in geo.scales) or any(geo.offsets):
        dst.scales = (*geo.scales, *(1.0 for _ in alpha))
        dst.offsets = (*geo.offsets, *(0.0 for _ in alpha))
    if geo.gcps:
        dst.gcps = (list(geo.gcps), geo.gcps_crs or CRS())
    if geo.rpcs is not None:
        dst.rpcs = geo.rpcs


def _write_pixels(dst: DatasetWriter, image: Image) -> None:
    for window in _rows(dst, image.pixels, Window(0, 0, dst.width, dst.height)):
        dst.write(_bands(image, window), window=window)


def _bands(image: Image, window: Window) -> NDArray[Any]:
    """Bands (C, h, W), alpha last, of some rows."""
    part = np.moveaxis(image.pixels[_slice(window)], -1, 0)
    return np.ascontiguousarray(part) if image.alpha is None else np.concatenate([part, image.alpha[_slice(window)][None]])


def _rows(src: DatasetReader, pixels: Pixels, window: Window) -> Iterator[Window]:
    """Parts of a window of whole rows of blocks: each block is coded once, and little is held in two orders of axes."""
    block = src.block_shapes[0][0]
    step = max(1, _ROWS_BYTES // (block * pixels[:1].nbytes)) * block
    row, end = window.row_off, window.row_off + window.height
    while row < end:
        following = min((row // step + 1) * step, end)
        yield Window(window.col_off, row, window.width, following - row)
        row = following


def _slice(window: Window) -> tuple[slice, slice]:
    return slice(window.row_off, window.row_off + window.height), slice(None)
