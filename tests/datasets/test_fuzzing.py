"""Damaged files end in a result or in one line of error: some here, two thousand by ``make fuzz``. See ``fuzzing/run.py``."""

import json
import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).parent / "fuzzing" / "run.py"


def test_damaged_files_of_every_format():
    command = [sys.executable, RUN, "--cases", "90", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["cases"] == told["result"] + told["error"] == 90
