"""`geovit` and `python -m geovit`."""

from .apps.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
