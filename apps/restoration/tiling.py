"""Restoring images of any size in bounded memory: tiles in the phase of the whole image, blended, a row of them at a time."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ...core.memory import forward_bytes, is_out_of_memory, memory_limit, release, used_bytes
from ...core.precision import autocast
from ...core.tiles import Tile, cut, smallest_step
from .network import Network

logger = logging.getLogger(__name__)

LARGEST = 1024  # pixels on a side of a tile: more gains nothing, the share of the overlap is small
_PROBES = (48, 96)  # pixels on a side of the inputs that memory is measured on
# Live tensors are not all: the C library keeps up to as much again of what was freed, in blocks below 32 MB.
_KEPT = 2.0
_HANDED = 32  # rows of the image whose results are handed on at once, so that rounding them takes little
_LATER = 128e6  # bytes of libraries that are loaded on the way, and of their buffers
_UNSEEN = 1.1  # what kernels take for themselves

Reader = Callable[[slice, slice], Tensor]  # rows and columns of the image to float32 (C, h, w) in 0..1
Ticker = Callable[[int, int], None]  # tiles done, tiles in all


@dataclass
class Tiler:
    """Runs a network over images, whole where memory allows, else in tiles.

    Tiles start at multiples of ``network.multiple``, so that windows and strides fall as in the whole image; the image is filled
    up at its true borders only. Of the overlap of two tiles each uses its half where the halo is exact; elsewhere one fades into
    the other over the inner half of the overlap.

    Args:
        network: in evaluation mode, on ``device``.
        device: where it is.
        dtype: of the products, by autocast.
        tile: pixels on a side; "auto" for as many as memory allows. Rounded up to the network's multiple.
        overlap: pixels that neighbours share; None for twice the network's halo.
        limit: bytes of memory that the process may take at the most, on the device; None for 4 GB on a CPU, or half of what is
            free if that is less; half of what is free on a GPU.
        frugal: whether the C library keeps no freed memory (``keep_no_freed_memory``), so that none need be set aside for that.
    """

    network: Network
    device: torch.device
    dtype: torch.dtype = torch.float32
    tile: int | Literal["auto"] = "auto"
    overlap: int | None = None
    limit: float | None = None
    frugal: bool = False
    _fit: tuple[float, float] | None = field(default=None, init=False)
    _most: int = field(default=LARGEST, init=False)  # lowered when memory runs out

    def __post_init__(self) -> None:
        if self.overlap is not None and self.overlap < 0:
            raise ValueError(f"overlap is {self.overlap}, expected 0 pixels or more")
        if self.tile != "auto" and self._up(self.tile) < self.smallest:
            raise ValueError(
                f"tile is {self.tile}, expected {self.smallest} pixels or more at an overlap of {self.shared} "
                f"({type(self.network).__name__})"
            )

    @property
    def shared(self) -> int:
        """Pixels that neighbours share, a multiple of the network's."""
        return self._up(2 * self.network.halo if self.overlap is None else self.overlap)

    @property
    def fade(self) -> int:
        """Pixels over which one tile fades into the next."""
        exact = self.network.exact_halo and self.shared >= 2 * self.network.halo
        return 0 if exact else self.shared // 2

    @property
    def smallest(self) -> int:
        """Pixels on a side of the smallest tile."""
        return self.shared + smallest_step(self.fade, self.network.multiple)

    def _up(self, pixels: int) -> int:
        return -(-pixels // self.network.multiple) * self.network.multiple

    def run(
        self, read: Reader, size: tuple[int, int], *, held: int = 0, tick: Ticker | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yield finished rows of the restored image from top to bottom: where they are, and float32 (C, rows, columns).

        If memory runs out, the tiles are halved and the rows come again from the top.

        Args:
            read: gives parts of the image.
            size: its height and width.
            held: bytes that the caller will have taken beside.
            tick: told after each tile.

        Raises:
            ValueError: if memory does not suffice for the smallest tile, or the network's output is not finite.
        """
        side = self.side(size, held)
        while True:
            try:
                yield from self._rows(read, size, side, tick)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                cause = error.with_traceback(None)  # its frames hold what has to be freed
            else:
                return
            longest = self._up(min(side, max(size)))
            if longest <= self.smallest:
                raise ValueError(f"out of memory with tiles of {longest} pixels, the smallest possible: {cause}")
            side = self._most = max(self._up(longest // 2), self.smallest)
            release(self.device)
            logger.warning("out of memory with tiles of %d pixels, going on with %d", longest, side)

    def side(self, size: tuple[int, int], held: int = 0) -> int:
        """Choose the side of tiles for an image of that size; arguments and errors as in ``run``."""
        if self.tile != "auto":
            return min(self._up(self.tile), max(self._most, self.smallest))
        largest = max(self._up(min(max(size), self._most)), self.smallest)
        used = used_bytes(self.device) + (held if self.device.type == "cpu" else 0)
        limit = memory_limit(self.device, self.limit)
        room = limit - used
        side = largest
        while side > self.smallest and self.bytes_of(size, side) > room:
            side = max(self._up(side - max(side // 16, 1)) - self.network.multiple, self.smallest)
        needed = self.bytes_of(size, side)
        if needed > room:
            raise ValueError(
                f"{size[1]} x {size[0]} pixels need {(needed + used) / 1e9:.2f} GB in tiles of {side}, the smallest possible; "
                f"allowed are {limit / 1e9:.2f} GB"
            )
        return side

    def bytes_of(self, size: tuple[int, int], side: int) -> int:
        """Predict the bytes that restoring takes at its peak beside what there is before: a tile and a row of results."""
        height, width = (min(side, self._up(axis)) for axis in size)
        base, slope = self._measured()
        factor = _UNSEEN if self.frugal or self.device.type != "cpu" else _KEPT
        # A row of tiles, what is carried over to the next one, and the parts of both that are being rounded.
        row = 4 * self.network.out_channels * self.network.scale**2 * size[1] * (height + self.fade)
        made = 8 * self.network.out_channels * self.network.scale**2 * height * width  # weighted, before it is added to the row
        beside = 1.5 * row + _LATER if self.device.type == "cpu" else 0
        return int(factor * (base + slope * height * width) + made + beside)

    def _measured(self) -> tuple[float, float]:
        if self._fit is None:
            sides = [self._up(side) for side in _PROBES]
            if sides[0] == sides[1]:
                sides[1] *= 2
            shapes = [(1, self.network.in_channels, side, side) for side in sides]
            found = [forward_bytes(self.network, shape, device=self.device, dtype=self.dtype) for shape in shapes]
            slope = (found[1] - found[0]) / (sides[1] ** 2 - sides[0] ** 2)
            self._fit = max(found[0] - slope * sides[0] ** 2, 0.0), slope
        return self._fit

    def _rows(self, read: Reader, size: tuple[int, int], side: int, tick: Ticker | None) -> Iterator[tuple[slice, Tensor]]:
        tiles = [cut(n, side, overlap=self.shared, fade=self.fade, multiple=self.network.multiple) for n in size]
        rows, columns = tiles
        s = self.network.scale
        carried: Tensor | None = None
        for index, row in enumerate(rows):
            strip = torch.zeros(self.network.out_channels, (row.last - row.first) * s, size[1] * s)
            for count, column in enumerate(columns):
                strip[..., column.first * s : column.last * s] += self._tile(read, row, column)
                if tick is not None:
                    tick(index * len(columns) + count + 1, len(rows) * len(columns))
            if carried is not None:
                strip[:, : carried.shape[1]] += carried
            done = strip.shape[1] - row.fade_out * s
            carried = strip[:, done:].clone() if row.fade_out else None
            for begin in range(0, done, _HANDED * s):
                end = min(begin + _HANDED * s, done)
                yield slice(row.first * s + begin, row.first * s + end), strip[:, begin:end]
            del strip  # before the next one is made

    @torch.inference_mode()
    def _tile(self, read: Reader, row: Tile, column: Tile) -> Tensor:
        s = self.network.scale
        x_BCHW = read(slice(row.start, row.stop), slice(column.start, column.stop))[None]
        with autocast(self.device, self.dtype):
            y_BCHW = self.network(x_BCHW.to(self.device))
        y_CHW = y_BCHW[0, :, (row.first - row.start) * s :, (column.first - column.start) * s :]
        y_CHW = y_CHW[:, : (row.last - row.first) * s, : (column.last - column.first) * s].float()
        if not y_CHW.isfinite().all():
            raise ValueError(
                f"{type(self.network).__name__} gives values that are not finite in {str(self.dtype).removeprefix('torch.')}: "
                + ("its weights are damaged" if self.dtype == torch.float32 else "use --precision fp32")
            )
        if row.fade_in or row.fade_out:
            y_CHW = y_CHW * row.weights(s).to(self.device)[:, None]
        if column.fade_in or column.fade_out:
            y_CHW = y_CHW * column.weights(s).to(self.device)
        done: Tensor = y_CHW.cpu()
        return done
