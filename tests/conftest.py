"""Fixtures shared by all tests."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Threads of torch that wait for each other by spinning slow a busy machine down many times over; read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A shell that starts a program in the background has it ignore Ctrl-C, and so would the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Start every test from the same random numbers, so that none fails by chance."""
    if torch := sys.modules.get("torch"):  # a test of files alone need not load it
        torch.manual_seed(0)


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


def _build_wheel(out: Path, **environment: str) -> Path:
    # The backend itself, in a copy of the tree: quick, and a build leaves nothing behind in the checkout.
    root = Path(__file__).parents[1]
    tree = out / "tree"
    ignore = shutil.ignore_patterns(".*", "build", "tests", "notebooks", "benchmarks", "demo", "__pycache__")
    shutil.copytree(root, tree, ignore=ignore)
    code = f"from scikit_build_core.build import build_wheel; build_wheel({str(out)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def build_wheel() -> Callable[..., Path]:
    """Build a wheel of this checkout into an empty folder, with changes of the environment as keywords."""
    return _build_wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built once."""
    return _build_wheel(tmp_path_factory.mktemp("wheel"))
