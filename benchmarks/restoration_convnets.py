"""Time the convolutional restoration networks against their official code and OpenVINO, on this machine.

python benchmarks/restoration_convnets.py --threads 1 --cfsr cfsr_arch.py --restormer restormer_arch.py

NAFNet is compared with spandrel's, CFSR and Restormer with the official source files if they are given: these are no part of the
project. All have the same random weights and run in turn in one process; medians are told, with the error beside them.
"""

import argparse
import functools
import importlib.util
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from spandrel.architectures.NAFNet import NAFNet
from torch import Tensor, nn

from geovit.apps.bench import machine
from geovit.apps.restoration.weights import restorer_from

HEAD = (
    "| network | input | geovit ms | official ms | times faster | OpenVINO ms | times faster | error | of OpenVINO |",
    "|---|---|---|---|---|---|---|---|---|",
)


def official(path: Path) -> types.ModuleType:
    """Load an official source file; of BasicSR it may want the registry, which registers nothing here."""
    registry = types.ModuleType("basicsr.utils.registry")
    registry.ARCH_REGISTRY = types.SimpleNamespace(register=lambda: lambda cls: cls)
    stubs = {"basicsr": types.ModuleType("basicsr"), "basicsr.utils": types.ModuleType("basicsr.utils")}
    missing = {name: stub for name, stub in (stubs | {"basicsr.utils.registry": registry}).items() if name not in sys.modules}
    sys.modules.update(missing)
    try:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        for name in missing:
            del sys.modules[name]
    return module


def shaken(network: nn.Module) -> nn.Module:
    """Move what starts at zero or one off it, so that every part of the network matters."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim < 4 or name.endswith(("beta", "gamma")):
                parameter += 0.1 * torch.randn_like(parameter)
    return network.eval()


def networks(cfsr: Path | None, restormer: Path | None) -> Iterator[tuple[str, nn.Module, tuple[int, ...]]]:
    """Give each official network with the sides of the square images that it is timed on."""
    if cfsr is not None:
        for scale in (2, 4):
            options = {"embed_dim": 48, "depths": (6, 6), "dw_size": 9, "mlp_ratio": 2, "upsampler": "pixelshuffledirect"}
            yield f"CFSR x{scale}", official(cfsr).CFSR(upscale=scale, **options), (64, 256)
    blocks = {"middle_blk_num": 1, "enc_blk_nums": [1, 1, 1, 28], "dec_blk_nums": [1, 1, 1, 1]}
    yield "NAFNet, width 32, GoPro", NAFNet(img_channel=3, width=32, **blocks), (256,)
    if restormer is not None:
        yield "Restormer", official(restormer).Restormer(LayerNorm_type="WithBias"), (128,)


def through_openvino(network: nn.Module, x: Tensor, threads: int) -> Callable[[], Tensor] | None:
    """Compile the official network by OpenVINO for this input, in float32; None without that package."""
    if importlib.util.find_spec("openvino") is None:
        return None
    import openvino

    with warnings.catch_warnings():  # of tracing
        warnings.simplefilter("ignore")
        model = openvino.convert_model(network, example_input=x, input=[x.shape])
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(model, "CPU", options)
    return lambda: torch.from_numpy(compiled([x])[0])


def rows(
    *, threads: int, runs: int, cfsr: Path | None = None, restormer: Path | None = None, side: int | None = None
) -> Iterator[str]:
    """Time every network; give a row of the table for each, with ``side`` on images of that side alone."""
    for name, theirs, sides in networks(cfsr, restormer):
        ours = restorer_from(shaken(theirs).state_dict()).network
        for n in sides if side is None else (side,):
            x = torch.rand(1, 3, n, n)
            calls = [functools.partial(ours, x), functools.partial(theirs, x)]
            if (third := through_openvino(theirs, x, threads)) is not None:
                calls.append(third)
            with torch.inference_mode():
                yield row(name, n, calls, runs)


def row(name: str, side: int, calls: list[Callable[[], Tensor]], runs: int) -> str:
    """Run ours, theirs and perhaps OpenVINO's in turn."""
    got, want, *others = (call() for call in calls)
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(runs):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    own, *rest = (1e3 * statistics.median(taken) for taken in times)
    errors = [f"{float((y - want).abs().max() / want.abs().max()):.0e}" for y in (got, *others)]
    compared = [cell for taken in rest for cell in (f"{taken:.0f}", f"{taken / own:.2f}")]
    cells = [name, f"{side} x {side}", f"{own:.0f}", *[*compared, "", ""][:4], *[*errors, ""][:2]]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--side", type=int, help="of the images, instead of each network's own")
    parser.add_argument("--cfsr", type=Path, help="cfsr_arch.py of Aitical/CFSR")
    parser.add_argument("--restormer", type=Path, help="restormer_arch.py of swz30/Restormer")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{machine(torch.device('cpu'))}. float32, {args.runs} runs in turn, medians; errors are the largest differences")
    print("from the official network, relative to its largest value.\n")
    print("\n".join(HEAD))
    for line in rows(threads=args.threads, runs=args.runs, cfsr=args.cfsr, restormer=args.restormer, side=args.side):
        print(line, flush=True)


if __name__ == "__main__":
    main()
