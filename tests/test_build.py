"""The build: with a compiler a portable library, without one a working package of Python alone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from geovit.core.native import _find

PROBE = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in type(finder).__module__]
import geovit, torch
from geovit.core.native import native_status
from geovit.core.ops.swiglu import swiglu
gate, value = torch.randn(2, 5, 7)
torch.testing.assert_close(swiglu(gate, value), torch.nn.functional.silu(gate) * value)
print(geovit.__file__, *native_status(), sep="\\n")
"""


def probe(target: Path, **environment: str) -> list[str]:
    """Run PROBE on the package in ``target``, not the editable one: its place, whether kernels are loaded, and why."""
    env = {**os.environ, **environment, "PYTHONPATH": str(target)}
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, cwd=target, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def install(wheel: Path, target: Path) -> Path:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(command, check=True)
    return target


def test_without_a_compiler_the_package_is_pure_and_works(tmp_path, build_wheel):
    wheel = build_wheel(tmp_path / "wheel", CXX="/bin/false")
    assert wheel.name.endswith("-py3-none-any.whl")
    place, loaded, reason = probe(install(wheel, tmp_path / "target"))
    assert place.startswith(str(tmp_path))
    assert loaded == "False"
    assert "built without" in reason


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_with_a_compiler_the_wheel_brings_its_kernels(tmp_path, wheel):
    assert re.search(r"-py3-none-(?!any)\w+\.whl$", wheel.name), "one wheel for every Python, one per platform"
    target = install(wheel, tmp_path / "target")
    place, loaded, reason = probe(target)
    assert place.startswith(str(tmp_path))
    assert (loaded, str(target) in reason) == ("True", True)
    assert probe(target, GEOVIT_NATIVE="0")[1:] == ["False", "disabled by GEOVIT_NATIVE=0"]


@pytest.mark.skipif(_find() is None or shutil.which("nm") is None, reason="no compiled library, or no nm to look into it")
def test_library_needs_no_python_and_no_cpp_torch():
    # Then one file serves every Python, free-threaded ones too, and every torch from 2.10 on.
    listing = subprocess.run(["nm", "--dynamic", "--undefined-only", str(_find())], capture_output=True, text=True, check=True)
    symbols = [line.split()[-1] for line in listing.stdout.splitlines()]
    assert "torch_parallel_for" in symbols  # the listing is what we think it is
    assert not [name for name in symbols if re.match(r"_?Py|_ZN?K?(2at|3c10|5torch)|omp_|GOMP_", name)]
