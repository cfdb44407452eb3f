"""Importing BasicSR 1.4.2, of 2022, beside a torchvision of today."""

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType

_GONE = "torchvision.transforms.functional_tensor"


def import_basicsr() -> ModuleType:
    """Import basicsr, whose data pipeline asks torchvision for a module that it has no longer. No file is changed.

    Raises:
        ImportError: if basicsr is not installed, or lacks something else.
    """
    if find_spec("basicsr") is None:
        raise ImportError("basicsr is not installed: pip install 'geovit[basicsr]' (Python 3.12 or older)")
    with _old_torchvision(), warnings.catch_warnings():
        # Its imports by names that SciPy means to drop some day.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        return importlib.import_module("basicsr")


@contextmanager
def _old_torchvision() -> Iterator[None]:
    """Provide the one function that BasicSR takes from the module which torchvision 0.17 has dropped, while it is imported."""
    if _GONE in sys.modules or find_spec(_GONE) is not None:
        yield
        return
    from torchvision.transforms.functional import rgb_to_grayscale

    module = ModuleType(_GONE, "Stands in for a module that torchvision no longer has.")
    module.rgb_to_grayscale = rgb_to_grayscale  # type: ignore[attr-defined]
    sys.modules[_GONE] = module
    try:
        yield
    finally:
        del sys.modules[_GONE]
