"""Measure what foundation models promise, and write the page of results.

python benchmarks/foundation.py                          # all parts: with nothing else running
python benchmarks/foundation.py --only foundation_speed

Each part is a file foundation_*.py beside this one, and a process of its own. Its head says what the columns are. A part that
misses a bar exits with 1, and so does this.
"""

import sys

import page

DOMAIN = page.Domain(
    "foundation", "Foundation models", ("geovit", "torchgeo", "timm", "scikit-learn", "rasterio", "numpy"), __doc__
)

if __name__ == "__main__":
    sys.exit(DOMAIN.main())
