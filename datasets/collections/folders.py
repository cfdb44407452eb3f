"""Folders of co-registered rasters: ``folder/SENSOR/place.tif``."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..sensors import Radiometry, Sensor, find_sensor, sensor
from ..sensors.sensor import plain
from .collection import OnError
from .layer import Layer
from .place import Place
from .rasters import LabelRaster, RasterMask, open_layer

logger = logging.getLogger(__name__)

SUFFIXES = (".tif", ".tiff", ".gtif", ".jp2", ".vrt", ".img", ".dat", ".bsq", ".bil", ".bip")
LABELS = {"lulc", "label", "labels", "landcover", "classes"}
_MASKS = {"scl": True, "cloudmask": False, "cloud": False, "clouds": False, "mask": False, "masks": False}  # whether classes
_NO_SENSORS = {"dem", "ndvi", "rgb", "s2rgb"}  # heights and derived pictures that lie beside the images


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files are read.

    Args:
        bands: names of bands in the order of the files, by sensor.
        radiometry: what numbers mean, by sensor, where that is not to be found out.
        paired: whether all sensors must have seen all places.
        on_error: whether files that cannot be opened end it, or are left out with their places.
    """

    bands: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    radiometry: Mapping[str, Radiometry] = field(default_factory=dict)
    paired: bool = True
    on_error: OnError = "raise"

    def told(self, layer: Layer) -> Layer:
        """Return a layer with the radiometry that the user tells, if any."""
        found = self.radiometry.get(layer.sensor.name)
        return layer if found is None else replace(layer, told=found)


def places_of_folder(folder: Path, sensors: Sequence[str] | Mapping[str, str] | None, reading: Reading) -> dict[str, Place]:
    """List the places of a folder that has a folder for each sensor, or images of one sensor.

    A folder's name tells its sensor, such as S2L2A or sentinel-2-l2a. LULC or labels holds classes; SCL, clouds or masks tell
    which pixels are hidden; DEM, NDVI and RGB are passed over.

    Args:
        folder: where.
        sensors: those that are wanted; or the sensor of each folder, by the folder's name.
        reading: how.

    Raises:
        FileNotFoundError: no images.
        ValueError: a sensor that is not known; places that are not seen by all sensors; a file that cannot be opened.
    """
    named = _sensor_folders(folder, sensors)
    files = {found.name: _rasters(path) for path, found in named.items()}
    for path, found in named.items():
        if not files[found.name]:
            raise FileNotFoundError(f"{path}: no images, expected {', '.join(SUFFIXES[:4])} and the like")
    names = sorted(set().union(*files.values()))
    if reading.paired:
        _check_pairs(folder, files, names)
    labels, masks, classes = _beside(folder, named)
    places: dict[str, Place] = {}
    failed: dict[str, str] = {}
    for name in names:
        place = _attempt(name, files, labels.get(name), masks.get(name), classes, reading)
        if isinstance(place, Place):
            places[name] = place
        else:
            failed[name] = place
    if failed and not places:
        raise ValueError(f"{folder}: no place can be used: {next(iter(failed.values()))}")
    if failed:
        logger.warning("%s: %d of %d places left out: %s", folder, len(failed), len(names), "; ".join(failed.values()))
    return places


def _attempt(
    name: str, files: Mapping[str, Mapping[str, Path]], label: Path | None, cloud: Path | None, classes: bool, reading: Reading
) -> Place | str:
    """The place, or why it is left out."""
    try:
        return _place(name, files, label, cloud, classes, reading)
    except ValueError as error:
        if reading.on_error == "raise":
            raise
        return str(error)


def _place(
    name: str, files: Mapping[str, Mapping[str, Path]], label: Path | None, cloud: Path | None, classes: bool, reading: Reading
) -> Place:
    mask = None if cloud is None else RasterMask.of(cloud, classes=classes)
    layers = {}
    for key, paths in files.items():
        if name in paths:
            layer = reading.told(open_layer(paths[name], sensor(key), bands=reading.bands.get(key)))
            layers[key] = replace(layer, mask=mask) if layer.sensor.optical else layer
    place = Place(layers, None if label is None else LabelRaster.of(label))
    place.check(name)
    return place


