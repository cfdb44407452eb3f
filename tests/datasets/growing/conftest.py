"""The job of ``runs.py``, here and in processes that can be killed."""

import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

RUNS = Path(__file__).with_name("runs.py")


@pytest.fixture(scope="session")
def runs():
    spec = importlib.util.spec_from_file_location("runs_of_growing_rasters", RUNS)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def whole(runs, tmp_path_factory):
    """What an uninterrupted run writes."""
    folder = tmp_path_factory.mktemp("whole")
    runs.carry_out(folder)
    return runs.results(folder)


class Processes:
    """Runs in processes of their own, quick to start."""

    def __init__(self):
        self.server = subprocess.Popen(
            [sys.executable, str(RUNS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # so that select sees all that has come
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def run(self, folder, *, kill_after=None, **order):
        """Return how it ended: 0, the signal, or what the error said; the second is how long it took."""
        self.server.stdin.write(json.dumps({"folder": str(folder), **order}).encode() + b"\n")
        process, error = None, None
        started = time.monotonic()
        while True:
            kind, *told = json.loads(self.server.stdout.readline())
            if kind == "started":
                process = told[0]
                if kill_after is not None:
                    select.select([self.server.stdout], [], [], kill_after)
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
            elif kind == "error":
                error = told
            else:
                return error or os.waitstatus_to_exitcode(told[0]), time.monotonic() - started

    def close(self):
        self.server.stdin.close()
        self.server.stdout.close()
        self.server.wait()


@pytest.fixture(scope="module")
def processes():
    served = Processes()
    yield served
    served.close()
