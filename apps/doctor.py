"""`geovit doctor`: what is installed and what it runs on, which backend each op takes and why, and whether ops are right."""

import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, requires, version

import rasterio
import torch
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table

from ..core.device import available_devices, cpu_features, resolve_device
from ..core.native import native_status
from ..core.precision import resolve_precision
from .op_cases import OPS, answers, error

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
    chosen = {name: op.choose_backend(device, torch.float32) for name, op in OPS.items()}
    return [
        ("compiled kernels", reason if loaded else f"[yellow]not in use[/]: {reason}"),
        *((f"{name} on {device.type}", f"{backend}: {why}") for name, (backend, why) in chosen.items()),
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
    device, failures, rows = resolve_device(), [], []
    for name, op in OPS.items():
        start = time.perf_counter()
        want = answers(op.small, op.small.inputs(torch.device("cpu"), torch.float64), "reference")
        off = error(answers(op.small, op.small.inputs(device, torch.float32), "auto"), want)
        took = time.perf_counter() - start
        passed = off <= _TOLERANCE  # false for NaN
        rows.append((name, f"{'[green]pass[/]' if passed else '[red]fail[/]'}, error {off:.1e}, {took:.2f} s"))
        if not passed:
            failures.append(f"{name} on {device.type} is off by {off:.1e} of the largest entry, allowed is {_TOLERANCE:.0e}")
    return failures, rows
