"""Reading, computing and writing at the same time: what overlaps, what is held, and how all of it stops."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from geovit.core.streaming.plan import Area, Plan
from geovit.core.streaming.run import Finished, run

PLAN = Plan(image=(8, 160), area=Area(0, 0, 8, 160), side=8, multiple=8)  # twenty parts


@dataclass
class Stages:
    """Notes when a part is read, computed, finished and written; a stage may do something of its own with a part."""

    on: dict[str, Callable[[int], None]] = field(default_factory=dict)
    seen: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in ("read", "compute", "finish", "write")})
    done: int = 0
    held: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self) -> "Stages":
        return self

    def _stage(self, name: str, index: int) -> None:
        self.on.get(name, lambda _: None)(index)
        with self.lock:
            self.seen[name].append(index)

    def read(self, part) -> int:
        with self.lock:
            self.held += 1
            self.most = max(self.most, self.held)
        self._stage("read", part.index)
        return part.index

    def compute(self, data: int, part) -> np.ndarray:
        assert data == part.index
        self._stage("compute", part.index)
        return np.full((1, 8, 8), data, np.float32)

    def finish(self, values: np.ndarray, area: Area) -> Finished:
        self._stage("finish", int(values[0, 0, 0]))
        return Finished({"part": values})

    def write(self, part: int, area: Area, finished: Finished) -> None:
        assert finished.arrays["part"][0, 0, 0] == part
        self._stage("write", part)
        with self.lock:
            self.held -= 1


def raising(error: BaseException, at: int) -> Callable[[int], None]:
    def stage(index: int) -> None:
        if index == at:
            raise error

    return stage


def only_these_threads(before: set[threading.Thread]) -> bool:
    return set(threading.enumerate()) <= before


@pytest.mark.parametrize("threads", [1, 3])
def test_all_parts_are_written_in_order(threads):
    stages = Stages({"compute": lambda index: time.sleep(0.01 * (index % 3))})
    run(PLAN, stages, stages, threads=threads)
    assert stages.seen["write"] == list(range(20))
    assert sorted(stages.seen["compute"]) == list(range(20))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("slow", ["read", "compute", "write"])
def test_few_parts_are_held(threads, slow):
    stages = Stages({slow: lambda index: time.sleep(0.01)})
    run(PLAN, stages, stages, threads=threads)
    # Read or computed, being handed on, and written.
    assert stages.most <= threads + 2 + 1 + 2


def test_stages_overlap():
    together, inside, lock = threading.Event(), set(), threading.Lock()

    def stay(name: str, first: int) -> Callable[[int], None]:
        """From that part on, stay in the stage until others are in the other two."""

        def until_together(index: int) -> None:
            if index >= first:
                with lock:
                    inside.add(name)
                    if len(inside) == 3:
                        together.set()
                assert together.wait(30), f"only {inside} at the same time"

        return until_together

    stages = Stages({"read": stay("read", 2), "compute": stay("compute", 1), "write": stay("write", 0)})
    run(PLAN, stages, stages)
    assert together.is_set()


def test_parts_are_computed_at_the_same_time():
    meeting = threading.Barrier(2, timeout=10)
    stages = Stages({"compute": lambda index: meeting.wait() and None})
    run(PLAN, stages, stages, threads=2)
    assert len(stages.seen["write"]) == 20


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", ["read", "compute", "finish", "write"])
def test_an_error_of_a_stage_stops_all(name, threads):
    before = set(threading.enumerate())
    stages = Stages({name: raising(OSError("no more"), 7)})
    with pytest.raises(OSError, match="no more"):
        run(PLAN, stages, stages, threads=threads)
    assert only_these_threads(before)
    assert stages.seen["write"] == list(range(7)), "what came before is kept, and nothing after it"
    assert max(stages.seen["read"]) <= 7 + threads + 2 + 1 + 2


def test_a_failed_write_is_noticed_while_another_part_is_computed():
    release = threading.Event()
    stages = Stages({"write": raising(OSError("full"), 0), "compute": lambda index: index > 2 and release.wait(0.5) and None})
    with pytest.raises(OSError, match="full"):
        run(PLAN, stages, stages)
    assert len(stages.seen["compute"]) <= 5


def test_an_interrupt_lets_the_writer_end():
    before = set(threading.enumerate())

    def tick(done: int, parts: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    stages = Stages({"write": lambda index: time.sleep(0.05)})
    with pytest.raises(KeyboardInterrupt):
        run(PLAN, stages, stages, tick=tick)
    assert stages.seen["write"] == list(range(5))
    assert only_these_threads(before)


def test_an_interrupt_stops_what_is_computed():
    stopped = threading.Event()

    class Long(Stages):
        def stop(self) -> None:
            stopped.set()

    def compute(index: int) -> None:
        if index == 1:
            assert stopped.wait(60)
            raise InterruptedError

    def tick(done: int, parts: int) -> None:
        raise KeyboardInterrupt

    stages = Long({"compute": compute})
    with pytest.raises(KeyboardInterrupt):
        run(PLAN, stages, stages, tick=tick)
    assert stages.seen["compute"] == stages.seen["write"] == [0]


def test_nothing_is_opened_when_all_is_done():
    class Shut(Stages):
        def open(self) -> "Stages":
            raise AssertionError

    run(PLAN, Shut(), Stages(done=20))


def test_a_part_is_computed_by_one_thread():
    before = torch.get_num_threads()
    seen = []
    stages = Stages({"compute": lambda index: seen.append(torch.get_num_threads())})
    try:
        torch.set_num_threads(3)
        run(PLAN, stages, stages, threads=2)
        assert set(seen) == {1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_results_do_not_depend_on_the_number_of_threads():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 256, 1), torch.nn.Conv2d(256, 256, 1), torch.nn.Conv2d(256, 3, 3, padding=1))
    plan = Plan(image=(64, 64), area=Area(0, 0, 64, 64), side=32, overlap=8, multiple=8, fade=8)
    found: dict[int, list[np.ndarray]] = {1: [], 2: [], 3: []}

    class Network(Stages):
        def compute(self, data: int, part) -> np.ndarray:
            used = plan.used(part)
            x = torch.sin(torch.arange(used.height * used.width, dtype=torch.float32) * (data + 1)).reshape(1, 1, used.height, -1)
            with torch.inference_mode():
                return network(x)[0].numpy()

        def finish(self, values: np.ndarray, area: Area) -> Finished:
            return Finished({"part": values})

    for count, arrays in found.items():

        class Kept(Stages):
            def write(self, part: int, area: Area, finished: Finished) -> None:
                arrays.append(finished.arrays["part"])  # noqa: B023 - used at once

        run(plan, Network(), Kept(), threads=count)
    for count in (2, 3):
        for one, other in zip(found[1], found[count], strict=True):
            np.testing.assert_array_equal(one, other)
