"""A small job through the engine. As a script it does one in a forked process for each line of JSON that it is given."""

import ctypes
import json
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from geovit.core.streaming.plan import Area, Plan
from geovit.core.streaming.run import Finished, run
from geovit.datasets import Grid
from geovit.datasets.growing import GrowingRasters, Layer

PLAN = Plan(image=(390, 410), area=Area(10, 20, 370, 380), side=128, overlap=32, fade=16, multiple=2)
GRID = Grid(*PLAN.shape, CRS.from_epsg(32633), Affine(10.0, 0.0, 4e5, 0.0, -10.0, 5.8e6))
IMAGE = np.random.default_rng(0).uniform(0, 3, (3, *PLAN.image)).astype(np.float32)
NAMES = ("classes.tif", "classes.tif.aux.xml", "shares.tif", "report.json")


def layers(folder):
    return {
        "classes": Layer(
            path=folder / "classes.tif", grid=GRID, bands=1, dtype="uint8", nodata=0,
            colors={0: (0, 0, 0, 0), 1: (9, 8, 7, 255)}, names={0: "no data", 1: "one", 2: "two", 3: "three"},
        ),
        "shares": Layer(
            path=folder / "shares.tif", grid=GRID, bands=3, dtype="float16", nodata=float("nan"),
            descriptions=["a", "b", "c"], overviews="average",
        ),
    }  # fmt: skip


@dataclass
class Job:
    """Shares of three classes; a part that ``stops_at`` fails."""

    pause: float = 0.0
    stops_at: int = -1
    error: type[BaseException] = OSError

    def open(self):
        return self

    def read(self, part):
        if part.index == self.stops_at and self.error is OSError:
            raise self.error("cannot read the scene")
        rows, columns = part.rows, part.columns
        return IMAGE[:, rows.first : rows.last, columns.first : columns.last]

    def compute(self, data, part):
        if part.index == self.stops_at:
            raise self.error
        time.sleep(self.pause)
        return np.exp(data) / np.exp(data).sum(0)

    def finish(self, values, area):
        classes = values.argmax(0)[None] + 1
        return Finished({"classes": classes, "shares": values}, {"mean": float(values.mean())})


def carry_out(folder, job=None, *, settings=None, **options):
    """The whole run, as commands have it."""
    others = {"report": folder / "report.json"}
    known = {"model": "sha256", "size": 0.1, **(settings or {})}
    with GrowingRasters.open(
        folder / ".classes.tif.unfinished", layers(folder), others=others, job=known, parts=len(PLAN), **options
    ) as rasters:
        run(PLAN, job or Job(), rasters)
        rasters.translate()
        rasters.other("report").write_text(json.dumps([fact["mean"] for fact in rasters.facts]))
        rasters.publish()


def results(folder):
    """All that lies there; folders as None."""
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


def _die_at(step):
    """Kill this process before the file system is changed for that time by anything but writing."""
    left = step

    def audit(event, _):
        nonlocal left
        if event in {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


def _tell(*what):
    os.write(1, (json.dumps(what) + "\n").encode())  # whole, beside those of other processes


def _child(order):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: not left behind if the test is stopped
    if order.get("bytes"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["bytes"], order["bytes"]))
    if order.get("step"):
        _die_at(order["step"])
    try:
        carry_out(Path(order["folder"]), Job(order.get("pause", 0.0)), resume=True)
    except Exception as error:  # noqa: BLE001 - told to the test
        _tell("error", type(error).__name__, str(error))
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            _child(json.loads(line))
        _tell("started", process)
        _tell("ended", os.waitpid(process, 0)[1])
