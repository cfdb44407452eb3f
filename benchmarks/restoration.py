"""Measure what restoration promises, and write the page of results.

python benchmarks/restoration.py                          # all parts: with nothing else running
python benchmarks/restoration.py --only restoration_quality

Each part is a file restoration_*.py beside this one, and a process of its own, in which what is compared takes turns. Its head
says what the columns are. A part that misses a bar exits with 1, and so does this.
"""

import sys

import page
import torch

from geovit.apps.bench import machine

PARTS = tuple(sorted(path.stem for path in page.HERE.glob("restoration_*.py")))
# What a part compares with, or reads its images by.
PACKAGES = ("geovit", "torchvision", "numpy", "pillow", "kornia", "spandrel", "openvino")


def command(part: str, threads: int) -> list[str]:
    """Return the command of a part."""
    return page.script(part, "--threads", str(threads))


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; write the page if all of them ran."""
    args = page.parser(__doc__, PARTS, "restoration.md").parse_args(arguments)
    torch.set_num_threads(args.threads)
    made_by = f"Made by `python benchmarks/restoration.py --threads {args.threads}`"
    head = [
        "# Restoration",
        "",
        f"{made_by}: {machine(torch.device('cpu'))}, {page.versions(PACKAGES)}.",
    ]
    whole = tuple(args.only) == PARTS
    out = args.out or page.HERE / "results" / "restoration.md"
    return page.make(head, args.only, lambda part: page.run(command(part, args.threads)), out if whole else None)


if __name__ == "__main__":
    sys.exit(main())
