"""What the page shows, and the page."""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import MemoryFile

from ....datasets.raster import quiet_georeference

_TEMPLATE = Path(__file__).parent / "page.html"
_SLOT = '<script type="application/json" id="data">{}</script>'
_DIGITS_OF_DEGREES = 5  # a metre


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """A line of the legend. What is not known is None.

    Args:
        name: of the class.
        color: as #rrggbb.
        pixels: mapped as it.
        share: of all that is mapped.
        hectares: of the same.
        confidence: mean of the largest class probability where it is mapped.
    """

    name: str
    color: str
    pixels: int
    share: float
    hectares: float | None
    confidence: float | None


@dataclass(frozen=True, eq=False)
class ClassSpectra:
    """Mean and standard deviation (classes, bands) of the raw values of pixels mapped as each class; NaN for none.

    Args:
        mean, std: as said.
        pixels: (classes,) that were looked at.
        wavelengths: in nm; None if the scene has none.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    pixels: NDArray[np.int64]
    wavelengths: NDArray[np.float64] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Page:
    """All that the page shows.

    Args:
        title: its heading.
        facts: a few words each, below the heading.
        scene: uint8 (H, W, 3), a small picture of the scene.
        index: int (H, W), the class of each pixel of that picture, -1 where there is none.
        step: rows and columns of the map for each of the picture.
        transform: of the map, from columns and rows to coordinates; None if it lies nowhere.
        degrees: whether these are degrees.
        classes: in the order of ``index``.
        spectra: of the same.
        confusion: of held-out labels: (labelled as, mapped as); None if there were none.
        note: what the accuracy is worth.
        run: what else there is to know, JSON.
    """

    title: str
    facts: Sequence[str]
    scene: NDArray[np.uint8]
    index: NDArray[np.int32]
    step: tuple[float, float]
    transform: Affine | None
    degrees: bool = False
    classes: Sequence[ClassRow]
    spectra: ClassSpectra
    confusion: NDArray[np.int64] | None = None
    note: str = ""
    run: Mapping[str, Any]

    def html(self) -> str:
        """Return the whole page."""
        text = json.dumps(self._data(), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")  # no way out of the script
        page = _TEMPLATE.read_text(encoding="utf-8")
        assert page.count(_SLOT) == 1
        return page.replace(_SLOT, _SLOT.replace("{}", text))

    def _data(self) -> dict[str, Any]:
        height, width = self.index.shape
        return {
            "title": self.title,
            "facts": list(self.facts),
            "size": {"height": height, "width": width, "step_y": self.step[0], "step_x": self.step[1]},
            "transform": None if self.transform is None else list(self.transform)[:6],
            "digits": _DIGITS_OF_DEGREES if self.degrees else 0,
            "scene": "data:image/jpeg;base64," + base64.b64encode(_jpeg(self.scene)).decode("ascii"),
            "index": base64.b64encode(zlib.compress((self.index + 1).astype("<u2").tobytes(), 9)).decode("ascii"),
            "classes": [asdict(row) for row in self.classes],
            "spectra": self._spectra(),
            "accuracy": None if self.confusion is None else self._accuracy(self.confusion),
            "notes": {
                "classes": "Confidence is the mean of the largest class probability, calibrated on held-out labels."
                if any(row.confidence is not None for row in self.classes)
                else "",
                "spectra": "Mean and standard deviation of the values in the file, by the class that pixels are mapped as;"
                f" {self.spectra.pixels.sum():,} pixels were looked at.",
                "accuracy": f"Measured {self.note}." if self.note else "",
            },
            "run": dict(self.run),
        }

    def _spectra(self) -> dict[str, Any]:
        known = self.spectra.wavelengths
        at = np.arange(1, self.spectra.mean.shape[1] + 1) if known is None else known
        return {
            "at": [round(float(value), 2) for value in at],
            "axis": "band" if known is None else "wavelength, nm",
            "curves": [
                {"class": k, "mean": _short(self.spectra.mean[k]), "std": _short(self.spectra.std[k])}
                for k in range(len(self.classes))
                if self.spectra.pixels[k]
            ],
        }

    def _accuracy(self, confusion: NDArray[np.int64]) -> dict[str, Any]:
        return {"overall": float(np.trace(confusion) / max(confusion.sum(), 1)), "confusion": confusion.tolist()}


def _short(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    height, width, bands = picture.shape
    with quiet_georeference(), MemoryFile() as file:
        with file.open(driver="JPEG", width=width, height=height, count=bands, dtype="uint8", QUALITY=85) as dst:
            dst.write(np.moveaxis(picture, -1, 0))
        return bytes(file.read())
