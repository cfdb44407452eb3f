"""Time Swin UNETR against MONAI's and OpenVINO's, on this machine.

python benchmarks/medical_speed.py --threads 2                # some ten minutes, with nothing else running
python benchmarks/medical_speed.py --device cuda              # against MONAI's fused attention, on a GPU

All have the same random weights, feature size 48, one channel in and 14 out, on 96 x 96 x 96 voxels unless told otherwise. They
take turns in one process, and medians are told; peak memory is that of processes of their own. Compared are MONAI's network, the
same with use_flash_attention, OpenVINO running it, and ours; in float32 and in bfloat16 (by autocast, in OpenVINO by its hint).
"Memory kept": for all of them freed tensors serve the next ones, as in `geovit segment` (core.memory.keeping_freed_memory).
Errors are the largest differences from MONAI's float32 logits, over their range.

A bar that is missed makes the exit status 1.
"""

import argparse
import collections
import functools
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import page
import roofline
import torch
from monai.networks.nets import SwinUNETR as MonaiSwinUNETR
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from geovit.apps.bench import machine
from geovit.apps.medical import SwinUNETR
from geovit.core.memory import keeping_freed_memory
from geovit.core.precision import autocast

PARTS = ("float32", "bfloat16", "training", "memory", "parts")
COMPARED = ("MONAI", "MONAI flash", "OpenVINO", "geovit")
BAR, BAR_FLASH, BAR_BFLOAT16, BAR_TRAINING, BAR_MEMORY = 2.5, 2.0, 3.0, 1.5, 0.6
CHANNELS = (1, 14)


def monai(feature: int = 48, *, flash: bool = False) -> nn.Module:
    """Return MONAI's network with random weights, the same each time."""
    torch.manual_seed(0)
    return MonaiSwinUNETR(*CHANNELS, feature_size=feature, use_flash_attention=flash).eval()


def ours(feature: int = 48) -> nn.Module:
    """Return our network with the same weights."""
    network = SwinUNETR(*CHANNELS, feature_size=feature).eval()
    network.load_state_dict(monai(feature).state_dict())
    return network


def openvino(network: nn.Module, side: int, threads: int, precision: str) -> Callable[[Tensor], Tensor]:
    """Compile a network for cubes of one size by OpenVINO; precision is "f32" or "bf16"."""
    import openvino as ov

    x = torch.rand(1, 1, *(side,) * 3)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = ov.convert_model(network, example_input=x, input=[1, 1, *(side,) * 3])
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    compiled = ov.Core().compile_model(model, "CPU", settings)
    return lambda image: torch.from_numpy(compiled(image.numpy())[0])


def medians(calls: Mapping[str, Callable[[], object]], runs: int, device: torch.device) -> dict[str, float]:
    """Run the calls in turn; return the median seconds of each."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(runs + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if run:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def error(got: Tensor, want: Tensor) -> float:
    """Return the largest difference relative to the range of what is wanted."""
    return float((got.float() - want).abs().max() / (want.max() - want.min()))


def inference(side: int, dtype: torch.dtype, args: argparse.Namespace) -> Iterator[tuple[list[str], bool]]:
    """Yield rows of the table, and whether they meet the bars: networks as they come, and on a CPU with freed memory kept."""
    device = torch.device(args.device)
    networks: dict[str, Callable[[Tensor], Tensor]] = {
        "MONAI": monai().to(device),
        "MONAI flash": monai(flash=True).to(device),
        "geovit": ours().to(device),
    }
    if device.type == "cpu" and not args.without_openvino:
        networks["OpenVINO"] = openvino(monai(), side, args.threads, "f32" if dtype == torch.float32 else "bf16")
    x = torch.rand(1, 1, *(side,) * 3, device=device)

    def run(key: str) -> Tensor:
        context: AbstractContextManager[Any] = autocast(device, torch.float32 if key == "OpenVINO" else dtype)
        with context:
            return networks[key](x)

    with torch.inference_mode():
        want = networks["MONAI"](x)
        errors = {key: error(run(key), want) for key in networks}
        calls = {key: functools.partial(run, key) for key in networks}
        taken = {f"{side}^3": medians(calls, args.runs, device)}
        if device.type == "cpu":
            with keeping_freed_memory():
                taken[f"{side}^3, memory kept"] = medians(calls, args.runs, device)
    for name, seconds in taken.items():
        gains = {key: seconds[key] / seconds["geovit"] for key in networks}
        cells = [name, *(f"{1e3 * seconds[key]:.0f}" if key in seconds else "" for key in COMPARED)]
        cells += [f"{gains[key]:.2f}" if key in gains else "" for key in COMPARED[:-1]]
        cells += [f"{errors[key]:.0e}" if key in errors else "" for key in COMPARED[1:]]
        good = gains.get("OpenVINO", 1.0) >= 1
        if device.type == "cuda":
            good = gains["MONAI flash"] >= 1
        elif dtype == torch.float32:
            good = good and gains["MONAI"] >= BAR and gains["MONAI flash"] >= BAR_FLASH
        else:
            good = good and gains["MONAI flash"] >= BAR_BFLOAT16
        yield cells, good


def training(feature: int, side: int, dtype: torch.dtype, args: argparse.Namespace) -> tuple[list[str], bool]:
    """Return a row: a step (forward, backward, AdamW)."""
    device = torch.device(args.device)
    networks = {"MONAI": monai(feature).to(device), "geovit": ours(feature).to(device)}
    x, y = torch.rand(1, 1, *(side,) * 3, device=device), torch.randint(CHANNELS[1], (1, *(side,) * 3), device=device)
    gradients: dict[str, Tensor] = {}

    def step(key: str, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        with autocast(device, dtype):
            logits = networks[key](x)
        F.cross_entropy(logits.float(), y).backward()
        if key not in gradients:
            gradients[key] = networks[key].decoder1.transp_conv.conv.weight.grad.clone()
        optimizer.step()

    optimizers = {key: torch.optim.AdamW(network.parameters(), lr=1e-4) for key, network in networks.items()}
    taken = medians({key: functools.partial(step, key, optimizers[key]) for key in networks}, args.runs, device)
    worst = float((gradients["geovit"] - gradients["MONAI"]).abs().max() / gradients["MONAI"].abs().max())
    ratio = taken["MONAI"] / taken["geovit"]
    name = f"feature size {feature}, {side}^3, {str(dtype).removeprefix('torch.')}"
    return [name, *(f"{1e3 * seconds:.0f}" for seconds in taken.values()), f"{ratio:.2f}", f"{worst:.0e}"], ratio >= BAR_TRAINING


def peak(key: str, side: int, dtype: torch.dtype) -> float:
    """Return the bytes that a forward pass needs beyond what the process held before; once in a process."""
    network = ours() if key == "geovit" else monai(flash=key == "MONAI flash")
    with torch.inference_mode(), autocast(torch.device("cpu"), dtype):
        network(torch.rand(1, 1, 64, 32, 32))  # what is loaded with the first call
        before = _peak_resident()
        network(torch.rand(1, 1, *(side,) * 3))
    return _peak_resident() - before


def _peak_resident() -> float:
    """Return the most bytes that this process has held, as Linux tells (``getrusage`` counts what its parent held, too)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def memory(side: int, dtype: torch.dtype, threads: int) -> tuple[list[str], bool]:
    """Return a row: peak memory of a forward pass, and whether the bar is met."""
    name = str(dtype).removeprefix("torch.")
    found = {}
    for key in ("MONAI", "MONAI flash", "geovit"):
        command = [sys.executable, __file__, "--threads", str(threads), "--peak", key, "--side", str(side), "--dtype", name]
        found[key] = float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    ratios = [found["geovit"] / found[key] for key in ("MONAI", "MONAI flash")]
    cells = [f"{side}^3, {name}", *(f"{bytes_ / 2**20:.0f}" for bytes_ in found.values()), *(f"{ratio:.2f}" for ratio in ratios)]
    return cells, ratios[0] <= BAR_MEMORY


