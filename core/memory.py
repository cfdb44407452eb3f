"""How much memory a forward pass takes, how much there is, and what running out of it looks like."""

import ctypes
import math
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .native import keep_results
from .precision import autocast

_DEFAULT_LIMIT = 4e9  # bytes of memory of the process, unless half of what is free is less
# What a process takes beside the tensors that are alive, for forecasts.
FREED = 2.0  # times these: the C library keeps up to as much again of what was freed, in blocks below 32 MB
UNSEEN = 1.1  # times these, where it keeps nothing: what kernels take for themselves
LATER = 128e6  # bytes of libraries that are loaded on the way, and of their buffers

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h: what it keeps at its end, and how many blocks may be the system's own
_TRIM_DEFAULT, _MMAP_DEFAULT = 128 * 1024, 65536  # of glibc
_M_MMAP_THRESHOLD = -3  # of malloc.h: blocks from this size on are the system's own, and go back to it when freed


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that are made inside and are still alive; ``peak`` is the highest count.

    What a kernel takes for itself while it runs is not seen, nor are tensors inside an op that ``torch.inference_mode`` keeps
    whole: use ``torch.no_grad``.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
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


def used_bytes(device: torch.device) -> int:
    """Bytes that this process holds now: all of it for the CPU, what torch has allocated for a GPU."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    statm = Path("/proc/self/statm")
    if not statm.is_file():  # not Linux: nothing tells cheaply
        return 0
    return int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def free_bytes(device: torch.device) -> int:
    """Bytes that this process could still get, limits of containers taken into account; a guess of 4 GB where nothing tells."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + int(torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    found = [_available(), _left_in_group("memory.max", "memory.current")]
    return min((value for value in found if value is not None), default=4 * 10**9)


def _available() -> int | None:
    info = Path("/proc/meminfo")
    if not info.is_file():
        return None
    lines = (line.split() for line in info.read_text(encoding="ascii").splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:"), None)


def _left_in_group(limit: str, current: str) -> int | None:
    files = [Path("/sys/fs/cgroup") / name for name in (limit, current)]
    try:
        most, now = (file.read_text(encoding="ascii").strip() for file in files)
    except OSError:
        return None
    return int(most) - int(now) if most.isdecimal() else None


def peak_bytes(device: torch.device) -> int:
    """Most bytes that this process ever held: all of it for the CPU, what torch allocated for a GPU; 0 where nothing tells."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if not status.is_file():  # not Linux
        return 0
    lines = (line.split() for line in status.read_text(encoding="ascii").splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == "VmHWM:"), 0)


def memory_limit(device: torch.device, given: float | None = None) -> float:
    """Bytes that the process may take at the most on a device: those given, else a default that leaves room for others.

    The default is half of what is free on a GPU. On a CPU it is 4 GB, or half of what is free if that is less, or what the
    process holds and a quarter of what is free if that is more.
    """
    if given is not None:
        return given
    used, free = used_bytes(device), free_bytes(device)
    if device.type != "cpu":
        return used + 0.5 * free
    # A caller may hold more than the default already.
    return max(min(_DEFAULT_LIMIT, used + 0.5 * free), used + 0.25 * free)


def bytes_allowed(max_memory: float | None) -> float | None:
    """Bytes of gigabytes (10^9 bytes) that a user allows; None for None.

    Raises:
        ValueError: not above 0, or not finite.
    """
    if max_memory is None:
        return None
    if not 0 < max_memory < math.inf:
        raise ValueError(f"max_memory is {max_memory}, expected gigabytes, more than 0")
    return max_memory * 1e9


def keep_no_freed_memory() -> bool:
    """Make every freed tensor go back to the system at once, so that the process takes what its tensors take and no more.

    For programs, not libraries: it holds for the whole process and to its end, and costs time, because the system clears memory
    each time that it is handed out. Returns whether the C library can do that (glibc can); the compiled kernels, which keep up to
    1 GiB of large results for the next ones, can.
    """
    keep_results(0)
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20))
    except (AttributeError, OSError, TypeError):  # another C library
        return False


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Have the C library keep freed tensors for the next ones, to the end of the block; nothing where it cannot (glibc can).

    For passes of one network over inputs of one size. Large tensors are the system's own otherwise, which clears their memory
    each time that it is handed out. The process holds what a pass takes at its peak all the while, and for Swin UNETR up to half
    as much again. It holds for all threads, but only large tensors of the main thread gain, and of those the ones that PyTorch's
    own ops make: the compiled kernels keep theirs anyway. Afterwards all of it is given back, but gaps are left in the heap: a
    large tensor that comes to lie in one stays with the process when it is freed, until ``give_freed_memory_back``.
    """

    def let(most: int, kept: int) -> None:
        with suppress(AttributeError, OSError, TypeError):  # another C library
            library = ctypes.CDLL(None)
            library.mallopt(_M_MMAP_MAX, most)
            library.mallopt(_M_TRIM_THRESHOLD, kept)

    let(0, 2**31 - 1)
    try:
        yield
    finally:
        let(_MMAP_DEFAULT, _TRIM_DEFAULT)
        give_freed_memory_back()


def give_freed_memory_back() -> None:
    """Make the compiled kernels and the C library hand what they keep of freed memory to the system, now and once."""
    keep_results(keep_results(0))
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on a GPU or on the CPU."""
    words = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )


def release(device: torch.device) -> None:
    """Give back what torch keeps for later on a GPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
