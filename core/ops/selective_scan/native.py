"""Selective scan by the compiled CPU kernel."""

from .eager import selective_scan

__all__ = ["selective_scan"]
