"""python -m geovit.apps.restoration.basicsr -opt FILE.yml [--test]: BasicSR with our networks."""

import sys

from .pipeline import prepare, run

# Also where BasicSR starts processes that load data: they come here under another name, and need it as well.
try:
    prepare()
except ImportError as error:
    sys.exit(f"geovit: {error}")

if __name__ == "__main__":
    run(sys.argv[1:])
