"""Parts computed by processes of a Dask cluster: the same bytes, whatever happens to a worker."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cloudpickle
import dask
import numpy as np
import psutil
import pytest
import torch
from distributed import LocalCluster

from geovit.core.streaming import cluster
from geovit.core.streaming.cluster import local_workers, run_on_cluster
from geovit.core.streaming.plan import Area, Plan
from geovit.core.streaming.run import Finished, run

WHOLE = {"image": (96, 128), "area": Area(0, 0, 96, 128), "side": 48, "overlap": 16, "multiple": 8}
PLANS = {"bounded": Plan(**WHOLE), "fading": Plan(**WHOLE, fade=8)}
PART = 5  # to which something happens

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests


@dataclass(frozen=True)
class Network:
    """A network whose products depend on how they are cut among threads; a file says what happened to the worker of a part."""

    plan: Plan
    deadly: str = ""
    error: str = ""
    opened: str = ""

    def open(self) -> "Network":
        if self.opened:
            Path(self.opened, str(os.getpid())).touch(exist_ok=False)
        torch.manual_seed(0)
        layers = torch.nn.Conv2d(2, 256, 1), torch.nn.Conv2d(256, 256, 1), torch.nn.Conv2d(256, 4, 3, padding=1)
        object.__setattr__(self, "network", torch.nn.Sequential(*layers))
        return self

    def read(self, part) -> torch.Tensor:
        if part.index == PART and self.deadly and Path(self.deadly).is_dir():
            while not Path(self.deadly, "before").is_file():  # else those before are lost, too, and the first of them is named
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGKILL)
        rows, columns = torch.arange(part.rows.start, part.rows.stop), torch.arange(part.columns.start, part.columns.stop)
        return torch.stack(torch.meshgrid(rows.sin(), columns.cos(), indexing="ij"))

    def compute(self, data: torch.Tensor, part) -> np.ndarray:
        if self.error and part.index == PART:
            raise OSError(self.error)
        if self.deadly and part.index == PART and not Path(self.deadly).is_file():
            Path(self.deadly).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        with torch.inference_mode():
            made = self.network(data[None])[0].softmax(0)
        rows, columns = part.rows, part.columns
        made = made[:, rows.first - rows.start : rows.last - rows.start, columns.first - columns.start :]
        return made[:, :, : columns.last - columns.first].numpy()

    def finish(self, values: np.ndarray, area: Area) -> Finished:
        classes = values.argmax(0)[None].astype(np.uint8)
        return Finished({"classes": classes, "probabilities": values}, {"counts": np.bincount(classes.ravel()).tolist()})


class Kept:
    """A sink that keeps everything."""

    def __init__(self, done: int = 0) -> None:
        self.done = done
        self.parts: list[tuple] = []

    def write(self, part: int, area: Area, finished: Finished) -> None:
        arrays = {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in finished.arrays.items()}
        self.parts.append((part, area, arrays, finished.facts))


def trackers() -> list[psutil.Process]:
    """What Python itself starts beside the first process and keeps to its end."""
    return [child for child in psutil.Process().children() if "resource_tracker" in " ".join(child.cmdline())]


def here(plan: Plan, done: int = 0) -> list[tuple]:
    kept = Kept(done)
    run(plan, Network(plan), kept, threads=2)
    return kept.parts


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two workers that somebody else has started, as on other machines."""
    folder = str(tmp_path_factory.mktemp("dask"))
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(
            n_workers=2, threads_per_worker=2, dashboard_address="127.0.0.1:0", local_directory=folder, silence_logs=50
        ) as other,
    ):
        yield other.scheduler_address


@pytest.mark.parametrize("name", PLANS)
def test_a_cluster_writes_the_same_bytes(scheduler, name, tmp_path):
    plan, kept, ticks = PLANS[name], Kept(), []
    run_on_cluster(plan, Network(plan, opened=str(tmp_path)), kept, scheduler, tick=lambda *done: ticks.append(done))
    assert kept.parts == here(plan)
    assert ticks == [(done + 1, len(plan)) for done in range(len(plan))]
    assert len(list(tmp_path.iterdir())) == 2 + (name == "fading"), "opened once in each process, and here to blend"