def _sensor_folders(folder: Path, sensors: Sequence[str] | Mapping[str, str] | None) -> dict[Path, Sensor]:
    """The folder of each sensor."""
    if isinstance(sensors, Mapping):
        for name in sensors:
            if not (folder / name).is_dir():
                raise FileNotFoundError(f"{folder / name}: no such folder")
        return _distinct([(folder / name, sensor(key)) for name, key in sensors.items()])
    parts = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    wanted = None if sensors is None else {sensor(name).name for name in sensors}
    found = [(path, known) for path in parts if (known := find_sensor(path.name))]
    if wanted is not None:
        if not found and len(wanted) == 1 and _rasters(folder):
            return {folder: sensor(wanted.pop())}
        if lacking := sorted(wanted - {known.name for _, known in found}):
            shown = ", ".join(path.name for path in parts) or "none"
            raise FileNotFoundError(f"{folder}: no folder for {', '.join(lacking)}, its folders are {shown}")
        return _distinct([(path, known) for path, known in found if known.name in wanted])
    unknown = [path.name for path in parts if not find_sensor(path.name) and not _beside_name(path.name)]
    if not found:
        if unknown:
            sensor(unknown[0])  # raises, and tells the near names
        hint = ": tell the sensor of its images" if _rasters(folder) else ", expected a folder for each sensor, such as S2L2A"
        raise FileNotFoundError(f"{folder}: no images of known sensors{hint}")
    if unknown:
        logger.warning("%s: passed over, as their names are no sensor's: %s", folder, ", ".join(unknown))
    return _distinct(found)


def _beside_name(name: str) -> bool:
    return plain(name) in LABELS | set(_MASKS) | _NO_SENSORS


def _distinct(found: Sequence[tuple[Path, Sensor]]) -> dict[Path, Sensor]:
    folders: dict[str, Path] = {}
    for path, known in found:
        if known.name in folders:
            raise ValueError(f"{folders[known.name]} and {path.name} are both of {known.name}")
        folders[known.name] = path
    return dict(found)


def _rasters(folder: Path) -> dict[str, Path]:
    """Images of a folder by name without suffix, in the order of names."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        if path.stem in found:
            raise ValueError(f"{folder}: {found[path.stem].name} and {path.name} differ in their suffix only")
        found[path.stem] = path
    return found


def _check_pairs(folder: Path, files: Mapping[str, Mapping[str, Path]], names: Sequence[str]) -> None:
    alone = [name for name in names if any(name not in held for held in files.values())]
    if alone:
        lacking = next(key for key, held in files.items() if alone[0] not in held)
        shown = ", ".join(alone[:3]) + (", ..." if len(alone) > 3 else "")
        raise ValueError(
            f"{folder}: {len(alone)} of {len(names)} places are not seen by all sensors: {shown} (no image of {lacking}); "
            "allowed only if they need not be paired"
        )


def _beside(folder: Path, named: Mapping[Path, Sensor]) -> tuple[dict[str, Path], dict[str, Path], bool]:
    """Labels and masks by place, and whether masks are classes of Sentinel-2."""
    parts = sorted(path for path in folder.iterdir() if path.is_dir() and path not in named)
    labels = _first(parts, lambda name: name in LABELS)
    masks = _first(parts, lambda name: name in _MASKS)
    return (
        {} if labels is None else _rasters(labels),
        {} if masks is None else _rasters(masks),
        masks is not None and _MASKS[plain(masks.name)],
    )


def _first(parts: Sequence[Path], fits: Callable[[str], bool]) -> Path | None:
    return next((path for path in parts if fits(plain(path.name))), None)
