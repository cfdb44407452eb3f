"""A network over a volume of any size: sliding windows, blended, with the arg-max taken as soon as a place is finished.

The logits of the whole volume never exist. They are summed in cells that are open only while windows touch them; how much that is
depends on a slab of the volume and is cut into pieces where memory does not suffice for it.
"""

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ...core.memory import FREED, UNSEEN, forward_bytes, is_out_of_memory, keeping_freed_memory, memory_limit, release, used_bytes
from ...core.precision import autocast
from .plan import Plan
from .windows import Box, Route, Step, importance, shortest_route

logger = logging.getLogger(__name__)

_MOST_VOXELS = {"cpu": 96**3, "cuda": 2**23}  # in a batch of windows: more gains nothing
_LATER = 256e6  # bytes of libraries that are loaded on the way (the MONAI, matplotlib, DICOM ones), and of their buffers
_COARSEST = 32  # windows shrink by multiples of the highest power of two in the plan's ROI, up to this

Ticker = Callable[[int, int], None]  # windows done, windows in all


@dataclass(frozen=True)
class Choice:
    """How a volume is gone over, and the bytes that are expected to be held at the peak.

    Args:
        route: windows and their order.
        roi: voxels of a window on each axis; two for slices.
        batch: windows at once.
        peak: bytes of the process on a CPU; of tensors on a GPU.
        limit: bytes allowed.
    """

    route: Route
    roi: tuple[int, ...]
    batch: int
    peak: int
    limit: int

    def __str__(self) -> str:
        """Tell it in a line."""
        size = " x ".join(map(str, self.roi))
        cut = f" in {self.route.pieces} pieces" if self.route.pieces > 1 else ""
        return (
            f"{len(self.route)} windows of {size}{cut}, {self.batch} at once; "
            f"{self.peak / 1e9:.2f} GB expected of {self.limit / 1e9:.2f} allowed"
        )


