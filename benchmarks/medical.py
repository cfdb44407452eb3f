"""Measure what medical segmentation promises, and write the page of results.

python benchmarks/medical.py                        # all parts: with nothing else running
python benchmarks/medical.py --only medical_speed

Each part is a file medical_*.py beside this one, and a process of its own. Its head says what the columns are. A part that misses
a bar exits with 1, and so does this.
"""

import sys

import page

DOMAIN = page.Domain("medical", "Medical segmentation", ("geovit", "monai", "numpy", "scipy", "nibabel", "openvino"), __doc__)

if __name__ == "__main__":
    sys.exit(DOMAIN.main())
