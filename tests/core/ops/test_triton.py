"""The Triton backends, run by Triton's interpreter: in a process of its own, because Triton reads the switch when imported."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

INTERPRETED = Path(__file__).parent / "interpreted"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_kernels_agree_with_the_references_in_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--quiet", *sorted(map(str, INTERPRETED.glob("run_*.py")))],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_the_core_leaves_triton_alone():
    code = "import sys, geovit.core.ops.swiglu, geovit.core.ops.local_attention; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
