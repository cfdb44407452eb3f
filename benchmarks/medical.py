"""Measure what medical segmentation promises, and write the page of results.

python benchmarks/medical.py                        # all parts: with nothing else running
python benchmarks/medical.py --only medical_speed

Each part is a file medical_*.py beside this one, and a process of its own. Its head says what the columns are. A part that misses
a bar exits with 1, and so does this.
"""

import sys

import page
import torch

from geovit.apps.bench import machine

PARTS = tuple(sorted(path.stem for path in page.HERE.glob("medical_*.py")))
# What a part compares with, or reads its volumes by.
PACKAGES = ("geovit", "monai", "numpy", "scipy", "nibabel", "openvino")


def command(part: str, threads: int) -> list[str]:
    """Return the command of a part."""
    return page.script(part, "--threads", str(threads))


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; write the page if all of them ran."""
    args = page.parser(__doc__, PARTS, "medical.md").parse_args(arguments)
    torch.set_num_threads(args.threads)
    made_by = f"Made by `python benchmarks/medical.py --threads {args.threads}`"
    head = [
        "# Medical segmentation",
        "",
        f"{made_by}: {machine(torch.device('cpu'))}, {page.versions(PACKAGES)}.",
    ]
    whole = tuple(args.only) == PARTS
    out = args.out or page.HERE / "results" / "medical.md"
    return page.make(head, args.only, lambda part: page.run(command(part, args.threads)), out if whole else None)


if __name__ == "__main__":
    sys.exit(main())