@dataclass(eq=False, kw_only=True)
class Slider:
    """A network set up to go over volumes.

    Args:
        network: (batch, channels, *roi) to logits (batch, ``plan.outputs``, *roi), on ``device``.
        plan: says what its outputs mean, and the ROI.
        device: where it is; the sums are there, too.
        dtype: of the products, by autocast. Sums are float32.
        overlap: share of a window that the next one covers again.
        mirror: whether each window is also seen mirrored in every combination of axes, and the logits' mean taken.
        limit: bytes that the process may take at the most, on the device; None for the default of ``memory_limit``.
        frugal: whether the C library keeps no freed memory (``keep_no_freed_memory``), so that none need be set aside for that.
    """

    network: nn.Module
    plan: Plan
    device: torch.device
    dtype: torch.dtype = torch.float32
    overlap: float = 0.5
    mirror: bool = False
    limit: float | None = None
    frugal: bool = False
    _measured: dict[tuple[int, ...], int] = field(default_factory=dict, init=False)
    _batch: int = field(default=2**30, init=False)  # lowered when memory runs out

    def labels(
        self,
        voxels_CXYZ: Tensor,
        *,
        probabilities_KXYZ: NDArray[np.floating] | None = None,
        held: int = 0,
        tick: Ticker | None = None,
    ) -> NDArray[np.unsignedinteger]:
        """Label a prepared volume.

        Args:
            voxels_CXYZ: as ``prepare`` makes them.
            probabilities_KXYZ: filled with the probability of each output, where it is given.
            held: bytes that the caller will have taken beside.
            tick: told after each batch of windows.

        Returns:
            (x, y, z), the values that the plan says, of the smallest unsigned type that has them all.

        Raises:
            ValueError: if memory does not suffice for the smallest windows, or the network's output is not finite or of another
                size or number of channels than the plan says.
        """
        values = [target.output for target in self.plan.targets]
        table = torch.tensor([0, *values])
        made = np.zeros(voxels_CXYZ.shape[1:], np.min_scalar_type(max(values, default=0)))

        def take(box: Box, sums: Tensor, weights: Tensor | None) -> None:
            made[box] = (self._painted(sums, values) if self.plan.regions else table[_largest(sums).cpu()]).numpy()
            if probabilities_KXYZ is not None and weights is not None:
                logits = sums.div_(weights)
                probabilities = logits.sigmoid_() if self.plan.regions else logits.softmax(0)
                probabilities_KXYZ[(slice(None), *box)] = probabilities.cpu().numpy()

        self._run(voxels_CXYZ, take, weighted=probabilities_KXYZ is not None, held=held + made.nbytes, tick=tick)
        return made

    def logits(self, voxels_CXYZ: Tensor, *, held: int = 0, tick: Ticker | None = None) -> Tensor:
        """Return the logits of the whole volume, (``plan.outputs``, x, y, z) float32 on the CPU; otherwise as ``labels``."""
        made = torch.empty(self.plan.outputs, *voxels_CXYZ.shape[1:])

        def take(box: Box, sums: Tensor, weights: Tensor | None) -> None:
            assert weights is not None
            made[(slice(None), *box)] = sums.div_(weights).cpu()

        self._run(voxels_CXYZ, take, weighted=True, held=held + made.nbytes, tick=tick)
        return made

    def choose(self, size: Sequence[int], *, held: int = 0, weighted: bool = False) -> Choice:
        """Choose windows, pieces and batch for a volume of that size, as few pieces and as many windows at once as memory allows.

        Raises:
            ValueError: if even the smallest do not fit, or overlap is not in 0..1.
        """
        limit = memory_limit(self.device, self.limit)
        cpu = self.device.type == "cpu"
        used = used_bytes(self.device) + (held + _LATER if cpu else 0)
        factor = UNSEEN if self.frugal or not cpu else FREED
        needed = math.inf
        for roi in self._rois():
            route = shortest_route(size, roi, self.overlap)
            one = factor * self._window_bytes(roi)
            for pieces in range(1, route.most_pieces + 1):
                cut = replace(route, pieces=pieces)
                cells = UNSEEN * 4 * (self.plan.outputs + weighted) * cut.open_voxels
                needed = used + cells + one
                if needed > limit:
                    continue
                most = min(_MOST_VOXELS.get(self.device.type, 96**3) // math.prod(roi), len(cut), self._batch)
                batch = max(min(int((limit - used - cells) // one), most), 1)
                if roi != self.plan.roi:
                    told, wanted = (" x ".join(map(str, sides)) for sides in (roi, self.plan.roi))
                    logger.warning("windows of %s, not %s as in training: memory allows no more", told, wanted)
                return Choice(cut, roi, batch, int(used + cells + batch * one), int(limit))
        raise ValueError(
            f"{' x '.join(map(str, size))} voxels need {needed / 1e9:.2f} GB in windows of {' x '.join(map(str, roi))}, the "
            f"smallest possible; allowed are {limit / 1e9:.3g} GB"
        )

    def _rois(self) -> Iterator[tuple[int, ...]]:
        """Yield the plan's ROI, then smaller ones of about its shape, in steps that networks' strides, powers of two, divide.

        A network of one size takes as much memory for any.
        """
        if self._fixed:
            yield self.plan.roi
            return
        steps = [math.gcd(side, _COARSEST) for side in self.plan.roi]
        yielded = None
        for share in range(8, 0, -1):
            sides = zip(self.plan.roi, steps, strict=True)
            roi = tuple(min(max(side * share // 8 // step, 2) * step, side) for side, step in sides)
            if roi != yielded:
                yield roi
            yielded = roi

    @property
    def _fixed(self) -> bool:
        return getattr(self.network, "fixed_size", None) is not None

    def _window_bytes(self, roi: tuple[int, ...]) -> int:
        """Bytes that one window takes at the peak: measured on a smaller one on a CPU, where a whole one takes long."""
        if roi not in self._measured:
            steps = [math.gcd(side, _COARSEST) for side in roi]
            sides = zip(roi, steps, strict=True)
            whole = self._fixed or self.device.type != "cpu"
            probe = roi if whole else tuple(min(-(-n // 2 // step) * step, n) for n, step in sides)
            shape = (1, len(self.plan.channels))
            training = self.network.training
            self.network.eval()
            try:
                found = forward_bytes(self.network, (*shape, *probe), device=self.device, dtype=self.dtype)
            except (ValueError, RuntimeError) as error:
                if probe == roi or is_out_of_memory(error):
                    raise
                probe = roi  # some networks cannot see as little as half a window
                found = forward_bytes(self.network, (*shape, *roi), device=self.device, dtype=self.dtype)
            finally:
                self.network.train(training)
            # Kernels of the last layer may make the logits in an order of memory of their own first, which is not seen (measured:
            # 104 outputs at 96^3 take 0.4 GB more than their tensors). Of mirrored windows also the sum, and what is turned back.
            beside = 4 * self.plan.outputs * math.prod(roi) * (3 if self.mirror else 1)
            self._measured[roi] = int(found * math.prod(roi) / math.prod(probe)) + beside
        return self._measured[roi]

    def _run(
        self,
        voxels_CXYZ: Tensor,
        take: Callable[[Box, Tensor, Tensor | None], None],
        *,
        weighted: bool,
        held: int,
        tick: Ticker | None,
    ) -> None:
        """Hand on finished cells: where, (outputs, x, y, z) weighted sums of logits, and the sums of weights if asked."""
        training = self.network.training
        choice = self.choose(voxels_CXYZ.shape[1:], held=held, weighted=weighted)
        logger.debug("%s", choice)
        self.network.eval()
        keeping = self.device.type == "cpu" and not self.frugal
        try:
            with keeping_freed_memory() if keeping else nullcontext():
                self._go(voxels_CXYZ, choice, take, weighted=weighted, tick=tick)
        finally:
            self.network.train(training)

    @torch.inference_mode()
    def _go(
        self,
        voxels_CXYZ: Tensor,
        choice: Choice,
        take: Callable[[Box, Tensor, Tensor | None], None],
        *,
        weighted: bool,
        tick: Ticker | None,
    ) -> None:
        route = choice.route
        weights = importance([axis.roi for axis in route.axes]).to(self.device)
        sums: dict[tuple[int, int, int], Tensor] = {}
        counts: dict[tuple[int, int, int], Tensor] = {}
        steps, total, done = route.steps(), len(route), 0
        while batch := list(itertools.islice(steps, min(choice.batch, self._batch))):
            for step, y_KXYZ in zip(batch, self._seen(voxels_CXYZ, route, batch), strict=True):
                _add(sums, y_KXYZ, weights, route, step)
                if weighted:
                    _add(counts, torch.ones_like(weights)[None], weights, route, step)
                for cell, last in step.cells:
                    if last:
                        take(route.cell(cell), sums.pop(cell), counts.pop(cell, None))
            done += len(batch)
            if tick is not None:
                tick(done, total)

    def _seen(self, voxels_CXYZ: Tensor, route: Route, steps: Sequence[Step]) -> Iterator[Tensor]:
        """Yield the logits of windows, in smaller batches if memory runs out."""
        rest = list(steps)
        while rest:
            batch = rest[: self._batch]
            try:
                y = self._forward(torch.stack([_window(voxels_CXYZ, route, step) for step in batch]).to(self.device))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                cause = error.with_traceback(None)  # its frames hold what has to be freed
            else:
                yield from y
                del rest[: len(batch)]
                continue
            if len(batch) == 1:
                raise ValueError(f"out of memory with a single window: {cause}")
            self._batch = len(batch) // 2
            release(self.device)
            logger.warning("out of memory with %d windows at once, going on with %d", len(batch), self._batch)

    def _forward(self, x: Tensor) -> Tensor:
        """Logits (batch, outputs, x, y, z) of windows (batch, channels, x, y, z)."""
        flat = len(self.plan.roi) == 2
        x = x[..., 0] if flat else x
        axes = range(2, x.ndim)
        y = self._checked(x)
        if self.mirror:
            flips = [chosen for n in range(1, len(axes) + 1) for chosen in itertools.combinations(axes, n)]
            y = y.float()
            for chosen in flips:
                y += self._checked(x.flip(chosen)).flip(chosen)
            y /= len(flips) + 1
        return y[..., None] if flat else y

    def _checked(self, x: Tensor) -> Tensor:
        with autocast(self.device, self.dtype):
            y: Any = self.network(x)
        expected = (len(x), self.plan.outputs, *x.shape[2:])
        if not isinstance(y, Tensor) or y.shape != expected:
            told = list(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"{type(self.network).__name__} gives {told}, expected {list(expected)}")
        if not all(bound.isfinite() for bound in torch.aminmax(y)):
            raise ValueError(
                f"{type(self.network).__name__} gives values that are not finite in {str(self.dtype).removeprefix('torch.')}: "
                + ("its weights are damaged" if self.dtype == torch.float32 else "compute in fp32")
            )
        return y

    def _painted(self, sums_KXYZ: Tensor, values: Sequence[int]) -> Tensor:
        """Regions whose probability is above one half, each over those before it. Weights are positive: signs suffice."""
        painted = torch.zeros(sums_KXYZ.shape[1:], dtype=torch.int64)
        for value, sums in zip(values, sums_KXYZ, strict=True):
            painted[(sums > 0).cpu()] = value
        return painted


def _window(voxels_CXYZ: Tensor, route: Route, step: Step) -> Tensor:
    part = voxels_CXYZ[(slice(None), *route.part(step.window))]
    padding = route.padding(step.window)
    return F.pad(part, padding) if any(padding) else part


def _add(sums: dict[tuple[int, int, int], Tensor], y_KXYZ: Tensor, weights_XYZ: Tensor, route: Route, step: Step) -> None:
    """Add a window's weighted logits to the cells that it touches."""
    starts = [axis.starts[i] for axis, i in zip(route.axes, step.window, strict=True)]
    part = route.part(step.window)
    for index, _ in step.cells:
        cell = route.cell(index)
        shared = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(cell, part, strict=True)]
        seen = tuple(slice(s.start - start, s.stop - start) for s, start in zip(shared, starts, strict=True))
        inside = tuple(slice(s.start - a.start, s.stop - a.start) for s, a in zip(shared, cell, strict=True))
        if index in sums:
            sums[index][(slice(None), *inside)].addcmul_(y_KXYZ[(slice(None), *seen)], weights_XYZ[seen])
        elif tuple(shared) == cell:
            sums[index] = y_KXYZ[(slice(None), *seen)] * weights_XYZ[seen]  # in the network's order of memory
        else:
            sums[index] = y_KXYZ.new_zeros((len(y_KXYZ), *(s.stop - s.start for s in cell)), dtype=torch.float32)
            sums[index][(slice(None), *inside)].addcmul_(y_KXYZ[(slice(None), *seen)], weights_XYZ[seen])


def _largest(sums_KXYZ: Tensor) -> Tensor:
    """Index of the largest, the first of equal ones."""
    if sums_KXYZ.device.type != "cpu" or sums_KXYZ.stride(0) == 1:
        return sums_KXYZ.argmax(0)
    # Output by output, which on a CPU takes less than half of what arg-max across planes does.
    best = sums_KXYZ[0].clone()
    found = torch.zeros(best.shape, dtype=torch.int64)
    for index, sums in enumerate(sums_KXYZ[1:], 1):
        found.masked_fill_(sums > best, index)
        torch.maximum(best, sums, out=best)
    return found
