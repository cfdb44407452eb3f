"""A page of results that is made of parts, each a process of its own."""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import torch

HERE = Path(__file__).parent


def run(command: Sequence[str]) -> tuple[str, int]:
    """Return what a part prints, and its exit status."""
    # Threads wait as torch lets them by default; rich would fold tables to the width of a terminal.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | {"COLUMNS": "140"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    return done.stdout.strip(), done.returncode


def script(part: str, *options: str) -> list[str]:
    """Return the command of a part that is a file of that name beside this one."""
    return [sys.executable, str(HERE / f"{part}.py"), *options]


def versions(packages: Sequence[str]) -> str:
    """Name Python and those of the packages that are installed, with their versions."""
    found = {name: distribution.version for name in packages for distribution in distributions(name=name)}
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version}" for name, version in found.items())])


def show(cells: list[str]) -> None:
    """Print a row of a table at once: the whole takes minutes."""
    print(f"| {' | '.join(cells)} |", flush=True)


def heading(cells: list[str]) -> None:
    """Print the head of a table."""
    print()
    show(cells)
    show(["---"] * len(cells))


def medians(calls: Mapping[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Run the calls in turn; return the median seconds of each."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(runs + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if run:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def parser(description: str | None, parts: Sequence[str], out: str) -> argparse.ArgumentParser:
    """Return a parser of the options that every page has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--only", nargs="+", choices=parts, default=parts)
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    made.add_argument("--out", type=Path, help=f"default: results/{out}, beside this file")
    return made


@dataclass(frozen=True)
class Domain:
    """The benchmarks of one application: parts ``name``_*.py, each a script beside this one, and the page of all.

    Args:
        name: of the script that runs them, and of the page.
        title: of the page.
        packages: what parts compare with, or read their data by; the page tells their versions.
        about: the script's docstring.
    """

    name: str
    title: str
    packages: Sequence[str]
    about: str | None

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts."""
        return tuple(sorted(path.stem for path in HERE.glob(f"{self.name}_*.py")))

    def main(self, arguments: list[str] | None = None) -> int:
        """Run the parts; write the page if all of them ran."""
        from geovit.apps.bench import machine

        args = parser(self.about, self.parts, f"{self.name}.md").parse_args(arguments)
        torch.set_num_threads(args.threads)
        threads = ["--threads", str(args.threads)]
        made_by = f"Made by `python benchmarks/{self.name}.py {' '.join(threads)}`"
        head = [f"# {self.title}", "", f"{made_by}: {machine(torch.device('cpu'))}, {versions(self.packages)}."]
        whole = tuple(args.only) == self.parts
        out = args.out or HERE / "results" / f"{self.name}.md"
        return make(head, args.only, lambda part: run(script(part, *threads)), out if whole else None)


def make(head: Sequence[str], parts: Sequence[str], run_part: Callable[[str], tuple[str, int]], out: Path | None) -> int:
    """Run the parts, print each, and write the page to ``out`` if none of them failed; return the worst exit status.

    A part that misses a bar exits with 1, and is on the page; a higher status is a failure.
    """
    page, worst = list(head), 0
    for part in parts:
        printed, status = run_part(part)
        print(f"\n## {part}\n\n{printed}", flush=True)
        page += ["", f"## {part}", "", printed]
        worst = max(worst, abs(status))
    if out is not None and worst < 2:
        out.write_text("\n".join(page) + "\n", encoding="utf-8")
    return worst
