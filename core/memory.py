"""How much memory a forward pass takes, told from two small ones; and what running out of memory looks like."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .precision import autocast


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside and are still alive; ``peak`` is the highest count.

    What a kernel takes for itself while it runs is not seen, nor are tensors inside an op that ``torch.inference_mode`` keeps
    whole: use ``torch.no_grad``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._seen: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an op and count what it made."""
        given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in given:
                self._count(leaf.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key in self._seen:
            return
        size = storage.nbytes()

        def forget(_: object) -> None:
            self.live -= size
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, forget)
        self.live += size
        self.peak = max(self.peak, self.live)


@torch.no_grad()
def forward_bytes(network: nn.Module, shape: Sequence[int], *, device: torch.device, dtype: torch.dtype = torch.float32) -> int:
    """Return the bytes that a forward pass takes at its peak, input and output included and weights excluded.

    Args:
        network: in evaluation mode, on that device.
        shape: of its float32 input, which is random.
        device: where it runs.
        dtype: of the products, by autocast.
    """
    x = torch.rand(tuple(shape), device=device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        with autocast(device, dtype):
            network(x)
        return int(torch.cuda.max_memory_allocated(device) - before) + x.nbytes
    with autocast(device, dtype), LiveBytes() as live:
        network(x)
    return int(live.peak) + x.nbytes


@dataclass(frozen=True)
class MemoryFit:
    """Bytes of a forward pass as a line over the pixels of its input."""

    base: float
    per_pixel: float

    def __call__(self, pixels: int) -> int:
        """Bytes for that many pixels."""
        return int(self.base + self.per_pixel * pixels)
