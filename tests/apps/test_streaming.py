import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.crs import CRS
from rich.console import Console

from geovit.apps.forecasting import forecast
from geovit.apps.streaming import RunOptions, carried_out, compute_threads, largest_side
from geovit.core.streaming.plan import Area, Part, Plan
from geovit.core.streaming.run import Finished
from geovit.datasets import Grid
from geovit.datasets.growing import GrowingRasters, Layer, UnfinishedRunError

PLAN = Plan(image=(300, 400), area=Area(0, 0, 300, 400), side=128, overlap=16, fade=8, multiple=8)
GRID = Grid(300, 400, CRS.from_epsg(32632), Affine(10, 0, 500000, 0, -10, 5300000))


@dataclass(frozen=True)
class Ramp:
    """Writes what follows from a pixel's place alone; one part may fail."""

    failing: int = -1
    error: type[BaseException] = OSError

    def open(self) -> "Ramp":
        return self

    def read(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        if part.index == self.failing:
            raise self.error("the disk is gone")
        return np.arange(part.rows.first, part.rows.last), np.arange(part.columns.first, part.columns.last)

    def compute(self, data: tuple[np.ndarray, np.ndarray], part: Part) -> np.ndarray:
        rows, columns = data
        return (rows[None, :, None] + columns / 1000).astype(np.float32)

    def finish(self, values: np.ndarray, area: Area) -> Finished:
        return Finished({"ramp": values}, {"pixels": area.height * area.width})


def layers(tmp_path: Path) -> dict[str, Layer]:
    return {"ramp": Layer(path=tmp_path / "ramp.tif", grid=GRID, bands=1, dtype="float32", nodata=-1)}


def shown(forecast: object) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(forecast)
    return console.file.getvalue()


def options(tmp_path: Path) -> dict:
    return {"folder": tmp_path / ".ramp.unfinished", "identity": {"scene": "a"}, "others": {"report": tmp_path / "report.json"}}


def carry_out(tmp_path: Path, job: Ramp, *, threads: int = 1, label: str = "", **how: object) -> None:
    told = {**options(tmp_path), "how": RunOptions(**how), "threads": threads, "label": label}
    with carried_out(PLAN, job, layers(tmp_path), **told) as rasters:
        report = {"pixels": sum(facts["pixels"] for facts in rasters.facts)}
        rasters.other("report").write_text(json.dumps(report), encoding="utf-8")


def test_results_appear_together(tmp_path):
    carry_out(tmp_path, Ramp())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ramp.tif", "report.json"]
    assert json.loads((tmp_path / "report.json").read_text()) == {"pixels": 300 * 400}
    with rasterio.open(tmp_path / "ramp.tif") as found:
        np.testing.assert_allclose(found.read(1), np.arange(300)[:, None] + np.arange(400) / 1000, rtol=1e-6)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_run_that_stopped_says_how_to_go_on_and_ends_in_the_same_bytes(tmp_path, caplog, error):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    stopped.mkdir()
    carry_out(whole, Ramp())
    with pytest.raises(error, match="the disk is gone"):
        carry_out(stopped, Ramp(failing=7, error=error))
    assert "7 of 12 parts are done and kept" in caplog.text
    assert "--resume goes on" in caplog.text
    assert [path.name for path in stopped.iterdir()] == [".ramp.unfinished"]
    with pytest.raises(UnfinishedRunError):
        carry_out(stopped, Ramp())
    carry_out(stopped, Ramp(), resume=True, threads=2)
    assert (stopped / "ramp.tif").read_bytes() == (whole / "ramp.tif").read_bytes()


def test_a_run_that_finished_nothing_leaves_nothing(tmp_path, caplog):
    with pytest.raises(OSError, match="the disk is gone"):
        carry_out(tmp_path, Ramp(failing=0))
    assert not list(tmp_path.iterdir())
    assert "resume" not in caplog.text


def test_the_bar_is_on_standard_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal: elsewhere rich draws no bar that is to go at the end
    carry_out(tmp_path, Ramp(), progress=True, label="mapping [x]")
    out, err = capsys.readouterr()
    assert not out
    assert "mapping [x] parts" in err


def test_a_forecast_writes_nothing_and_says_so(tmp_path):
    found = forecast(PLAN, Ramp(), layers(tmp_path), memory=3e9)
    assert not list(tmp_path.iterdir())
    assert (found.parts, found.side) == (12, 128)
    assert found.memory >= 3e9
    assert 0 < found.seconds < 60
    assert 300 * 400 * 4 < found.work_bytes <= 300 * 400 * 4 + found.result_bytes + 1
    assert 0 < found.result_bytes < 300 * 400 * 4 * 4 / 3
    assert "nothing was written" in shown(found)
    assert "12, each up to 128 x 128" in shown(found)


def test_a_forecast_looks_for_a_part_with_data(tmp_path):
    @dataclass(frozen=True)
    class Edge(Ramp):
        def compute(self, data: tuple[np.ndarray, np.ndarray], part: Part) -> np.ndarray:
            values = super().compute(data, part)
            return np.where(part.index == 0, values, np.float32(np.nan))

    empty, edge = (forecast(PLAN, job, layers(tmp_path), memory=0) for job in (Edge(), Ramp()))
    assert empty.result_bytes == pytest.approx(edge.result_bytes, rel=0.5)


def test_more_at_once_take_less_time(tmp_path):
    @dataclass(frozen=True)
    class Slow(Ramp):
        def read(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
            import time

            time.sleep(0.05)
            return super().read(part)

    one, four = (forecast(PLAN, Slow(), layers(tmp_path), memory=0, dask=f"local:{n}") for n in (1, 4))
    assert four.seconds < 0.5 * one.seconds


def test_the_side_follows_memory():
    sides = {"multiple": 24, "largest": 1000}
    assert largest_side(lambda side: 0, max_memory=None, **sides) == 984
    assert largest_side(lambda side: 0, max_memory=None, preferred=240, **sides) == 960
    allowed = largest_side(lambda side: side * 1e7, max_memory=5, **sides)
    assert 240 < allowed < 500
    assert largest_side(lambda side: side * 1e7, max_memory=5, preferred=240, **sides) == 240
    assert largest_side(lambda side: side * 1e7, max_memory=5, preferred=960, **sides) == pytest.approx(allowed, abs=24)
    with pytest.raises(ValueError, match="parts of 24 pixels, the smallest possible, need .* GB; allowed are 1.00 GB"):
        largest_side(lambda side: 1e12, max_memory=1, **sides)
    with pytest.raises(ValueError, match="max_memory is -1"):
        largest_side(lambda side: 0, max_memory=-1, **sides)


def test_a_run_goes_on_with_the_side_it_had(tmp_path):
    with pytest.raises(OSError, match="the disk is gone"):
        carry_out(tmp_path, Ramp(failing=3))
    folder = options(tmp_path)["folder"]
    assert GrowingRasters.unfinished(folder)["side"] == 128
    sides = {"max_memory": None, "multiple": 8, "largest": 1000}
    assert largest_side(lambda side: 0, **sides, unfinished=folder) == 128
    assert largest_side(lambda side: 0, **sides, unfinished=tmp_path / "none") == 1000


def test_threads_follow_memory():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        cpu = torch.device("cpu")
        assert compute_threads(cpu, lambda count: 0, max_memory=4) == 4
        assert compute_threads(cpu, lambda count: (count > 2) * 1e12, max_memory=4) == 2
        assert compute_threads(cpu, lambda count: 1e12, max_memory=4) == 1
        assert compute_threads(torch.device("meta"), lambda count: 0, max_memory=4) == 1
    finally:
        torch.set_num_threads(before)
