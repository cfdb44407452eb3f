"""One entry for every kind of collection."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..sensors import Radiometry, sensor
from .collection import Collection, OnError
from .folders import Reading, places_of_folder
from .layer import Layer
from .place import Place
from .rasters import open_layer
from .stac import places_of_items, read_items
from .zarr_stacks import places_of_zarr
from .zarr_store import is_zarr


def open_collection(
    source: str | Path,
    *,
    sensors: str | Sequence[str] | Mapping[str, str] | None = None,
    bands: Mapping[str, Sequence[str | None]] | None = None,
    radiometry: Mapping[str, Radiometry] | None = None,
    paired: bool = True,
    block: int | None = None,
    on_error: OnError = "raise",
    check: bool = True,
    keep_mib: int = 256,
) -> Collection:
    """Open images of one or several sensors.

    Args:
        source: a folder of co-registered rasters ``SENSOR/place.tif``; a Zarr store; a JSON file of STAC items; or a scene
            (GeoTIFF, ENVI and so on). What torchgeo reads is opened by ``from_torchgeo``.
        sensors: those that are wanted, by default all; or the sensor of each folder, array or STAC collection, by its name. A
            scene needs its sensor's name.
        bands: for a sensor, names of the bands in the order of its files, where the files do not tell; None for
            bands that are passed over, such as masks.
        radiometry: for a sensor, what its numbers mean, where that is not to be found out from tags and numbers.
        paired: whether all sensors must have seen all places.
        block: cuts a scene into places of so many pixels a side; by default it is one place.
        on_error: whether a file that cannot be used ends it, or is left out with its place, which is logged.
        check: whether the radiometry of all files is decided now, or of each when it is first read.
        keep_mib: pixels are kept in memory if all of them take no more than this.

    Raises:
        FileNotFoundError: nothing there, or no images in it.
        ValueError: an unknown sensor, bands that are not its own, images that do not belong together, damaged files, numbers
            that are not what the sensor measures.
    """
    path = Path(source)
    wanted = [sensors] if isinstance(sensors, str) else sensors
    reading = Reading(
        bands={sensor(name).name: names for name, names in (bands or {}).items()},
        radiometry={sensor(name).name: found for name, found in (radiometry or {}).items()},
        paired=paired,
        on_error=on_error,
    )
    if is_zarr(path):
        members = places_of_zarr(path, wanted, reading)
    elif path.is_dir():
        members = places_of_folder(path, wanted, reading)
    elif path.suffix.lower() in (".json", ".geojson"):
        members = places_of_items(read_items(path), wanted, reading)
    else:
        members = _scene(str(source), wanted, block, reading)
    collection = Collection(str(source), members, keep_mib)
    return collection.check(on_error=on_error) if check else collection


def _scene(
    source: str, sensors: Sequence[str] | Mapping[str, str] | None, block: int | None, reading: Reading
) -> dict[str, Place]:
    """One scene, whole or in blocks."""
    if sensors is None or isinstance(sensors, Mapping) or len(sensors) != 1:
        if not (":" in source or source.startswith("/vsi") or Path(source).exists()):
            raise FileNotFoundError(f"{source}: no such file or folder")
        raise ValueError(f"{source}: tell the sensor of the scene, such as enmap")
    known = sensor(sensors[0])
    layer = reading.told(open_layer(source, known, bands=reading.bands.get(known.name)))
    name = Path(source).stem
    if block is None:
        return {name: Place({known.name: layer})}
    return {f"{name}_{key}": Place({known.name: part}) for key, part in _blocks(layer, block).items()}


def _blocks(layer: Layer, side: int) -> dict[str, Layer]:
    height, width = layer.grid.shape
    if not 0 < side <= min(height, width):
        raise ValueError(f"{layer.where}: blocks of {side} pixels, expected 1..{min(height, width)}")
    # What is over goes to the last block of a row or column, so that no block is smaller than asked for.
    rows, columns = height // side, width // side
    parts = {}
    for i in range(rows):
        for j in range(columns):
            tall = side if i < rows - 1 else height - i * side
            wide = side if j < columns - 1 else width - j * side
            parts[f"{i}_{j}"] = layer.part(j * side, i * side, wide, tall)
    return parts
