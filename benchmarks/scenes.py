"""Measure `geovit classify` on scenes larger than memory: a page of tables with the bars that they must meet.

python benchmarks/scenes.py
python benchmarks/scenes.py --only memory kills --scale 0.05 --folder /tmp

Scenes are made for it, tiled, int16: 20,000 x 20,000 pixels of 4 bands, compressed, 4,000 x 4,000 of 200, plain, and 2,000 x
2,000 of 200, compressed; they take 10 GB in --folder while it runs, and go with it. The model is a small spectral_swin of one
member (16 channels; 3 or 12 principal components), fitted to a piece of each scene in a few steps: what is measured is what
lies around it, and the cheaper the model, the harder that is. ``--scale`` shrinks both sides of all scenes.

memory      peak of the process (its largest resident set), for a quarter of each scene (half of its sides) and the whole
throughput  pixels a second of the command, from the first part read to the last file made, beside those of the model alone on
            parts that lie in memory, in as many threads; and of reading alone and writing alone
shifts      pixels whose class differs between cells of 256, 384 and 512, between parts of other sides, and from a file that
            begins elsewhere; and how often classes change across the borders of cells, and elsewhere
kills       SIGKILL at twenty random times, each followed by --resume: whether the bytes are those of a run that was left alone
dask        three workers, of which one is killed in the middle; two workers against one, of one thread each
sizing      pixels a second of the command in one thread with the network of the default recipe, hardly trained
"""

import argparse
import hashlib
import json
import logging
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import rasterio
import torch
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from geovit.apps.bench import machine
from geovit.apps.hyperspectral.approaches import Target, by_model
from geovit.apps.hyperspectral.mapping import MapJob
from geovit.apps.hyperspectral.results import layers_of
from geovit.apps.hyperspectral.working import MAP, Wanted, lead_of, plan_of
from geovit.core.streaming.plan import Plan
from geovit.core.streaming.run import one_thread_each, run
from geovit.datasets import open_scene
from geovit.datasets.growing import GrowingRasters

HERE = Path(__file__).parent
PARTS = ("memory", "throughput", "shifts", "kills", "dask", "sizing")
RECIPE = """network: spectral_swin
spectral_swin: {dim: 16, heads: 2, channels: [4, 8]}
transform: {components: COMPONENTS}
training: {members: 1, steps: 60, patience: 1}
"""
_PIECE = 512  # pixels on a side of the piece that the model is fitted to
_FIELD = 16  # pixels on a side of a field of the ground
_GIB = 2**30


@dataclass(frozen=True)
class Row:
    """A figure, its bar and whether it is met."""

    what: str
    figure: str
    bar: str = ""
    met: bool | None = None

    def __str__(self) -> str:
        return f"| {self.what} | {self.figure} | {self.bar} | {'' if self.met is None else 'yes' if self.met else '**no**'} |"


@dataclass(frozen=True)
class Made:
    """A scene, the model that was fitted to a piece of it, and where results go."""

    name: str
    path: Path
    model: Path
    folder: Path
    side: int


