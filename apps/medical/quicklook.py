"""A picture of a volume and its labels: three planes with contours, as radiologists look at them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets import atomic
from ...datasets.volumes import Volume
from .plan import Channel

_PLANES = ("axial", "coronal", "sagittal")
_ACROSS = {"axial": 2, "coronal": 1, "sagittal": 0}  # axis of an RAS array
# What is on the left, right, top and bottom: feet and face are seen from the radiologist's side of the bed.
_LETTERS = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
_MOST_NAMES = 24  # in the legend
_INCHES = 4.2
_LINE = 0.19  # inches of each name
_DOTS = 130  # per inch
# Colours that are told apart on grey, also by most who see few colours.
_COLORS = (
    *("#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#bfef45", "#fabed4", "#469990"),
    *("#dcbeff", "#9a6324", "#fffac8", "#aaffc3", "#808000", "#ffd8b1", "#c00000", "#7fa0ff", "#00c8a0"),
)


def write_quicklook(
    path: Path,
    volume: Volume,
    labels_IJK: NDArray[np.integer],
    *,
    names: Mapping[int, str],
    channel: Channel | None = None,
    overwrite: bool = False,
) -> None:
    """Write a PNG of an axial, a coronal and a sagittal plane with the contours of labels.

    Each plane is the one that has most of the labels, or the middle one where there are none. The patient's right is on the left,
    and the face on the left of sagittal planes; lengths are true to millimetres. Axes that are oblique are drawn as the
    nearest ones.

    Args:
        path: of the PNG.
        volume: that was segmented; its first channel is shown.
        labels_IJK: on its grid.
        names: of label values.
        channel: of the plan: its ``low`` and ``high``, if it has them, are black and white; else percentiles of what is shown.
        overwrite: replace the file.

    Raises:
        FileExistsError, OSError: as in ``geovit.datasets.atomic``.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke

    image, labels, spacing = _turned(volume, labels_IJK)
    cut = _cuts(labels)
    panels = {plane: _panel(image, plane, cut[plane]).astype(np.float32) for plane in _PLANES}
    low, high = _window(panels.values(), channel)
    sizes = {plane: _lengths(panels[plane], plane, spacing) for plane in _PLANES}
    longest = max(max(size) for size in sizes.values())
    planes = {plane: np.pad(_panel(labels, plane, cut[plane]), 1) for plane in _PLANES}  # padded: closes contours at the edges
    shown = sorted({value for plane in planes.values() for value in np.unique(plane).tolist()} - {0})
    # A class keeps its colour from volume to volume, unless there are more classes than colours.
    ranked = sorted(names) if len(names) <= len(_COLORS) else shown
    colors = {value: _COLORS[(ranked.index(value) if value in ranked else value) % len(_COLORS)] for value in shown}
    listed = _listed(list(planes.values()), shown)
    outline = [withStroke(linewidth=2, foreground="black")]
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 9}):
        ratios = [max(sizes[plane][1] / longest, 0.3) for plane in _PLANES]
        tall = _INCHES * max(*(sizes[plane][0] / longest for plane in _PLANES), 0.4)
        tall = max(tall, _LINE * len(listed))
        figure = Figure(figsize=(_INCHES * sum(ratios) + 2, tall + 0.7), layout="constrained", facecolor="black")
        canvas = FigureCanvasAgg(figure)
        for axes, plane in zip(figure.subplots(1, 3, width_ratios=ratios), _PLANES, strict=True):
            height, width = sizes[plane]
            rows, columns = panels[plane].shape
            # In millimetres, so that voxels have their true shape.
            axes.imshow(panels[plane], cmap="gray", vmin=low, vmax=high, extent=(0, width, height, 0), interpolation="nearest")
            x = (np.arange(-1, columns + 1) + 0.5) * width / columns
            y = (np.arange(-1, rows + 1) + 0.5) * height / rows
            for value in sorted(set(np.unique(planes[plane]).tolist()) - {0}):
                axes.contour(x, y, planes[plane] == value, levels=[0.5], colors=[colors[value]], linewidths=1.1)
            axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], facecolor="black")
            axes.set_title(f"{plane} {cut[plane] + 1} of {labels.shape[_ACROSS[plane]]}", color="white")
            for letter, (across, down) in zip(_LETTERS[plane], ((0.02, 0.5), (0.98, 0.5), (0.5, 0.98), (0.5, 0.02)), strict=True):
                place: dict[str, Any] = {"ha": {0.02: "left", 0.98: "right"}.get(across, "center")}
                place["va"] = {0.02: "bottom", 0.98: "top"}.get(down, "center")
                place |= {"color": "white", "weight": "bold", "path_effects": outline}
                axes.text(across, down, letter, transform=axes.transAxes, **place)
        title = volume.path.name if volume.path is not None else ""
        figure.suptitle(title, color="white", fontsize=9, parse_math=False)
        handles = [Line2D([], [], color=colors[value], label=names.get(value, str(value))) for value in listed]
        if handles:
            legend = figure.legend(handles=handles, loc="outside right center", frameon=False, labelcolor="white")
            for entry in legend.get_texts():
                entry.set_parse_math(False)  # a name's dollar signs are no formula
        with atomic(path, overwrite) as target:
            canvas.print_figure(target, dpi=_DOTS, facecolor="black")  # type: ignore[no-untyped-call]


