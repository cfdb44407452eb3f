"""Restoring images of any size in bounded memory: in tiles whose phase is that of the whole image, one fading into the next."""

import logging
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.memory import FREED, LATER, UNSEEN, forward_bytes, is_out_of_memory, memory_limit, release, used_bytes
from ...core.precision import autocast
from ...core.streaming.plan import Area, Part, Plan
from ...core.streaming.run import Finished, InMemory, Ready, Sink, Tick, Worker, run
from ...core.tiles import smallest_step
from .network import Network

logger = logging.getLogger(__name__)

LARGEST = 1024  # pixels on a side of a tile: more gains nothing, the share of the overlap is small
_PROBES = (48, 96)  # pixels on a side of the inputs that memory is measured on
_AHEAD = 2  # parts that were read, or computed, before they are needed
_MADE = 4  # results at a time: one weighted, one being written and one waiting, and what rounding takes
_ALONE = 2  # results where there is one part only


@dataclass(frozen=True)
class Load:
    """What an image takes beside the network's own tensors, in float32 numbers for each pixel.

    Args:
        read: for a pixel of the image.
        made: for a pixel of the result.
        held: bytes that the caller will have taken.
    """

    read: float
    made: float
    held: int = 0


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

    def plan(self, size: tuple[int, int], side: int, area: Area | None = None) -> Plan:
        """Return the parts of an image of that size, or of an area of it."""
        return Plan(
            image=size,
            area=area or Area(0, 0, *size),
            side=side,
            overlap=self.shared,
            fade=self.fade,
            multiple=self.network.multiple,
            up=self.network.scale,
        )

    def run(self, worker: Worker[Any], size: tuple[int, int], sink: Sink, *, load: Load, tick: Tick | None = None) -> None:
        """Restore an image that is in memory. If memory runs out, the tiles are halved and all comes again from the top.

        Args:
            worker: restores parts of it by ``part``.
            size: its height and width.
            sink: takes the results.
            load: what they take.
            tick: told after each tile.

        Raises:
            ValueError: if memory does not suffice for the smallest tile, or the network's output is not finite.
        """
        side = self.side(size, load)
        while True:
            try:
                run(self.plan(size, side), Ready(worker), sink, threads=None, tick=tick)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                cause = error.with_traceback(None)  # its frames hold what has to be freed
            else:
                return
            side = self.halved(side, size, cause)

    def halved(self, side: int, size: tuple[int, int], cause: BaseException) -> int:
        """Return the side of smaller tiles, after memory ran out.

        Raises:
            ValueError: if there are none smaller.
        """
        longest = self._up(min(side, max(size)))
        if longest <= self.smallest:
            raise ValueError(f"out of memory with tiles of {longest} pixels, the smallest possible: {cause}")
        self._most = max(self._up(longest // 2), self.smallest)
        release(self.device)
        logger.warning("out of memory with tiles of %d pixels, going on with %d", longest, self._most)
        return self._most

    def restored(self, x_CHW: Tensor, *, tick: Tick | None = None) -> Tensor:
        """Restore float32 (C, H, W) in 0..1, on any device; the result is on the CPU. Errors as of ``run``."""
        size, s = (x_CHW.shape[1], x_CHW.shape[2]), self.network.scale
        y_CHW = torch.empty(self.network.out_channels, size[0] * s, size[1] * s)
        load = Load(self.network.in_channels, self.network.out_channels)
        self.run(_Network(self, x_CHW), size, InMemory({"image": y_CHW.numpy()}), load=load, tick=tick)
        return y_CHW

    def side(self, size: tuple[int, int], load: Load, *, threads: int = 1, most: int = LARGEST) -> int:
        """Choose the side of tiles, up to ``most``, for an image of that size; so many are computed at once; else as ``run``."""
        if self.tile != "auto":
            return min(self._up(self.tile), max(self._most, self.smallest))
        largest = max(self._up(min(max(size), self._most, most)), self.smallest)
        used = used_bytes(self.device) + (load.held if self.device.type == "cpu" else 0)
        limit = memory_limit(self.device, self.limit)
        room = limit - used
        side = largest
        while side > self.smallest and self.bytes_of(size, side, load, threads) > room:
            side = max(self._up(side - max(side // 16, 1)) - self.network.multiple, self.smallest)
        needed = self.bytes_of(size, side, load, threads)
        if needed > room:
            raise ValueError(
                f"{size[1]} x {size[0]} pixels need {(needed + used) / 1e9:.2f} GB in tiles of {side}, the smallest possible; "
                f"allowed are {limit / 1e9:.2f} GB"
            )
        return side

    def bytes_of(self, size: tuple[int, int], side: int, load: Load, threads: int = 1) -> int:
        """Predict the bytes that restoring takes at its peak beside what there is before."""
        height, width = (min(side, self._up(axis)) for axis in size)
        base, slope = self._measured()
        factor = UNSEEN if self.frugal or self.device.type != "cpu" else FREED
        network = factor * (base + slope * height * width) * threads
        if self.device.type != "cpu":
            return int(network)
        alone = side >= max(size)
        read, made = 4 * load.read * height * width, 4 * load.made * self.network.scale**2 * height * width
        if alone:
            return int(network + read + _ALONE * made + LATER)
        # What fades into the next row is as long as the image is wide.
        fading = 4 * load.made * self.network.scale**2 * self.fade * (size[1] + height)
        return int(network + (threads + _AHEAD) * max(read, made) + _MADE * made + 2 * fading + LATER)

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

    @torch.inference_mode()
    def part(self, x_CHW: Tensor, part: Part) -> NDArray[np.float32]:
        """Return the used pixels (C, height, width) of a part, from the pixels that it looks at.

        Raises:
            ValueError: if they are not finite.
        """
        s = self.network.scale
        row, column = part.rows, part.columns
        with autocast(self.device, self.dtype):
            y_BCHW = self.network(x_CHW[None].to(self.device))
        y_CHW = y_BCHW[0, :, (row.first - row.start) * s :, (column.first - column.start) * s :]
        y_CHW = y_CHW[:, : (row.last - row.first) * s, : (column.last - column.first) * s].float()
        if not y_CHW.isfinite().all():
            raise ValueError(
                f"{type(self.network).__name__} gives values that are not finite in {str(self.dtype).removeprefix('torch.')}: "
                + ("its weights are damaged" if self.dtype == torch.float32 else "use --precision fp32")
            )
        done: NDArray[np.float32] = y_CHW.cpu().numpy()
        return done


class _Network:
    """The network as the worker on a tensor in memory."""

    def __init__(self, tiler: Tiler, x_CHW: Tensor) -> None:
        self._tiler, self._x_CHW = tiler, x_CHW

    def read(self, part: Part) -> Tensor:
        return self._x_CHW[:, part.rows.start : part.rows.stop, part.columns.start : part.columns.stop]

    def compute(self, data: Tensor, part: Part) -> NDArray[np.float32]:
        return self._tiler.part(data, part)

    def finish(self, values: NDArray[np.float32], area: Area) -> Finished:
        del area
        return Finished({"image": values})