def write_scene(
    path: Path, side: int, bands: int, *, offset: tuple[int, int] = (0, 0), packed: bool = True
) -> tuple[dict[str, object], NDArray[np.uint8]]:
    """Write a scene tile by tile: fields of three covers whose spectra vary; return profile and pixels of its labels."""
    rng = np.random.default_rng(bands)
    period = 256
    rough = rng.integers(0, 3, (period // _FIELD,) * 2).repeat(_FIELD, 0).repeat(_FIELD, 1)
    covers = rng.uniform(500, 3000, (3, bands)).astype(np.float32)
    square = covers[rough].transpose(2, 0, 1) + rng.normal(0, 120, (bands, period, period)).astype(np.float32)
    square = np.roll(square.round().astype(np.int16), (-offset[0], -offset[1]), (1, 2))
    profile = {
        "driver": "GTiff", "count": bands, "height": side, "width": side, "dtype": "int16", "nodata": -32768, "crs": "EPSG:32633",
        "transform": Affine(10.0, 0.0, 4e5 + 10 * offset[1], 0.0, -10.0, 5.8e6 - 10 * offset[0]), "tiled": True,
        "blockxsize": 256, "blockysize": 256, "bigtiff": "IF_SAFER",
        "interleave": "pixel" if bands < 10 else "band",
    }  # fmt: skip
    if packed:
        profile |= {"compress": "DEFLATE", "zlevel": 1}
    strip = np.tile(square, (1, 1, -(-side // period)))[:, :, :side]
    with rasterio.Env(GDAL_CACHEMAX=256 * 2**20), rasterio.open(path, "w", **profile) as dst:
        for row in range(0, side, period):
            height = min(period, side - row)
            dst.write(strip[:, :height], window=Window(0, row, side, height))
    labels = np.tile(rough + 1, (-(-side // period),) * 2)[:side, :side].astype(np.uint8)
    return profile | {"count": 1, "dtype": "uint8", "nodata": 0}, labels


def command(*arguments: object) -> list[str]:
    """Return the command line of geovit."""
    return [sys.executable, "-m", "geovit", *map(str, arguments)]


# What the kernel tells of a child counts this process, too, from which it was forked: the child tells of itself.
_TELLING = """import sys, torch
from geovit.apps.cli import main
from geovit.core.memory import peak_bytes
code = main(sys.argv[1:])
print(peak_bytes(torch.device("cpu")))
sys.exit(code)"""


def measured(*arguments: object, threads: int | None = None) -> int:
    """Run geovit in a process of its own; return the largest resident set of that in bytes."""
    told = subprocess.run(
        [sys.executable, "-c", _TELLING, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tempfile.gettempdir(),
        env=None if threads is None else os.environ | {"OMP_NUM_THREADS": str(threads)},
        check=True,
    )
    return int(told.stdout.split()[-1])


def classified(made: Made, out: Path, *options: object) -> tuple[int, dict[str, object]]:
    """Map a scene by the command; return the peak of its memory and its report."""
    peak = measured("classify", made.path, "--model", made.model, "--out", out, "--overwrite", "--max-memory", 2, *options)
    return peak, json.loads((out / f"{made.path.stem}_report.json").read_text())


@cache
def whole_scene(made: Made) -> tuple[int, dict[str, object]]:
    """Map a scene once for all that is measured of it."""
    return classified(made, made.folder / "whole")


def prepared(folder: Path, name: str, side: int, bands: int, packed: bool, *recipe: object) -> Made:
    """Make a scene, and fit a model to a piece of it: of the small recipe, or as the options given say."""
    stem = name.replace(", ", "_").replace(" ", "_")
    path, piece = folder / f"{stem}.tif", folder / f"{stem}_piece.tif"
    write_scene(path, side, bands, packed=packed)
    profile, covers = write_scene(piece, min(_PIECE, side), bands)
    labels = piece.with_name(f"{piece.stem}_labels.tif")
    with rasterio.open(labels, "w", **profile) as dst:
        dst.write(covers, 1)
    small = folder / "recipe.yaml"
    small.write_text(RECIPE.replace("COMPONENTS", "3" if bands < 12 else "12"))
    measured("fit", "hyperspectral", piece, labels, *(recipe or ("--recipe", small)), "--out", folder, "--overwrite")
    return Made(name, path, folder / f"{piece.stem}_model.safetensors", folder, side)


def job_of(made: Made) -> tuple[MapJob, Plan, dict[str, object]]:
    """Return what the command carries out for a scene, with parts of 1024 pixels or fewer, and its layers."""
    scene = open_scene(str(made.path))
    target = Target(scene=scene, wanted=Wanted.all_of(scene), device=torch.device("cpu"), precision=torch.float32)
    approach = by_model(target, made.model, base=None, encoder=None)
    job, _ = approach.prepare(lambda name: made.folder / name)
    side = min(1024 // job.cell * job.cell or job.cell, approach.cost.largest)
    plan = plan_of(scene.grid.shape, target.wanted.area, side=side, cell=job.cell, halo=approach.halo)
    layers = layers_of({MAP: made.folder / "alone.tif"}, scene.grid, approach.classes)
    return job, plan, layers


def memory(scenes: Sequence[Made]) -> Iterator[Row]:
    """Peaks of a quarter and of the whole."""
    for made in scenes[:2]:
        half = made.side // 2
        bounds = f"400000,{5_800_000 - 10 * half},{400_000 + 10 * half},5800000"
        quarter, _ = classified(made, made.folder / "quarter", "--bounds", bounds)
        whole, _ = whole_scene(made)
        yield Row(f"{made.name}: peak, whole scene", f"{whole / _GIB:.2f} GiB", "< 2 GiB", whole < 2 * _GIB)
        ratio = whole / quarter
        yield Row(
            f"{made.name}: peak, whole to quarter ({quarter / _GIB:.2f} GiB)", f"{ratio:.3f}", "0.9 to 1.1", 0.9 <= ratio <= 1.1
        )


def throughput(scenes: Sequence[Made]) -> Iterator[Row]:
    """The command beside its stages alone."""
    threads = torch.get_num_threads()
    for made in scenes:
        _, report = whole_scene(made)
        pixels = made.side**2
        whole = pixels / float(str(report["map_seconds"]))
        job, plan, layers = job_of(made)
        worker = job.open()
        chosen = [plan.part(len(plan) * k // 8) for k in range(min(8, len(plan)))]
        started = time.perf_counter()
        read = [(part, worker.read(part)) for part in chosen]
        reading = sum(_pixels(part) for part in chosen) / (time.perf_counter() - started)
        with one_thread_each(), ThreadPoolExecutor(threads) as pool:
            parts, data = zip(*read * 2, strict=True)
            list(pool.map(worker.compute, data[:threads], parts))  # what is made once
            started = time.perf_counter()
            told = list(pool.map(worker.compute, data, parts))
            alone = 2 * sum(_pixels(part) for part in chosen) / (time.perf_counter() - started)
        written = len(plan)
        with GrowingRasters.open(made.folder / ".alone", layers, job={}, parts=written, overwrite=True) as rasters:
            started = time.perf_counter()
            for part in plan:
                area, (rows, columns) = plan.place(part)
                values = np.resize(told[0], (len(told[0]), rows.stop, columns.stop))[:, rows, columns]
                rasters.write(part.index, area, worker.finish(values, area))
            rasters.translate()
            writing = pixels / (time.perf_counter() - started)
            rasters.publish()
        share = whole / alone
        yield Row(f"{made.name}: model alone, {threads} threads", f"{alone / 1e6:.3f} Mpixel/s")
        yield Row(f"{made.name}: reading alone", f"{reading / 1e6:.2f} Mpixel/s")
        yield Row(f"{made.name}: writing alone, to the last file", f"{writing / 1e6:.2f} Mpixel/s")
        yield Row(
            f"{made.name}: the command", f"{whole / 1e6:.3f} Mpixel/s, {share:.1%} of the model alone", ">= 85%", share >= 0.85
        )


def _pixels(part: object) -> int:
    rows, columns = part.rows, part.columns  # type: ignore[attr-defined]
    return (rows.last - rows.first) * (columns.last - columns.first)


def mapped(job: MapJob, plan: Plan, layers: dict[str, object], folder: Path) -> NDArray[np.uint8]:
    """Carry a job out in this process."""
    with GrowingRasters.open(folder / ".mapped", layers, job={}, parts=len(plan), overwrite=True) as rasters:
        run(plan, job, rasters, threads=torch.get_num_threads())
        return rasters.read(MAP, 0, 0, *plan.shape)[0]


def shifts(scenes: Sequence[Made]) -> Iterator[Row]:
    """What cells, parts and the origin of the file change, on a piece of 1536 pixels."""
    made = scenes[0]
    side = min(1536, made.side)
    small = replace(made, path=made.folder / "small.tif", side=side)
    write_scene(small.path, side, 4)
    job, plan, layers = job_of(small)
    expected = mapped(job, plan, layers, made.folder)
    teller = job.open().teller
    window = teller.window
    for size in (256, 384, 512):
        size = max(size // window * window, window)
        other = mapped(replace(job, cell=size), replace(plan, side=4 * size, multiple=size), layers, made.folder)
        different = int((other != expected).sum())
        yield Row(f"cells of {size} against {job.cell}: pixels that differ of {side**2:,}", f"{different:,}", "0", different == 0)
    parts = mapped(job, replace(plan, side=job.cell), layers, made.folder)
    different = int((parts != expected).sum())
    yield Row(f"parts of {job.cell} against {plan.side}: pixels that differ", f"{different:,}", "0", different == 0)
    for offset, bar in (((16 * window, 24 * window), "0"), ((37, 53), "stated")):
        moved = replace(small, path=made.folder / "moved.tif", side=side)
        write_scene(moved.path, side, 4, offset=offset)
        shifted_job, shifted_plan, shifted_layers = job_of(moved)
        shifted = mapped(shifted_job, shifted_plan, shifted_layers, made.folder)
        inner = expected[offset[0] + 64 : -64, offset[1] + 64 : -64]
        other = shifted[64 : 64 + inner.shape[0], 64 : 64 + inner.shape[1]]
        share = float((inner != other).mean())
        whole_windows = bar == "0"
        what = "whole windows" if whole_windows else "pixels, so that windows lie elsewhere"
        yield Row(
            f"file begins {offset} {what} on: pixels that differ", f"{share:.4%}", bar, share == 0 if whole_windows else None
        )
    # Cells meet amid fields: there, and amid all other fields, classes change where the network errs alone.
    amid = np.arange(_FIELD // 2, side, _FIELD)
    meet = (amid + lead_of(job.cell, teller.halo)) % job.cell == 0
    changes = (expected[:, amid] != expected[:, amid - 1]).mean(0)
    at, elsewhere = changes[meet], changes[~meet]
    if at.size:
        away = abs(at.mean() - elsewhere.mean()) / max(float(elsewhere.std()), 1 / side)
        told = f"{at.mean():.5f}, {elsewhere.mean():.5f} ({away:.1f} deviations of a column)"
        yield Row("neighbours of two classes where cells meet, and at like places elsewhere", told, "< 3", bool(away < 3))


def _digests(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.glob("*.tif"))}


def kills(scenes: Sequence[Made], count: int = 20) -> Iterator[Row]:
    """Twenty kills of the command on a piece of the first scene."""
    made = scenes[0]
    side = min(3072, made.side)
    small = replace(made, path=made.folder / "killed.tif", side=side)
    write_scene(small.path, side, 4)
    whole = made.folder / "unkilled"
    started = time.perf_counter()
    classified(small, whole, "--probabilities")
    length, expected = time.perf_counter() - started, _digests(whole)
    chance, killed, runs, same, broken = random.Random(0), 0, 0, 0, 0
    while killed < count:
        out = made.folder / f"killed_{runs}"
        options = command("classify", small.path, "--model", small.model, "--out", out, "--probabilities", "--resume")
        runs += 1
        while True:
            child = subprocess.Popen(options, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tempfile.gettempdir())
            try:
                child.wait(chance.uniform(0, length) if killed < count else None)
                break
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
                child.wait()
                killed += 1
            broken += any(expected[name] != digest for name, digest in _digests(out).items())
        same += _digests(out) == expected
    yield Row(f"runs that ended with the same bytes, after {killed} kills", f"{same} of {runs}", "all", same == runs)
    yield Row("kills that left another file under a final name", str(broken), "0", broken == 0)


def dask(scenes: Sequence[Made]) -> Iterator[Row]:
    """Workers, and one that is killed."""
    made = scenes[0]
    side = min(6144, made.side)
    small = replace(made, path=made.folder / "dasked.tif", side=side)
    write_scene(small.path, side, 4)
    classified(small, made.folder / "local")
    expected = _digests(made.folder / "local")
    seconds = {}
    for workers in (1, 2):
        _, report = classified(small, made.folder / f"dask{workers}", "--dask", f"local:{workers}")
        seconds[workers] = float(str(report["map_seconds"]))
        same = _digests(made.folder / f"dask{workers}") == expected
        yield Row(f"bytes of {workers} workers are those of one process", "yes" if same else "no", "yes", same)
    ratio = seconds[1] / seconds[2]
    told = f"{ratio:.2f} ({seconds[1]:.1f} s, {seconds[2]:.1f} s, the start of the workers included)"
    yield Row("throughput of 2 workers to that of 1", told, ">= 1.6", ratio >= 1.6)
    out = made.folder / "dask3"
    options = command("classify", small.path, "--model", small.model, "--out", out, "--dask", "local:3")
    child = subprocess.Popen(options, stdout=subprocess.DEVNULL, cwd=tempfile.gettempdir())
    journal = out / f".{small.path.stem}_classes.tif.unfinished" / "journal"
    killed = False
    while child.poll() is None and not (journal.is_file() and b'"part":1,' in journal.read_bytes()):
        time.sleep(0.05)
    # A worker is what computes: of the processes below, one of those that took the most time.
    with suppress(psutil.NoSuchProcess):  # too small a scene is mapped by now
        below = sorted(psutil.Process(child.pid).children(recursive=True), key=lambda one: one.cpu_times().user)
        below[-1].kill()
        killed = True
    same = child.wait() == 0 and _digests(out) == expected
    what = "3 workers, one killed in the middle: the same bytes"
    yield Row(what, "yes" if same and killed else "no" if killed else "none was killed", "yes", same and killed)


def sizing(scenes: Sequence[Made], runs: int = 3) -> Iterator[Row]:
    """The default network in one thread, median of runs: what docs/scaling.md divides by."""
    for bands, side in ((10, 1024), (200, 512)):
        untrained = "--recipe.training.steps", 20
        made = prepared(scenes[0].folder, f"sizing {bands}", side, bands, False, *untrained)
        taken = []
        for _ in range(runs):
            measured("classify", made.path, "--model", made.model, "--out", made.folder / "sized", "--overwrite", threads=1)
            report = json.loads((made.folder / "sized" / f"{made.path.stem}_report.json").read_text())
            taken.append(float(report["map_seconds"]))
        told = f"{side**2 / statistics.median(taken):,.0f} ({side**2 / max(taken):,.0f} to {side**2 / min(taken):,.0f})"
        yield Row(f"default network, {side} x {side} x {bands}: pixels a second and core", told)


def page(rows: dict[str, list[Row]], head: str) -> str:
    """Return the page as Markdown."""
    lines = ["# Scenes larger than memory", "", head]
    for name, found in rows.items():
        lines += ["", f"## {name}", "", "| what | figure | bar | met |", "|---|---|---|---|", *map(str, found)]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Measure; return 1 if a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--scale", type=float, default=1.0, help="of the sides of the scenes")
    parser.add_argument("--folder", type=Path, help="to work in; default: that of the system")
    parser.add_argument("--out", type=Path, help="default: results/scenes.md, beside this file, if all is measured in full size")
    args = parser.parse_args(arguments)
    logging.getLogger("geovit").setLevel(logging.ERROR)  # runs in this process are left unfinished on purpose
    measure = {"memory": memory, "throughput": throughput, "shifts": shifts, "kills": kills, "dask": dask, "sizing": sizing}
    rows: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory(prefix="scenes_", dir=args.folder) as folder:
        sizes = [("four", round(20_000 * args.scale), 4, True)]
        if {"memory", "throughput"} & set(args.only):
            sizes.append(("many", round(4_000 * args.scale), 200, False))
        if "throughput" in args.only:
            sizes.append(("many, packed", round(2_000 * args.scale), 200, True))
        scenes = [prepared(Path(folder), *size) for size in sizes]
        for name in args.only:
            rows[name] = []
            for row in measure[name](scenes):
                rows[name].append(row)
                print(row, flush=True)
    told = ", ".join(f"{side:,} x {side:,} x {bands}{' compressed' * packed}" for _, side, bands, packed in sizes)
    head = f"Made by `python benchmarks/scenes.py`: {machine(torch.device('cpu'))}. Scenes: {told}."
    full = tuple(args.only) == PARTS and args.scale == 1
    if args.out or full:
        (args.out or HERE / "results" / "scenes.md").write_text(page(rows, head), encoding="utf-8")
    return int(any(row.met is False for found in rows.values() for row in found))


if __name__ == "__main__":
    sys.exit(main())
