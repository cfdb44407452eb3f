"""Models as files for other programs: traced with variable sizes, written, and compared with PyTorch before they are kept."""

from .checking import Checked, bytes_per_position, check
from .exportable import Exportable
from .formats import FILES, Format, check_installed, write_program
from .tracing import trace

__all__ = ["FILES", "Checked", "Exportable", "Format", "bytes_per_position", "check", "check_installed", "trace", "write_program"]