def _turned(
    volume: Volume, labels_IJK: NDArray[np.integer]
) -> tuple[NDArray[Any], NDArray[np.integer], tuple[float, float, float]]:
    """First channel and labels as views whose axes lead to the right, front and top, and the spacing of these axes."""
    from nibabel.orientations import apply_orientation, io_orientation

    turn = io_orientation(volume.affine)
    spacing = [0.0, 0.0, 0.0]
    for axis, (goal, _) in enumerate(turn):
        spacing[int(goal)] = volume.spacing[axis]
    image, labels = (apply_orientation(array, turn) for array in (volume.voxels[0], labels_IJK))
    return image, labels, (spacing[0], spacing[1], spacing[2])


def _cuts(labels: NDArray[np.integer]) -> dict[str, int]:
    """Which plane has most of the labels, the middle one if there are none."""
    areas = [np.zeros(n, np.int64) for n in labels.shape]
    for index, plane in enumerate(labels):
        labelled = plane != 0
        areas[1] += np.count_nonzero(labelled, axis=1)
        areas[2] += np.count_nonzero(labelled, axis=0)
        areas[0][index] = np.count_nonzero(labelled)
    return {plane: int(areas[axis].argmax()) if areas[axis].any() else len(areas[axis]) // 2 for plane, axis in _ACROSS.items()}


def _panel(array: NDArray[Any], plane: str, index: int) -> NDArray[Any]:
    """A plane of an RAS array as rows from the top and columns from the left."""
    return np.take(array, index, axis=_ACROSS[plane])[::-1, ::-1].T


def _lengths(panel: NDArray[Any], plane: str, spacing: tuple[float, float, float]) -> tuple[float, float]:
    """Millimetres of rows and columns."""
    x, y, z = spacing
    down, across = {"axial": (y, x), "coronal": (z, x), "sagittal": (z, y)}[plane]
    return panel.shape[0] * down, panel.shape[1] * across


def _window(panels: Iterable[NDArray[np.float32]], channel: Channel | None) -> tuple[float, float]:
    if channel is not None and channel.low is not None and channel.high is not None and channel.low < channel.high:
        return channel.low, channel.high
    values = np.concatenate([panel.ravel() for panel in panels])
    inside = values[values > values.min()]  # the background of MR images, and what lies outside of the scanner's circle
    low, high = np.percentile(inside if inside.size else values, (0.5, 99.5)).tolist()
    return low, max(high, low + 1e-6)


def _listed(planes: Sequence[NDArray[np.integer]], shown: list[int]) -> list[int]:
    """Values on the planes in their order; of many, those that cover most of them."""
    if len(shown) <= _MOST_NAMES:
        return shown
    areas = {value: sum(int(np.count_nonzero(plane == value)) for plane in planes) for value in shown}
    return sorted(sorted(shown, key=lambda value: -areas[value])[:_MOST_NAMES])
