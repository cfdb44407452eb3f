"""Time the core's ops against PyTorch and against the peers that each part names, and write the page of results.

python benchmarks/ops.py                          # all parts on the CPU: some minutes, with nothing else running
python benchmarks/ops.py --only swin backends
python benchmarks/ops.py --device cuda            # the eager form of each op against what ``auto`` takes on a GPU

Each part is a process of its own, in which what is compared takes turns. Its head, or that of the file of its name, says what
the columns are. A part that misses a bar exits with 1, and so does this.
"""

import sys

import page

PARTS = ("selective_scan", "local_attention", "memory_bound", "swin", "backends")


def command(part: str, threads: int, device: str) -> list[str]:
    """Return the command of a part."""
    if part == "backends":
        return [sys.executable, "-m", "geovit", "bench", "--threads", str(threads), "--device", device]
    return page.script(part, "--threads", str(threads))


def run(part: str, threads: int, device: str) -> tuple[str, int]:
    """Return what a part prints, and its exit status."""
    printed, status = page.run(command(part, threads, device))
    return (f"```\n{printed}\n```" if part == "backends" else printed), status


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; write the page if all of them ran."""
    parser = page.parser(__doc__, PARTS, "ops.md, or results/ops_DEVICE.md")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps; on a GPU only the backends are compared")
    args = parser.parse_args(arguments)
    on_cpu = args.device == "cpu"
    out = args.out or page.HERE / "results" / ("ops.md" if on_cpu else f"ops_{args.device}.md")
    head = ["# The core's ops", "", f"Made by `python benchmarks/ops.py --threads {args.threads} --device {args.device}`."]
    parts = args.only if on_cpu else ("backends",)
    whole = tuple(args.only) == PARTS
    return page.make(head, parts, lambda part: run(part, args.threads, args.device), out if whole else None)


if __name__ == "__main__":
    sys.exit(main())
