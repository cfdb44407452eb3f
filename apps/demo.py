"""`geovit demo`: a made-up scene, its map, and how right that is."""

import time
from pathlib import Path

import numpy as np

from ..datasets import open_scene, read_labels, synthesize_scene
from .cli import console
from .hyperspectral import classify


def demo(out: Path = Path("demo"), seed: int = 0, progress: bool = False) -> int:
    """Make a labelled hyperspectral scene, classify it, and measure the map against the truth.

    Args:
        out: folder for the files; it is made if need be, and files of an earlier demo are replaced.
        seed: of the scene and of the training.
        progress: show progress bars.
    """
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    files = synthesize_scene(out, seed=seed, overwrite=True)
    show = console().print
    show(f"geovit classify {files.scene} --labels {files.labels} --out {out} --quicklook --overwrite")
    result = classify(
        str(files.scene), labels=str(files.labels), out=out, quicklook=True, overwrite=True, seed=seed, progress=progress
    )
    show(result)
    grid = open_scene(files.scene).grid
    truth, labels, mapped = (read_labels(path, grid) for path in (files.truth, files.labels, result.files["map"]))
    values = [np.array([0, *(info.value for info in read.classes)])[read.index + 1] for read in (truth, mapped)]
    unseen = (truth.index >= 0) & (labels.index < 0)
    accuracy = (values[0] == values[1])[unseen].mean()
    show(
        f"Accuracy on {unseen.sum():,} pixels that were not labelled: {accuracy:.3f}, everything in"
        f" {time.perf_counter() - started:.0f} seconds"
    )
    return 0
