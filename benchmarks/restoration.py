"""Measure what restoration promises, and write the page of results.

python benchmarks/restoration.py                          # all parts: with nothing else running
python benchmarks/restoration.py --only restoration_quality

Each part is a file restoration_*.py beside this one, and a process of its own, in which what is compared takes turns. Its head
says what the columns are. A part that misses a bar exits with 1, and so does this.
"""

import sys

import page

DOMAIN = page.Domain(
    "restoration", "Restoration", ("geovit", "torchvision", "numpy", "pillow", "kornia", "spandrel", "openvino"), __doc__
)

if __name__ == "__main__":
    sys.exit(DOMAIN.main())