@pytest.mark.parametrize("name", PLANS)
def test_a_cluster_goes_on_with_what_was_begun_elsewhere(scheduler, name):
    plan, kept = PLANS[name], Kept(7)
    run_on_cluster(plan, Network(plan), kept, scheduler)
    assert kept.parts == here(plan, 7) == here(plan)[7:]


def test_an_error_of_a_part_is_raised_here_and_what_came_before_is_kept(scheduler):
    plan, kept = PLANS["bounded"], Kept()
    with pytest.raises(OSError, match="the file is gone"):
        run_on_cluster(plan, Network(plan, error="the file is gone"), kept, scheduler)
    assert [part for part, *_ in kept.parts] == list(range(PART))
    again = Kept()
    run_on_cluster(plan, Network(plan), again, scheduler)  # and the workers serve on
    assert again.parts == here(plan)


def test_an_error_of_writing_stops_the_run(scheduler):
    class Full(Kept):
        def write(self, part: int, area: Area, finished: Finished) -> None:
            if part == 2:
                raise OSError("disk full")
            super().write(part, area, finished)

    kept = Full()
    with pytest.raises(OSError, match="disk full"):
        run_on_cluster(PLANS["bounded"], Network(PLANS["bounded"]), kept, scheduler)
    assert [part for part, *_ in kept.parts] == [0, 1]


def test_workers_of_another_version_are_refused(scheduler, monkeypatch):
    monkeypatch.setattr(cluster, "version", lambda name: "99.0")
    with pytest.raises(ValueError, match=r"worker tcp://.* has geovit .*, expected 99.0 as here"):
        run_on_cluster(PLANS["bounded"], Network(PLANS["bounded"]), Kept(), scheduler)


def test_local_processes_lose_one_and_write_the_same_bytes(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    plan, kept, before, children = PLANS["bounded"], Kept(), set(threading.enumerate()), psutil.Process().children()
    killed = tmp_path / "killed"

    def wait(done: int, _: int) -> None:
        """Fetch nothing from the second part on until the worker is lost, with what it had made by then."""
        while done == 2 and not killed.is_file():
            time.sleep(0.05)
        time.sleep(done == 2)

    run_on_cluster(plan, Network(plan, deadly=str(killed)), kept, "local:2", tick=wait)
    assert killed.is_file()
    assert kept.parts == here(plan)
    assert [path.name for path in tmp_path.iterdir()] == ["killed"], "nothing else is left"
    assert capfd.readouterr() == ("", "")
    assert set(psutil.Process().children()) <= {*children, *trackers()}
    assert {thread.name.partition("_")[0] for thread in set(threading.enumerate()) - before} <= {
        "Dask-Offload",
        "Dask-Callback-Thread",
    }


def test_a_part_that_ends_its_workers_is_named(scheduler, tmp_path):
    plan, kept = PLANS["bounded"], Kept()

    def tick(done: int, _: int) -> None:
        if done == PART:
            (tmp_path / "before").touch()

    with pytest.raises(OSError, match="part 6 of 12, rows 32 to 80, columns 32 to 80, was lost with 1 workers"):
        run_on_cluster(plan, Network(plan, deadly=str(tmp_path)), kept, scheduler, tick=tick)
    assert [part for part, *_ in kept.parts] == list(range(PART))


def test_an_address_is_checked():
    assert local_workers("local:12") == 12
    assert local_workers("tcp://10.0.0.1:8786") is None
    for wrong in ("local", "local:0", "local:-1", "local:two", "host:8786", ""):
        with pytest.raises(ValueError, match="expected local:N"):
            local_workers(wrong)


def test_a_scheduler_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECTING", 0.5)
    with pytest.raises(OSError, match="tcp://127.0.0.1:9: no scheduler answers"):
        run_on_cluster(PLANS["bounded"], Network(PLANS["bounded"]), Kept(), "tcp://127.0.0.1:9")


def test_each_process_sees_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [cluster.gpu_of(index) for index in range(3)] == [{"CUDA_VISIBLE_DEVICES": name} for name in ("0", "1", "0")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7f")
    assert [cluster.gpu_of(index) for index in range(3)] == [{"CUDA_VISIBLE_DEVICES": name} for name in ("4", "GPU-7f", "4")]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cluster.gpu_of(1) == {}
