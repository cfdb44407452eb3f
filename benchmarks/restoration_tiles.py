"""Measure what tiles, dtypes and limits of memory do to restored images: Markdown tables.

python benchmarks/restoration_tiles.py --weights CFSR_x2.pth HAT_SRx2.pth --image butterfly.png --only tiles precision memory

Deviations are those of images in 0..1, of tiles from the whole image and of bfloat16 (autocast) from float32; decibels are of the
peak 1. The seam figure is the largest deviation within 8 output pixels of a place where two tiles meet, next to the largest
elsewhere; tiles without overlap are cut hard. Memory is the growth of the process, in a process of its own: the prediction is
made from inputs of 48 and 96 pixels, and the C library keeps no freed memory. At the end 4000 x 3000 pixels are restored by the
command line with a limit of memory, which is compared with the peak of the process.

Without --weights: the packaged model, the published CFSR if GEOVIT_TEST_DATA names the test data, and SwinIR, HAT, DRCT and
NAFNet with random weights, whose deviations tell how far a network looks, not what is lost of an image.
"""

import argparse
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from geovit.apps.bench import machine
from geovit.apps.restoration.models import open_restorer
from geovit.apps.restoration.network import Network
from geovit.apps.restoration.tiling import Load, Tiler
from geovit.core.memory import keep_no_freed_memory
from geovit.core.tiles import cut
from geovit.datasets.images import open_image, to_unit

CPU = torch.device("cpu")
PARTS = ("tiles", "precision", "memory", "large")
_NEAR = 8  # output pixels from where tiles meet


def defaults(folder: Path) -> list[str | None]:
    """Write the checkpoints that are measured when none are given."""
    import restoration_convnets
    import restoration_speed

    networks = {name: restoration_speed.official(name) for name in restoration_speed.NETWORKS}
    networks |= {name: network for name, network, _ in restoration_convnets.networks(None, None) if name.startswith("NAFNet")}
    files: list[str | None] = [None]
    published = Path(os.environ.get("GEOVIT_TEST_DATA", "../shared/data")) / "checkpoints" / "cfsr" / "CFSR_x2.pth"
    if published.is_file():
        files.append(str(published))
    for name, network in networks.items():
        path = folder / f"{name.split()[0].strip(',')}_random.pth"
        torch.save({"params": network.state_dict()}, path)
        files.append(str(path))
    return files


