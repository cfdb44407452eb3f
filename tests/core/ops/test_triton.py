"""The Triton backends, without a GPU: run by Triton's interpreter, and compiled for a GPU that need not be there.

The interpreter takes a process of its own, because Triton reads the switch when it is imported.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from geovit.core import device
from geovit.core.ops.local_attention import local_attention, neighborhood
from geovit.core.ops.selective_scan import scan_orders, selective_scan
from geovit.core.ops.swiglu import swiglu

INTERPRETED = Path(__file__).parent / "interpreted"
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@pytest.mark.slow
@needs_triton
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
    code = (
        "import sys, geovit.core.ops.local_attention, geovit.core.ops.selective_scan, geovit.core.ops.swiglu; "
        "print('triton' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.fixture
def launched(monkeypatch, tmp_path) -> dict[str, object]:
    """Compile what would be launched, by name of the kernel."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # Triton's own default, about which it warns
    monkeypatch.setattr(device, "_INTERPRETED", True)  # let tensors of the CPU through
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import JITFunction, mangle_type

    compiled = {}

    def compile_instead(kernel, *args, grid, warmup, num_warps=4, **options):
        del grid, warmup
        given = {**dict(zip(kernel.arg_names, args, strict=False)), **options}
        constants = {p.name: given[p.name] for p in kernel.params if p.is_constexpr}
        types = {name: "constexpr" if name in constants else mangle_type(given[name]) for name in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=types, constexprs=constants)
        compiled[kernel.__name__] = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": num_warps})

    monkeypatch.setattr(JITFunction, "run", compile_instead)
    return compiled


@pytest.mark.slow
@needs_triton
@pytest.mark.skipif(sys.platform != "linux", reason="Triton brings its GPU assembler on Linux only")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_kernels_compile_for_a_gpu(dtype, launched):
    def ones(*shape: int) -> torch.Tensor:
        return torch.ones(shape, dtype=dtype, requires_grad=True)

    swiglu(ones(5), ones(5), backend="triton").sum().backward()
    assert set(launched) == {"_forward_kernel", "_backward_kernel"}
    launched.clear()
    inputs = ones(1, 6, 8), ones(1, 6, 2, 8), ones(2, 8, 4), ones(1, 6, 2, 4), ones(1, 6, 2, 4)
    options = {"D": ones(2, 8), "dt_bias": ones(2, 8), "softplus": True, "orders": scan_orders((2, 3), ("raster", "column"))}
    selective_scan(*inputs, **options, backend="triton").sum().backward()
    assert set(launched) == {"_forward_kernel", "_backward_kernel"}
    launched.clear()
    q, k, v = (ones(1, 9, 1, 32) for _ in "qkv")
    padding = ones(1, 32), ones(1, 32)
    local_attention(q, k, v, neighborhood((3,)), bias_table=ones(5, 1), padding=padding, backend="triton").sum().backward()
    assert set(launched) == {"_forward_kernel", "_query_kernel", "_key_kernel", "_bias_kernel"}
    assert all(kernel.asm["cubin"] for kernel in launched.values())
