"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

_DATA = Path(os.environ.get("GEOVIT_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def _folder(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(f"no test data at {path}: set GEOVIT_TEST_DATA")
    return path


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real scenes and images for checks; they are not part of the project."""
    return _folder(_DATA)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Outputs and gradients of the official implementations."""
    return _folder(_DATA.parent / "golden")
