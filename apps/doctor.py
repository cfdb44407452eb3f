"""`geovit doctor`: what is installed and what it runs on, which backend each op takes and why, and whether ops are right."""

import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version

import rasterio
import torch
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ..core.device import available_devices, cpu_features, resolve_device
from ..core.native import native_status
from ..core.ops.local_attention import choose_backend as choose_attention_backend
from ..core.ops.local_attention import local_attention, windows
from ..core.ops.swiglu import choose_backend, swiglu
from ..core.precision import resolve_precision

# The instruction sets that decide which code runs, here or in torch; a CPU has dozens more.
_TELLING_FEATURES = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "neon", "sve", "bf16")
_TOLERANCE = 1e-5  # of float32 results and gradients, relative to the largest entry of the float64 reference


def doctor() -> int:
    """Print the state of this installation and test its ops; return 0 if all is well, else 1."""
    console = Console()
    console.print(_grid("Versions", _versions()))
    console.print(_grid("Hardware", _hardware()))
    console.print(_grid("Ops", _backends()))
    problems, rows = _extras()
    console.print(_grid("Extras", rows))
    failures, rows = _self_test()
    console.print(_grid("Self-test against the float64 reference", rows))
    for problem in (*problems, *failures):
        console.print(f"[red]Problem:[/] {problem}")
    if not (problems or failures):
        console.print("[green]All is well.[/]")
    return 1 if problems or failures else 0


def _grid(title: str, rows: list[tuple[str, str]]) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # a path or a command has to come out whole
    for row in rows:
        table.add_row(*row)
    return table


def _versions() -> list[tuple[str, str]]:
    return [
        ("geovit", version("geovit")),
        ("Python", f"{platform.python_version()}, {sys.executable}"),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        ("rasterio", f"{rasterio.__version__} with GDAL {rasterio.__gdal_version__}"),
        *((name, version(name)) for name in ("lightning", "numpy")),
    ]


def _hardware() -> list[tuple[str, str]]:
    features = cpu_features()
    told = ", ".join(name for name in _TELLING_FEATURES if name in features) or "no telling features"
    device = resolve_device()
    gpus = [name for name in available_devices() if name != "cpu"]
    return [
        ("CPU", f"{platform.machine()}, {told}"),
        *((name, torch.cuda.get_device_name(name) if name.startswith("cuda") else "Apple GPU") for name in gpus),
        *([] if gpus else [("GPU", "none that torch can use")]),
        ("--device auto", str(device)),
        ("--precision auto", str(resolve_precision("auto", device)).removeprefix("torch.")),
    ]


def _backends() -> list[tuple[str, str]]:
    loaded, reason = native_status()
    device = resolve_device()
    chosen, why = choose_backend(device, torch.float32)
    attention, attention_why = choose_attention_backend(device, torch.float32)
    return [
        ("compiled kernels", reason if loaded else f"[yellow]not in use[/]: {reason}"),
        (f"swiglu on {device.type}", f"{chosen}: {why}"),
        (f"local_attention on {device.type}", f"{attention}: {attention_why}"),
    ]


def _extras() -> tuple[list[str], list[tuple[str, str]]]:
    """Compare what is installed with what each extra asks for; only the base dependencies can be a problem."""
    asked: dict[str, list[Requirement]] = {}
    for requirement in map(Requirement, requires("geovit") or []):
        extra = str(requirement.marker).rpartition('extra == "')[2].rstrip('"') if requirement.marker else ""
        if requirement.name != "geovit" and (
            not extra or requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        ):
            asked.setdefault(extra, []).append(requirement)
    problems = [f"geovit needs {lack}: pip install --upgrade geovit" for lack in map(_lack, asked.pop("", [])) if lack]
    rows = []
    for extra, requirements in asked.items():
        lacks = [lack for lack in map(_lack, requirements) if lack]
        rows.append((extra, f"lacks {', '.join(lacks)}: pip install 'geovit\\[{extra}]'" if lacks else "installed"))
    return problems, rows


def _lack(requirement: Requirement) -> str:
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return requirement.name
    return (
        ""
        if requirement.specifier.contains(found, prereleases=True)
        else f"{requirement.name}{requirement.specifier} (is {found})"
    )


def _self_test() -> tuple[list[str], list[tuple[str, str]]]:
    """Run each op on the preferred device in float32, forward and backward, against its reference in float64."""
    generator = torch.Generator().manual_seed(0)
    gate, value = (torch.randn(37, 129, generator=generator) for _ in range(2))
    q, k, v = (torch.randn(2, 9, 10, 3, 16, generator=generator) for _ in range(3))
    table = torch.randn(49, 3, generator=generator)
    cases: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
        "swiglu": (swiglu, [gate, value]),
        "local_attention": (
            lambda q, k, v, table, backend: local_attention(
                q, k, v, windows((4, 4), shift=(2, 1)), bias_table=table, backend=backend
            ),
            [q, k, v, table],
        ),
    }
    device, failures, rows = resolve_device(), [], []
    for name, (op, inputs) in cases.items():
        start = time.perf_counter()
        error = _error(op, inputs, device)
        took = time.perf_counter() - start
        passed = error <= _TOLERANCE  # false for NaN
        rows.append((name, f"{'[green]pass[/]' if passed else '[red]fail[/]'}, error {error:.1e}, {took:.2f} s"))
        if not passed:
            failures.append(f"{name} on {device.type} is off by {error:.1e} of the largest entry, allowed is {_TOLERANCE:.0e}")
    return failures, rows


def _error(op: Callable[..., Tensor], inputs: list[Tensor], device: torch.device) -> float:
    """Return the largest relative error over the result and all gradients."""
    answers = []
    for backend, where, dtype in (("reference", torch.device("cpu"), torch.float64), ("auto", device, torch.float32)):
        leaves = [x.to(where, dtype).requires_grad_() for x in inputs]
        out = op(*leaves, backend=backend)
        answers.append([x.detach().cpu().double() for x in (out, *torch.autograd.grad(out.square().sum(), leaves))])
    return max(float((got - want).abs().max() / want.abs().max()) for want, got in zip(*answers, strict=True))
