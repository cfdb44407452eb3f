"""Measure the memory of LESS attention and of joint attention over all bands and places, on this machine.

python benchmarks/foundation_memory.py --threads 2

A network of blocks (attention and MLP) encodes an image of some bands, patch 4, in inference; each in a process of its own, whose
peak of resident memory is told, less what it held before the image. Compared are

- geovit: ``EncoderConfig(tokenizer="perceptron", mixer="less")``.
- joint, scores: timm's vision transformer blocks over one token for each band and place, with the matrix of scores in memory.
- joint, flash: the same by PyTorch's fused attention, which keeps no scores, but takes tokens^2 time.
- joint, floor: the same with attention left out (a copy of the values in its place), which is less than any joint attention can
  take; at sizes for which the others have neither memory nor time.

For "joint, scores" beyond this machine the bytes of the scores alone are told, heads x tokens^2 x 4, with a ~.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import page
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from geovit.apps.bench import machine
from geovit.core.sensors.encoder import EncoderConfig, build_encoder

COMPARED = ("joint, scores", "joint, flash", "joint, floor", "geovit")
BAR = 0.1
PATCH, DIM, HEADS = 4, 192, 3
# Bands and pixels on a side; which of the joint ones run there in minutes and gigabytes.
SIZES = (
    (12, 32, ("joint, scores", "joint, flash", "joint, floor")),
    (50, 32, ("joint, scores", "joint, flash", "joint, floor")),
    (202, 32, ("joint, flash", "joint, floor")),
    (202, 128, ("joint, floor",)),
)


class Joint(nn.Module):
    """A vision transformer whose tokens are of each band and place."""

    def __init__(self, depth: int, kind: str) -> None:
        super().__init__()
        self.embed = nn.Linear(PATCH * PATCH, DIM)
        self.blocks = nn.ModuleList(Block(DIM, HEADS, qkv_bias=True) for _ in range(depth))
        for block in self.blocks:
            block.attn.fused_attn = kind != "joint, scores"

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, bands, height, width) to tokens."""
        patches = x.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).flatten(4).flatten(1, 3)
        y: Tensor = self.embed(patches)
        for block in self.blocks:
            y = block(y)
        return y


def held(what: str) -> float:
    """Return bytes that this process holds ("VmRSS") or has held at most ("VmHWM"), as Linux tells."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * float(next(line.split()[1] for line in status.splitlines() if line.startswith(what)))


def peak(kind: str, bands: int, side: int, depth: int) -> float:
    """Return the bytes that an image takes beyond what the process held before; once in a process."""
    torch.manual_seed(0)
    x, wavelengths = torch.rand(1, bands, side, side), torch.linspace(420.0, 2450.0, bands)
    if kind == "geovit":
        config = EncoderConfig(tokenizer="perceptron", mixer="less", dim=DIM, heads=HEADS, depth=depth, patch=PATCH)
        encoder = build_encoder(config)
        assert isinstance(encoder, nn.Module)
        encoder.eval()

        def run(image: Tensor) -> object:
            return encoder(image, wavelengths[: image.shape[1]], 30.0)
    else:
        run = Joint(depth, kind).eval()
        if kind == "joint, floor":
            F.scaled_dot_product_attention = lambda q, k, v, **_: v.clone()  # timm looks it up at each call
    with torch.inference_mode():
        run(x[:, :2, :16, :16])  # what is loaded with the first call
        before = held("VmRSS")
        run(x)
    return held("VmHWM") - before


def measured(kind: str, bands: int, side: int, args: argparse.Namespace) -> float:
    """Return the bytes of a network, from a process of its own."""
    options = ["--threads", args.threads, "--depth", args.depth, "--bands", bands, "--side", side]
    command = [sys.executable, __file__, "--peak", kind, *map(str, options)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def row(bands: int, side: int, joint: tuple[str, ...], args: argparse.Namespace) -> tuple[list[str], bool]:
    """Return a row of the table, and whether the bar is met against scores."""
    tokens = bands * (side // PATCH) ** 2
    found = {kind: measured(kind, bands, side, args) for kind in (*joint, "geovit")}
    scores = found.get("joint, scores", 4.0 * HEADS * tokens**2)
    cells = [f"{bands} x {side} x {side}", f"{tokens}"]
    cells.append(f"{scores / 2**20:.0f}" if "joint, scores" in found else f"~{scores / 2**20:.0f}")
    cells += [f"{found[kind] / 2**20:.0f}" if kind in found else "" for kind in COMPARED[1:]]
    cells.append(f"{found['geovit'] / scores:.4f}")
    cells += [f"{found['geovit'] / found[kind]:.2f}" if kind in found else "" for kind in COMPARED[1:3]]
    return cells, found["geovit"] <= BAR * scores


def main() -> int:
    """Print the table; return 1 if the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--depth", type=int, default=2, help="blocks; in inference the peak is that of one")
    parser.add_argument("--peak", choices=COMPARED, help="print the bytes of one network, and nothing else")
    parser.add_argument("--bands", type=int, help="of one size, instead of all")
    parser.add_argument("--side", type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        print(peak(args.peak, args.bands, args.side, args.depth))
        return 0
    print(
        f"{machine(torch.device('cpu'))}, {args.threads} threads. Width {DIM}, {HEADS} heads, {args.depth} blocks, patch {PATCH}."
    )
    page.heading(
        ["image", "tokens", *(f"{kind}, MiB" for kind in COMPARED), *(f"of {kind.partition(', ')[2]}" for kind in COMPARED[:3])]
    )
    sizes = SIZES if args.bands is None else [(args.bands, args.side, COMPARED[:3])]
    met = True
    for bands, side, joint in sizes:
        cells, met = row(bands, side, joint, args)
        page.show(cells)
    print(
        f"\nBar: at the largest size at most {BAR} of joint attention with its scores in memory. Flash attention keeps no scores;"
    )
    print(
        "against it and its floor the ratio is that of the other tensors, of which the MLP's hidden ones are the largest in both."
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
