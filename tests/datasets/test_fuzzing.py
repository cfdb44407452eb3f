"""Damaged files end in a result or in one line of error: some cases here, all of them by ``-m slow``. See ``fuzzing/run.py``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parent / "fuzzing" / "run.py"


def run(*options):
    done = subprocess.run([sys.executable, RUN, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_damaged_files_of_every_format():
    told = run("--cases", "90", "--seed", "1", "--no-models")
    assert told["cases"] == told["result"] + told["error"] == 90


@pytest.mark.slow
def test_two_thousand_damaged_files():
    told = run("--cases", "2000")
    assert told["cases"] == told["result"] + told["error"] == 2000
