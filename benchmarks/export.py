"""Every kind of model in every format of `geovit export`: how far from PyTorch, how long it takes, how fast it runs.

python benchmarks/export.py --threads 2

Small models with random weights go the way of `geovit export`: traced, written, and compared on other sizes than the traced
one (a model of one size: on other numbers of images). Then the network with the package's kernels and the programs compute the
same input in turn in one process, with the same number of threads in float32. A row that fails says why. --quick times one run on
the smallest input, which says nothing about speed, and writes no page; --only takes names and patterns such as "monai*".
"""

import argparse
import functools
import logging
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar, get_args

import torch
from export_cases import Case, cases
from page import HERE, medians, versions
from torch import Tensor
from torch.export import ExportedProgram

from geovit import __version__
from geovit.apps.bench import machine
from geovit.apps.export import TOLERANCE
from geovit.core.engines import open_exported
from geovit.core.engines.engine import FORMAT
from geovit.core.export import FILES, Exportable, Format, check, trace, write_program

HEAD = (
    "| model | format | error | export s | input | geovit ms | ms | of geovit's |",
    "|---|---|---|---|---|---|---|---|",
)
ABOUT = f"""Small models with random weights. error: the largest difference from PyTorch with the package's kernels, as a share of
the largest value, on sizes or numbers of images that were not traced; above {TOLERANCE:.0e} nothing is kept. export s: tracing,
writing, loading and comparing. geovit ms: the network in PyTorch with the package's kernels. ms: the program; medians of runs in
turn in one process. "of geovit's" above 1 is slower. A pt2 program runs in PyTorch without the package's kernels."""
Run = Callable[[Tensor], Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class Program:
    """An exported program: the largest difference as a share of the largest value, the seconds that it took, what runs it."""

    share: float
    seconds: float
    run: Run


def rows(case: Case, *, runs: int, limit: float, quick: bool) -> Iterator[str]:
    """Export a model to all formats and time them; give a row of the table for each, or one that says why there is none."""
    torch.manual_seed(0)
    start = time.perf_counter()
    found = tried(limit, lambda: with_trace(case.make()))
    if isinstance(found, str):
        yield failed(case.name, "all", found)
        return
    exportable, program = found
    traced = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        made: dict[str, Program] = {}
        for format_ in get_args(Format):
            done = tried(limit, functools.partial(compared, exportable, program, format_, Path(folder), traced))
            if isinstance(done, str):
                yield failed(case.name, format_, done)
            else:
                made[format_] = done
        x = timed_input(exportable, 0 if quick else case.side)
        calls: dict[str, Callable[[], object]] = {"geovit": functools.partial(exportable.module, x)}
        calls |= {format_: functools.partial(program.run, x) for format_, program in made.items()}
        times = tried(limit, functools.partial(medians, calls, runs))
    if isinstance(times, str):
        yield failed(case.name, "timing", times)
        return
    own, size = times["geovit"], " x ".join(map(str, x.shape))
    for format_, done in made.items():
        spent = times[format_]
        cells = [f"{done.share:.0e}", f"{done.seconds:.1f}", size, f"{1e3 * own:.1f}", f"{1e3 * spent:.1f}", f"{spent / own:.2f}"]
        yield f"| {case.name} | {format_} | {' | '.join(cells)} |"


def with_trace(exportable: Exportable) -> tuple[Exportable, ExportedProgram]:
    """Trace a model."""
    return exportable, trace(exportable)


def compared(exportable: Exportable, program: ExportedProgram, format_: Format, folder: Path, traced: float) -> Program:
    """Write a program, load it and compare it; its seconds are those and the ones that it was ``traced`` in."""
    start = time.perf_counter()
    run = written(exportable, program, format_, folder)
    checked = check(exportable, lambda x: run(torch.from_numpy(x)).numpy(), tolerance=TOLERANCE)
    return Program(checked.share, traced + time.perf_counter() - start, run)


def written(exportable: Exportable, program: ExportedProgram, format_: Format, folder: Path) -> Run:
    """Write a program and load it; return what runs it."""
    path = folder / f"model{FILES[format_][0]}"
    write_program(path, program, format_, {"format": FORMAT, "geovit": __version__, **exportable.described()})
    if format_ == "pt2":
        return program.module(check_guards=False)
    run = open_exported(path).engine.run
    return lambda x: torch.from_numpy(run(x.numpy()))


def timed_input(exportable: Exportable, side: int) -> Tensor:
    """Make an image whose sides are ``side`` at the least, of sizes that the model takes."""
    sides = zip(exportable.multiple, exportable.smallest, strict=True)
    size = [max(least, -(-side // m) * m if m else 0) for m, least in sides]
    return exportable.sample((1, exportable.channels, *size), torch.Generator().manual_seed(3))


def failed(name: str, what: str, told: str) -> str:
    """Return the row of what did not work."""
    return f"| {name} | {what} | {told.replace('|', '/')[:300]} |{' |' * 5}"


def tried(seconds: float, call: Callable[[], T]) -> T | str:
    """Return what a call gives, or what went wrong: a row that fails must not end the others."""
    late = False  # whoever catches the error on the way may tell another one

    def stop(number: int, frame: object) -> None:
        nonlocal late
        late = True
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - whatever comes is told
        return f"took more than {seconds:g} s" if late else " ".join(str(error).split()) or type(error).__name__
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main(arguments: list[str] | None = None) -> int:
    """Print the table, and write the page if all of it was made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="models, by names or patterns; --list tells them")
    parser.add_argument("--list", action="store_true", help="tell the names of all models")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--limit", type=float, default=90, help="seconds for a step of a model; default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="one run on the smallest input, no page")
    parser.add_argument("--out", type=Path, help="default: results/export.md, beside this file")
    args = parser.parse_args(arguments)
    known = list(cases())
    chosen = [case for case in known if args.only is None or any(fnmatch(case.name, pattern) for pattern in args.only)]
    if args.list or not chosen:
        print("\n".join(case.name for case in known))
        return 0 if args.list else 2
    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)
    told = versions(["torch", "onnx", "onnxscript", "onnxruntime", "openvino", "monai"])
    made_by = f"Made by `python benchmarks/export.py --threads {args.threads}`: {machine(torch.device('cpu'))}, {told}."
    page = ["# Exported models", "", made_by, "", ABOUT, "", *HEAD]
    print("\n".join(page), flush=True)
    start = time.perf_counter()
    for case in chosen:
        for line in rows(case, runs=1 if args.quick else args.runs, limit=args.limit, quick=args.quick):
            print(line, flush=True)
            page.append(line)
    page += ["", f"All of it took {(time.perf_counter() - start) / 60:.0f} minutes."]
    print("\n".join(page[-2:]), flush=True)
    if not args.quick and args.only is None:
        out = args.out or HERE / "results" / "export.md"
        out.write_text("\n".join(page) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
