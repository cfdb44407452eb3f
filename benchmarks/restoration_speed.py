"""Time window-attention networks for restoration against spandrel's and OpenVINO, on this machine.

python benchmarks/restoration_speed.py --threads 2          # some eight minutes, with nothing else running

All have the same random weights, in spandrel's network, whose ops OpenVINO runs as well, and in ours. They take turns in one
process, and medians are told; peak memory is that of processes of their own. Compared are spandrel's network; the same with shift
masks computed once ("masks"); with PyTorch's fused attention in windows, too ("fused"), but not in HAT's overlapping ones;
OpenVINO running spandrel's network; and ours. What is left between "fused" and ours is layout (no copies between images and
windows, channels last throughout), the products, and convolutions with fewer multiplications.

A bar that is missed makes the exit status 1.
"""

import argparse
import functools
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import page
import roofline
import torch
from spandrel import architectures
from torch import Tensor, nn
from torch.nn import functional as F

from geovit.apps.bench import machine
from geovit.apps.restoration.weights import restorer_from

SWINIR = {"img_size": 64, "window_size": 8, "mlp_ratio": 2, "depths": [6] * 6, "embed_dim": 180, "num_heads": [6] * 6}
LIGHT = SWINIR | {"depths": [6] * 4, "embed_dim": 60, "num_heads": [6] * 4, "upscale": 2, "upsampler": "pixelshuffledirect"}
NETWORKS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "HAT x4": (
        architectures.HAT.HAT,
        {"upscale": 4, "window_size": 16, "depths": [6] * 6, "embed_dim": 180, "num_heads": [6] * 6, "mlp_ratio": 2},
    ),
    "DRCT x4": (architectures.DRCT.DRCT, {"upscale": 4, "upsampler": "pixelshuffle"}),
    "SwinIR x4": (architectures.SwinIR.SwinIR, SWINIR | {"upscale": 4, "upsampler": "pixelshuffle"}),
    "SwinIR-light x2": (architectures.SwinIR.SwinIR, LIGHT),
}
COMPARED = ("spandrel", "masks", "fused", "OpenVINO", "geovit")
PARTS = ("inference", "bfloat16", "training", "memory")
SIZES = ((64, 64), (128, 96))
BAR, BAR_TRAINING, BAR_MEMORY = 2.5, 1.5, 0.5


def official(name: str) -> nn.Module:
    """Return spandrel's network with random weights that keep features at one scale."""
    torch.manual_seed(0)
    kind, arguments = NETWORKS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its meshgrid
        network = kind(**arguments)
    for parameter in network.parameters():
        if parameter.ndim > 1 and parameter.shape[-1] > 8:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return network.eval()


def ours(theirs: nn.Module) -> nn.Module:
    """Return our network with the weights of spandrel's."""
    return restorer_from(theirs.state_dict()).network


def with_cached_masks(network: nn.Module) -> nn.Module:
    """Let spandrel's blocks compute their shift mask once for each size."""
    for module in network.modules():
        if hasattr(module, "calculate_mask"):
            module.calculate_mask = functools.cache(module.calculate_mask)
    return network