class Parts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the seconds of each op that is called inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seconds: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Time an op."""
        start = time.perf_counter()
        made = func(*args, **(kwargs or {}))
        self.seconds[str(func).removesuffix(".default")] += time.perf_counter() - start
        return made


def parts(side: int, dtype: torch.dtype) -> list[str]:
    """Return a row: where the time of our network goes."""
    network, x = ours(), torch.rand(1, 1, *(side,) * 3)
    with torch.no_grad(), autocast(torch.device("cpu"), dtype):
        network(x)
        with Parts() as found:
            network(x)
    told = ", ".join(f"{name} {1e3 * seconds:.0f}" for name, seconds in found.seconds.most_common(10))
    return [str(dtype).removeprefix("torch."), f"{1e3 * found.seconds.total():.0f}", told]


def main() -> int:
    """Print the tables; return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=3, help="of each network, after one to warm up")
    parser.add_argument("--side", type=int, help="voxels; default 96, and 128 as well on a GPU")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--without_openvino", action="store_true")
    parser.add_argument("--dtype", default="float32", help="of --peak")
    parser.add_argument("--peak", choices=COMPARED, help="print the bytes that a network needs, and nothing else")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        print(peak(args.peak, args.side or 96, getattr(torch, args.dtype)))
        return 0
    gpu = args.device != "cpu"
    sides = [args.side] if args.side else [96, 128] if gpu else [96]
    limit = "" if gpu else f", {args.threads} threads. {roofline.told(roofline.rates())}"
    print(f"{machine(torch.device(args.device))}{limit}")
    told = "errors are the largest differences from MONAI's float32 logits, over their range"
    print(f"Medians of {args.runs} runs in turn, in ms; {told}.")
    met = []
    precisions = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    for name, dtype in precisions.items():
        if name in args.only:
            page.heading(
                [name, *COMPARED, *(f"times {key}" for key in COMPARED[:-1]), *(f"error of {key}" for key in COMPARED[1:])]
            )
            for side in sides:
                for cells, good in inference(side, dtype, args):
                    page.show(cells)
                    met.append(good)
    if "training" in args.only:
        page.heading(["training step", "MONAI", "geovit", "times faster", "error of a gradient"])
        steps = [(24, 64), *((48, side) for side in sides)] if gpu else [(24, 64)]
        for feature, side in steps:
            for dtype in precisions.values():
                cells, good = training(feature, side, dtype, args)
                page.show(cells)
                met.append(good or (dtype == torch.bfloat16 and not gpu))  # the bar is for float32
    if "memory" in args.only and not gpu:
        page.heading(["peak memory, MiB", "MONAI", "MONAI flash", "geovit", "of MONAI's", "of flash's"])
        for dtype in precisions.values():
            cells, good = memory(sides[0], dtype, args.threads)
            page.show(cells)
            met.append(good)
    if "parts" in args.only and not gpu:
        page.heading(["geovit", "ms", "of which"])
        for dtype in precisions.values():
            page.show(parts(sides[0], dtype))
    print(
        f"\nBars: {BAR} times MONAI's, {BAR_FLASH} times its flash attention's, {BAR_BFLOAT16} times the latter in bfloat16, not"
    )
    print(f"slower than OpenVINO, {BAR_TRAINING} in training, {BAR_MEMORY} of the memory.")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
