"""Time the core's ops against PyTorch and against the peers that each part names, and write the page of results.

python benchmarks/ops.py                          # all parts on the CPU: some minutes, with nothing else running
python benchmarks/ops.py --only swin backends
python benchmarks/ops.py --device cuda            # the eager form of each op against what ``auto`` takes on a GPU

Each part is a process of its own, in which what is compared takes turns. Its head, or that of the file of its name, says what
the columns are. A part that misses a bar exits with 1, and so does this.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent
PARTS = ("selective_scan", "local_attention", "memory_bound", "swin", "backends")


def command(part: str, threads: int, device: str) -> list[str]:
    """Return the command of a part."""
    if part == "backends":
        return [sys.executable, "-m", "geovit", "bench", "--threads", str(threads), "--device", device]
    return [sys.executable, str(HERE / f"{part}.py"), "--threads", str(threads)]


def run(part: str, threads: int, device: str) -> tuple[str, int]:
    """Return what a part prints, and its exit status."""
    # Threads wait as torch lets them by default; rich would fold tables to the width of a terminal.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | {"COLUMNS": "140"}
    done = subprocess.run(command(part, threads, device), stdout=subprocess.PIPE, text=True, env=environment, check=False)
    printed = done.stdout.strip()
    return (f"```\n{printed}\n```" if part == "backends" else printed), done.returncode


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; write the page if all of them ran."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps; on a GPU only the backends are compared")
    parser.add_argument("--out", type=Path, help="default: results/ops.md, or results/ops_DEVICE.md, beside this file")
    args = parser.parse_args(arguments)
    parts = args.only if args.device == "cpu" else ("backends",)
    page, worst = (
        ["# The core's ops", "", f"Made by `python benchmarks/ops.py --threads {args.threads} --device {args.device}`."],
        0,
    )
    for part in parts:
        printed, status = run(part, args.threads, args.device)
        print(f"\n## {part}\n\n{printed}", flush=True)
        page += ["", f"## {part}", "", printed]
        worst = max(worst, status)
    if tuple(args.only) == PARTS and worst < 2:
        out = args.out or HERE / "results" / ("ops.md" if args.device == "cpu" else f"ops_{args.device}.md")
        out.write_text("\n".join(page) + "\n", encoding="utf-8")
    return worst


if __name__ == "__main__":
    sys.exit(main())