def whole(network: Network, x_CHW: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Restore an image in one piece."""
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        return network(x_CHW[None])[0].float()


def tiled(network: Network, x_CHW: Tensor, tile: int, overlap: int | None) -> tuple[Tensor, Tensor]:
    """Restore an image in tiles; also returns where (rows, columns) tiles meet."""
    tiler = Tiler(network, CPU, tile=tile, overlap=overlap)
    size = x_CHW.shape[1], x_CHW.shape[2]
    result = tiler.restored(x_CHW)
    side = tiler.side(size, Load(network.in_channels, network.out_channels))
    near = []
    for axis in size:
        flags = torch.zeros(axis * network.scale, dtype=torch.bool)
        for one in cut(axis, side, overlap=tiler.shared, fade=tiler.fade, multiple=network.multiple)[1:]:
            middle = (one.first + one.fade_in // 2) * network.scale
            flags[max(middle - _NEAR, 0) : middle + _NEAR] = True
        near.append(flags)
    return result, near[0][:, None] | near[1][None]


def decibels(a: Tensor, b: Tensor) -> str:
    """PSNR between two images in 0..1."""
    error = float((a.clamp(0, 1) - b.clamp(0, 1)).square().mean())
    return "equal" if error == 0 else f"{-10 * math.log10(error):.1f}"


def tiles_row(name: str, network: Network, x_CHW: Tensor, tile: int) -> str:
    """Deviation of tiles from the whole image, with the network's own overlap, half of it, and none."""
    reference = whole(network, x_CHW)
    cells = [name, f"{network.halo}{' exact' if network.exact_halo else ''}"]
    for overlap in (None, network.halo, 0):
        smallest = Tiler(network, CPU, overlap=overlap).smallest
        result, near = tiled(network, x_CHW, max(tile, smallest), overlap)
        deviation = (result - reference).abs().amax(0)
        inside = float(deviation[~near].max()) if bool((~near).any()) else 0.0
        cells += [decibels(result, reference), f"{float(deviation[near].max()) if bool(near.any()) else 0:.1e} / {inside:.1e}"]
    return f"| {' | '.join(cells)} |"


def precision_row(name: str, network: Network, x_CHW: Tensor, truth_CHW: Tensor | None) -> str:
    """Error of bfloat16 against float32, and what it costs against the truth."""
    exact, coarse = whole(network, x_CHW), whole(network, x_CHW, torch.bfloat16)
    delta = "" if truth_CHW is None else f"{float(decibels(coarse, truth_CHW)) - float(decibels(exact, truth_CHW)):+.2f}"
    refused = ", ".join(str(dtype).removeprefix("torch.") for dtype in network.unsafe) or "none"
    return f"| {name} | {float((coarse - exact).abs().max()):.1e} | {decibels(coarse, exact)} | {delta} | {refused} |"


def peak_of_process() -> int:
    """Largest bytes that this process ever held since the last reset (Linux)."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) * 1024


def memory_cells(weights: str, side: int, dtype: torch.dtype) -> str:
    """Predicted and measured growth of this process in one forward pass, in MB."""
    assert keep_no_freed_memory(), "only glibc can be told to keep nothing"
    network = open_restorer(weights).network
    tiler = Tiler(network, CPU, dtype, frugal=True)
    side = -(-side // network.multiple) * network.multiple
    base, slope = tiler._measured()  # noqa: SLF001 - what is told here
    x_BCHW = torch.rand(1, network.in_channels, side, side)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = peak_of_process()
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        network(x_BCHW)
    measured = peak_of_process() - before + x_BCHW.nbytes
    predicted = base + slope * side**2
    return f"{predicted / 1e6:.0f} | {measured / 1e6:.0f} | {predicted / measured:.2f}"


def memory_rows(weights: str, name: str, side: int) -> list[str]:
    """The same for both dtypes, each in a process of its own."""
    rows = []
    for dtype in ("float32", "bfloat16"):
        command = [sys.executable, __file__, "--probe", dtype, "--side", str(side), "--weights", weights]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(f"| {name} | {side} | {dtype} | {done.stdout.strip()} |")
    return rows


def large(weights: str | None, limit: float, size: tuple[int, int]) -> str:
    """Restore a large image by the command line; tell the limit, the peak of the process, and the time."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        rows, columns = np.mgrid[: size[1], : size[0]]
        values = (128 + 100 * np.sin(rows / 17) * np.cos(columns / 23))[..., None] + np.arange(3) * 9
        source = Path(folder) / "large.png"
        Image.fromarray(values.astype(np.uint8)).save(source)
        command = [sys.executable, "-m", "geovit", "restore", str(source), "--max_memory", str(limit), "--device=cpu"]
        command += ["--weights", weights] if weights else []
        started = time.perf_counter()
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if status:
            raise SystemExit(f"geovit restore failed with {status}")
        peak = usage.ru_maxrss * 1024
    bound = "kept" if peak <= limit * 1e9 else "EXCEEDED"
    return f"| {size[0]} x {size[1]} | {limit:.2f} | {peak / 1e9:.2f} ({bound}) | {seconds:.0f} |"


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", help="checkpoint files; the packaged model without")
    parser.add_argument("--image", type=Path, help="to restore; noise without")
    parser.add_argument("--truth", type=Path, help="what it should become")
    parser.add_argument("--tile", type=int, default=96)
    parser.add_argument("--side", type=int, default=256, help="of the input whose memory is measured")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limits", type=float, nargs="+", default=(1.5, 2.0), help="of memory for the large image, in GB")
    parser.add_argument("--size", type=int, nargs=2, default=(4000, 3000), help="width and height of the large image")
    parser.add_argument("--probe", choices=("float32", "bfloat16"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.probe:
        print(memory_cells(args.weights[0], args.side, getattr(torch, args.probe)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        print("\n".join([machine(CPU), "", *measured(args.weights or defaults(Path(folder)), args)]))
    return 0


def measured(files: list[str | None], args: argparse.Namespace) -> list[str]:
    """Fill the tables."""
    torch.manual_seed(0)
    tables: dict[str, list[str]] = {
        "tiles": [
            "| network | halo | own overlap, dB | seam / elsewhere | half, dB | seam / elsewhere | none, dB | seam / elsewhere |",
            "|---|---|---|---|---|---|---|---|",
        ],
        "precision": ["| network | max-abs of bf16 | dB to fp32 | dB against the truth | refused |", "|---|---|---|---|---|"],
        "memory": ["| network | side | dtype | predicted, MB | measured, MB | ratio |", "|---|---|---|---|---|---|"],
        "large": ["| pixels | limit, GB | peak of the process, GB | seconds |", "|---|---|---|---|"],
    }
    for file in files:
        restorer = open_restorer(file)
        network = restorer.network
        name = f"{restorer.architecture.official} x{network.scale}" + ("" if file is None else f" ({Path(file).stem})")
        shape = (96, 128)
        x_HWC = to_unit(open_image(args.image)) if args.image else np.random.default_rng(0).random((*shape, 3), np.float32)
        x_CHW = torch.from_numpy(np.ascontiguousarray(x_HWC[..., : network.in_channels].transpose(2, 0, 1)))
        truth = None
        if args.truth:
            truth = torch.from_numpy(to_unit(open_image(args.truth))).permute(2, 0, 1)
            truth = truth[:, : x_CHW.shape[1] * network.scale, : x_CHW.shape[2] * network.scale]
        if "tiles" in args.only:
            tables["tiles"].append(tiles_row(name, network, x_CHW, args.tile))
        if "precision" in args.only:
            tables["precision"].append(precision_row(name, network, x_CHW, truth))
        if "memory" in args.only and file is not None:
            tables["memory"] += memory_rows(file, name, args.side)
    if "large" in args.only:
        tables["large"] += [large(files[0], limit, tuple(args.size)) for limit in args.limits]
    return [line for part in args.only for line in (f"### {part}", "", *tables[part], "")]


if __name__ == "__main__":
    sys.exit(main())
