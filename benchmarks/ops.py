"""Time the ops on this machine: ``geovit bench`` from a checkout, with the same options.

python benchmarks/ops.py --threads 1
"""

import sys

from geovit.apps.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
