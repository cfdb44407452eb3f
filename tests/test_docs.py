"""What the documentation tells users to run can be run."""

import importlib
import inspect
import re
import subprocess
from pathlib import Path

import pytest
from distributed.cli import dask_scheduler, dask_worker

from geovit.apps.cli import COMMANDS
from geovit.core.training.hardware import HardwareConfig

DOCS = Path(__file__).parents[1] / "docs"
SCRIPTS = sorted(DOCS.glob("*.sh"))
PAGES = [*SCRIPTS, DOCS / "scaling.md"]


def called(page: Path, program: str) -> list[str]:
    """The lines in which a program is called, continued lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if re.match(rf"( {{4}}|srun )?{program} ", line)]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash(script):
    assert script.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_have_the_options_that_are_shown(page):
    lines = called(page, "geovit")
    assert lines
    for line in lines:
        module, _, name = COMMANDS[line.split("geovit ")[1].split()[0]].target.partition(":")
        parameters = inspect.signature(getattr(importlib.import_module(module, "geovit.apps"), name)).parameters
        for option in re.findall(r" --([a-z_.-]+)", line):
            own, _, of_hardware = option.replace("-", "_").partition(".")
            assert own in parameters, option
            assert not of_hardware or own != "hardware" or of_hardware in HardwareConfig.__dataclass_fields__, option


@pytest.mark.parametrize("kind", ["worker", "scheduler"])
def test_dask_has_the_options_that_are_shown(kind):
    known = {option for parameter in {"worker": dask_worker, "scheduler": dask_scheduler}[kind].main.params
             for option in [*parameter.opts, *parameter.secondary_opts]}  # fmt: skip
    lines = [line for page in PAGES for line in called(page, f"dask {kind}")]
    assert len(lines) == 2
    for line in lines:
        assert set(re.findall(r" (--[a-z-]+)", line.partition("#")[0])) <= known


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (DOCS / "scaling.md").read_text(encoding="utf-8")):
        assert (DOCS / target).exists() or target == "../benchmarks/results/scenes.md", target
