"""A picture of a scene and its map, with a legend."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from ...datasets import ClassInfo, Scene

_RGB_NM = (650.0, 550.0, 450.0)
_MOST_PIXELS = 1200  # on the longer side of each panel


def preview_shape(height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of the picture of a map."""
    shrink = max(max(height, width) / _MOST_PIXELS, 1.0)
    return max(round(height / shrink), 1), max(round(width / shrink), 1)


def write_quicklook(
    path: Path, natural: NDArray[np.uint8], index: NDArray[np.int32], classes: Sequence[ClassInfo], *, name: str, title: str
) -> None:
    """Write a PNG: the scene, the map, the classes' names.

    Args:
        path: of the PNG.
        natural: the scene as ``natural_colours`` shows it, (h, w, 3).
        index: class of each of these pixels (h, w), -1 where there is none.
        classes: in the order of ``index``.
        name: above the scene.
        title: above the map.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colors = np.array([(255, 255, 255), *(info.color for info in classes)], dtype=np.uint8)
    mapped = colors[index + 1]
    height, width = mapped.shape[:2]
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 10}):
        panel = 4.2
        tall = min(max(panel * height / width, 1.5), 3 * panel)  # a long strip is drawn narrow rather than endless
        figure = Figure(figsize=(2 * panel + 2.2, tall + 0.5), layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots(1, 2)
        for axis, image, text in zip(axes, (natural, mapped), (name, title), strict=True):
            axis.imshow(image, interpolation="nearest")
            axis.set_title(text, parse_math=False)  # a name's dollar signs are no formula
            axis.set_axis_off()
        patches = [Patch(color=info.hex, label=info.name) for info in classes]
        legend = figure.legend(handles=patches, loc="outside right center", frameon=False)
        for entry in legend.get_texts():
            entry.set_parse_math(False)
        canvas.print_png(path)  # type: ignore[no-untyped-call]


def natural_colours(scene: Scene, window: Window, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a window as a small picture (*shape, 3): natural colours, or three bands over the range; white for no data.

    The darkest and the brightest 2 % of each colour are cut off.
    """
    if scene.wavelengths is None:
        bands = [scene.num_bands * part // 6 for part in (5, 3, 1)]
    else:
        bands = [int(np.abs(scene.wavelengths - nm).argmin()) for nm in _RGB_NM]
    image = np.moveaxis(scene.preview(bands, window, shape), 0, -1)
    valid = np.asarray(np.isfinite(image).all(axis=-1))
    if not valid.any():
        return np.full(image.shape, 255, np.uint8)
    low, high = np.percentile(image[valid], (2, 98), axis=0)
    stretched = np.clip((image - low) / np.maximum(high - low, 1e-6), 0, 1)
    return np.asarray(np.rint(255 * np.where(valid[..., None], stretched, 1)), dtype=np.uint8)
