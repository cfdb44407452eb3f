"""What class values mean: names, colours and the CSV file that overrides them."""

import colorsys
import csv
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

logger = logging.getLogger(__name__)

Color = tuple[int, int, int]

_MOST_BYTE = 255
MAX_VALUE = 65535  # maps are uint8 or uint16, and 0 is nodata

# Wong 2011 (Nature Methods 8:441) without black, then Tol's "muted" scheme: told apart with any common colour vision.
_PALETTE = (
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442", "#332288",
    "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499",
)  # fmt: skip


@dataclass(frozen=True)
class ClassInfo:
    """A class: its value in label files and maps (1..65535), its name, its colour (red, green, blue in 0..255)."""

    value: int
    name: str
    color: Color

    def __post_init__(self) -> None:
        if not 1 <= self.value <= MAX_VALUE:
            raise ValueError(f"class {self.name!r} has value {self.value}, allowed are 1..{MAX_VALUE}")

    @property
    def hex(self) -> str:
        """Its colour as ``#rrggbb``."""
        return "#" + bytes(self.color).hex()


def map_type(values: Iterable[int]) -> Literal["uint8", "uint16"]:
    """Return the type of a map's pixels: the smallest that holds its class values."""
    return "uint8" if max(values) <= _MOST_BYTE else "uint16"


def map_names(classes: Iterable[ClassInfo]) -> dict[int, str]:
    """Return the names of a map's values, that of nodata too."""
    return {0: "no data"} | {info.value: info.name for info in classes}


def map_colors(classes: Iterable[ClassInfo]) -> dict[int, tuple[int, int, int, int]]:
    """Return the colours (red, green, blue, alpha) of a map's values; nodata is not seen."""
    return {0: (0, 0, 0, 0)} | {info.value: (*info.color, 255) for info in classes}


def default_color(value: int) -> Color:
    """Colour of a class value: the same in every scene, so that maps compare."""
    if value <= len(_PALETTE):
        return parse_color(_PALETTE[value - 1])
    # Steps of the golden angle spread any number of hues; lightness and saturation cycle to part neighbours further.
    hue = value * 0.61803398875 % 1.0
    red, green, blue = colorsys.hls_to_rgb(hue, (0.35, 0.5, 0.65)[value % 3], (0.55, 0.8)[value % 2])
    return round(red * 255), round(green * 255), round(blue * 255)


def parse_color(text: str) -> Color:
    """Red, green, blue of ``#rrggbb``."""
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise ValueError(f"colour {text!r}, expected #rrggbb")
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def make_classes(
    values: Iterable[int], names: Mapping[int, str], colors: Mapping[int, Color], file: str | Path | None = None
) -> tuple[ClassInfo, ...]:
    """Classes of the given values in ascending order.

    Args:
        values: class values, in any order and repeated at will.
        names: what the label file says; missing or empty names become ``class N``.
        colors: what the label file says; missing colours come from the palette.
        file: CSV whose names and colours win over those of the label file.
    """
    present = sorted(set(values))
    rows = {} if file is None else _read_csv(Path(file))
    absent = sorted(set(rows) - set(present))
    if rows and len(absent) == len(rows):
        raise ValueError(f"{file}: values {_some(absent)}, but the labels hold {_some(present)}")
    if absent:
        logger.warning("%s: no labelled pixel has value %s", file, _some(absent))
    classes = []
    for value in present:
        name, color = rows.get(value, ("", None))
        fallback = colors.get(value) or default_color(value)
        classes.append(ClassInfo(value, name or names.get(value) or f"class {value}", color or fallback))
    return tuple(classes)


def _some(values: list[int]) -> str:
    return ", ".join(map(str, values[:10])) + (", ..." if len(values) > 10 else "")


def _read_csv(file: Path) -> dict[int, tuple[str, Color | None]]:
    """Rows value,name[,color]; a first row whose value is no number is a header that names the columns, in any order."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = [[cell.strip() for cell in row] for row in csv.reader(stream) if any(cell.strip() for cell in row)]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file}: no such file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file}: not a CSV file in UTF-8 ({error})") from error
    if not rows:
        raise ValueError(f"{file}: no classes, expected rows of value,name[,#rrggbb]")
    columns = ["value", "name", "color"]
    if not rows[0][0].lstrip("+-").isdigit():
        columns = [cell.lower().replace("colour", "color") for cell in rows.pop(0)]
        if not {"value", "name"} <= set(columns):
            raise ValueError(f"{file}: header {columns}, expected value,name[,color]")
    classes: dict[int, tuple[str, Color | None]] = {}
    for row in rows:
        cells = dict(zip(columns, row, strict=False))
        text = cells.get("value", "")
        if not text.isdigit() or not 1 <= int(text) <= MAX_VALUE or int(text) in classes:
            raise ValueError(f"{file}: value {text!r}, expected different integers in 1..{MAX_VALUE}")
        try:
            color = parse_color(cells["color"]) if cells.get("color") else None
        except ValueError as error:
            raise ValueError(f"{file}: class {text}: {error}") from error
        classes[int(text)] = cells.get("name", ""), color
    return classes
