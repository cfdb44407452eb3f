"""Scenes as tiles that fade into each other: what is done with each of them."""

import numpy as np
from numpy.typing import NDArray

from ...core.streaming.plan import Area, Part
from ...core.streaming.run import Finished, InMemory, Ready, run
from ...datasets.areas import AreaMask
from .embedder import Embedder, blocks, evaluating
from .scenes import Pixels

EMBEDDING = "embedding"  # name of what is finished


class PartEmbedder:
    """Embeds parts of one scene; the worker of ``core.streaming``.

    What a token becomes depends on its tile, so tiles fade into each other; whether it holds data depends on its own pixels.

    Args:
        embedder: the model, in evaluation mode on its device.
        opened: what is read.
        mask: polygons; tokens with too few pixels inside are nodata. What lies around them is seen all the same.
        corner: row and column of the scene's pixel where the result begins.
    """

    def __init__(
        self, embedder: Embedder, opened: Pixels, mask: AreaMask | None = None, corner: tuple[int, int] = (0, 0)
    ) -> None:
        self._embedder, self._opened, self._mask, self._corner = embedder, opened, mask, corner

    def read(self, part: Part) -> NDArray[np.float32]:
        """Read the pixels of a tile."""
        rows, columns = part.rows, part.columns
        return self._opened.read(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)

    def compute(self, data: NDArray[np.float32], part: Part) -> NDArray[np.float32]:
        """Encode a tile."""
        return self._embedder.tile_features(data, self._opened, part)

    def finish(self, values: NDArray[np.float32], area: Area) -> Finished:
        """Leave out what the mask leaves out, and count the tokens that hold data."""
        if self._mask is not None and values.size:
            values = np.where(self._inside(area), values, np.float32(np.nan))
        return Finished({EMBEDDING: values}, {"tokens": int(np.isfinite(values[:1]).sum())})

    def _inside(self, area: Area) -> NDArray[np.bool_]:
        assert self._mask is not None
        patch, (height, width) = self._embedder.patch, self._opened.shape
        row, column = self._corner[0] + area.row * patch, self._corner[1] + area.column * patch
        pixels = np.zeros((2, area.height * patch, area.width * patch), dtype=np.bool_)
        down, across = min(pixels.shape[1], height - row), min(pixels.shape[2], width - column)
        pixels[0, :down, :across] = self._mask.read(row, column, down, across)
        pixels[1, :down, :across] = True
        share = blocks(pixels[0], patch) / np.maximum(blocks(pixels[1], patch), 1)
        return np.asarray(share >= self._embedder.valid)


def embed_whole(embedder: Embedder, opened: Pixels) -> NDArray[np.float32]:
    """Return all features of a scene, (rows, columns, features), NaN where there is no data."""
    embedder.check(opened)
    plan = embedder.plan(opened)
    made = InMemory({EMBEDDING: np.empty((embedder.features, *plan.shape), dtype=np.float32)})
    with evaluating(embedder.model, embedder.device):
        run(plan, Ready(PartEmbedder(embedder, opened)), made, threads=None)
    return np.moveaxis(made.arrays[EMBEDDING], 0, -1)
