"""Files in the layout of real products."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def products() -> ModuleType:
    """Functions that write them: ``write_enmap``, ``write_prisma``, ``write_emit``, ``write_netcdf``."""
    path = Path(__file__).with_name("product_files.py")
    spec = importlib.util.spec_from_file_location("product_files", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