def with_fused_attention(network: nn.Module) -> nn.Module:
    """Let spandrel's windows attend by PyTorch's fused call, with bias and mask added up once."""

    def forward(self: nn.Module, x: Tensor, rpi: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if mask is None and rpi is not None and rpi.is_floating_point():
            rpi, mask = None, rpi  # SwinIR and DRCT pass a mask alone
        tiles, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(tiles, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        if self.cache is None or self.cache[0] is not mask:
            index = self.relative_position_index if rpi is None else rpi
            bias = self.relative_position_bias_table[index.view(-1)].view(tokens, tokens, -1).permute(2, 0, 1)[None]
            bias = bias if mask is None else (bias + mask[:, None]).repeat(tiles // len(mask), 1, 1, 1)
            self.cache = mask, bias.contiguous()
        out = F.scaled_dot_product_attention(q, k, v, self.cache[1])
        return self.proj(out.transpose(1, 2).reshape(tiles, tokens, dim))

    for module in network.modules():
        if type(module).__name__ == "WindowAttention":
            module.cache = None
            module.forward = types.MethodType(forward, module)
    return network


def openvino(network: nn.Module, size: tuple[int, int], threads: int) -> Callable[[Tensor], Tensor]:
    """Compile a network for images of one size by OpenVINO in float32."""
    import openvino as ov

    x = torch.rand(1, 3, *size)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = ov.convert_model(network, example_input=x, input=[1, 3, *size])
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = ov.Core().compile_model(model, "CPU", settings)
    return lambda image: torch.from_numpy(compiled(image.numpy())[0])


def error(got: Tensor, want: Tensor) -> float:
    """Return the largest difference relative to the range of what is wanted."""
    return float((got - want).abs().max() / (want.max() - want.min()))


def inference(name: str, size: tuple[int, int], runs: int, threads: int) -> tuple[list[str], bool]:
    """Return a row of the table, and whether the bars are met."""
    theirs = official(name)
    networks: dict[str, Callable[[Tensor], Tensor]] = {
        "spandrel": theirs,
        "masks": with_cached_masks(official(name)),
        "fused": with_fused_attention(with_cached_masks(official(name))),
        "OpenVINO": openvino(official(name), size, threads),
        "geovit": ours(theirs),
    }
    x = torch.rand(1, 3, *size)
    with torch.inference_mode():
        want = theirs(x)
        errors = {key: error(network(x), want) for key, network in networks.items()}
        taken = page.medians({key: functools.partial(network, x) for key, network in networks.items()}, runs)
    ratio, against = (taken[key] / taken["geovit"] for key in ("spandrel", "OpenVINO"))
    cells = [f"{name}, {size[0]} x {size[1]}", *(f"{1e3 * seconds:.0f}" for seconds in taken.values())]
    cells += [f"{ratio:.2f}", f"{against:.2f}", *(f"{errors[key]:.0e}" for key in ("OpenVINO", "geovit"))]
    return cells, ratio >= BAR and against >= 1


def bfloat16(name: str, size: tuple[int, int], runs: int) -> list[str]:
    """Return a row: our network under autocast against float32."""
    own = ours(official(name))
    x = torch.rand(1, 3, *size)

    def low() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return own(x)

    with torch.inference_mode():
        difference = error(low(), own(x))
        taken = page.medians({"float32": lambda: own(x), "bfloat16": low}, runs)
    return [
        f"{name}, {size[0]} x {size[1]}",
        *(f"{1e3 * seconds:.0f}" for seconds in taken.values()),
        f"{taken['float32'] / taken['bfloat16']:.2f}",
        f"{difference:.0e}",
    ]


def training(runs: int, batch: int = 4, side: int = 64) -> tuple[list[str], bool]:
    """Return a row: a step of SwinIR-light (forward, backward, AdamW) on images of this size, without skipped blocks."""
    theirs = official("SwinIR-light x2")
    networks = {"spandrel": theirs, "geovit": ours(theirs)}
    x, y = torch.rand(batch, 3, side, side), torch.rand(batch, 3, 2 * side, 2 * side)
    gradients: dict[str, Tensor] = {}

    def step(key: str, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        F.l1_loss(networks[key](x), y).backward()
        if key not in gradients:
            first = networks[key].conv_first if key == "spandrel" else networks[key].first
            gradients[key] = first.weight.grad.clone()
        optimizer.step()

    optimizers = {key: torch.optim.AdamW(network.parameters(), lr=1e-4) for key, network in networks.items()}
    taken = page.medians({key: functools.partial(step, key, optimizers[key]) for key in networks}, runs)
    worst = float((gradients["geovit"] - gradients["spandrel"]).abs().max() / gradients["spandrel"].abs().max())
    ratio = taken["spandrel"] / taken["geovit"]
    cells = [f"SwinIR-light x2, batch {batch}, {side} x {side}", *(f"{1e3 * seconds:.0f}" for seconds in taken.values())]
    return [*cells, f"{ratio:.2f}", f"{worst:.0e}"], ratio >= BAR_TRAINING


def peak(key: str, side: int = 256) -> float:
    """Return the bytes that an image needs at most in HAT beyond what the process held before; once in a process."""
    kind, arguments = NETWORKS["HAT x4"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Memory is freed between blocks: one group with a shifted block needs as much as six.
        theirs = kind(**arguments | {"depths": [2], "num_heads": [6]}).eval()
    network = ours(theirs) if key == "geovit" else theirs
    with torch.inference_mode():
        network(torch.rand(1, 3, 16, 16))  # what is loaded with the first call
        before = _peak_resident()
        network(torch.rand(1, 3, side, side))
    return _peak_resident() - before


def _peak_resident() -> float:
    """Return the most bytes that this process has held, as Linux tells (``getrusage`` counts what its parent held, too)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def memory(threads: int) -> tuple[list[str], bool]:
    """Return a row: peak memory of HAT at 256 x 256, and whether the bar is met."""
    found = []
    for key in ("spandrel", "geovit"):
        command = [sys.executable, __file__, "--threads", str(threads), "--peak", key]
        found.append(float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))
    ratio = found[1] / found[0]
    return ["HAT x4, 256 x 256", *(f"{bytes_ / 2**20:.0f}" for bytes_ in found), f"{ratio:.2f}"], ratio <= BAR_MEMORY


def main() -> int:
    """Print the tables; return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=3, help="of each network, after one to warm up")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--peak", choices=("spandrel", "geovit"), help="print the bytes that HAT needs, and nothing else")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        print(peak(args.peak))
        return 0
    print(f"{machine(torch.device('cpu'))}, {args.threads} threads. {roofline.told(roofline.rates())}")
    print(
        f"Medians of {args.runs} runs in turn, in ms; errors are the largest differences from spandrel's output, over its range."
    )
    met = []
    if "inference" in args.only:
        page.heading(["float32", *COMPARED, "times spandrel's", "times OpenVINO's", "error of OpenVINO", "error of geovit"])
        for name in args.networks:
            for size in SIZES:
                cells, good = inference(name, size, args.runs, args.threads)
                page.show(cells)
                met.append(good)
    if "bfloat16" in args.only:
        page.heading(["geovit", "float32", "bfloat16", "times faster", "error"])
        for name in args.networks:
            page.show(bfloat16(name, SIZES[0], args.runs))
    for part, measure, columns in (
        ("training", lambda: training(args.runs), ["training step", "spandrel", "geovit", "times faster", "error of a gradient"]),
        ("memory", lambda: memory(args.threads), ["peak memory", "spandrel, MiB", "geovit, MiB", "ratio"]),
    ):
        if part in args.only:
            page.heading(columns)
            cells, good = measure()
            page.show(cells)
            met.append(good)
    print(f"\nBars: {BAR} times spandrel's, not slower than OpenVINO, {BAR_TRAINING} in training, {BAR_MEMORY} of the memory.")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
