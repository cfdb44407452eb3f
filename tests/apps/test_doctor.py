import importlib.metadata

import pytest
import torch

from geovit.apps import doctor as module
from geovit.apps.doctor import doctor
from geovit.apps.op_cases import OPS, Op, OpCase
from geovit.core.native import native_status


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def test_a_sound_installation_is_told_so(capsys):
    assert doctor() == 0
    told = capsys.readouterr().out
    assert "All is well" in told
    assert native_status()[1] in told
    for name in ("geovit", "torch", "GDAL", *OPS, "hyperspectral", "restoration"):
        assert name in told


def test_a_wrong_op_fails_the_check(capsys, monkeypatch):
    def wrong(gate, value, backend):
        return gate * value if backend == "auto" else torch.sigmoid(gate) * gate * value

    op = OPS["swiglu"]
    monkeypatch.setitem(module.OPS, "swiglu", Op(op.choose_backend, OpCase("5", [(5,), (5,)], wrong)))
    assert doctor() == 1
    assert "Problem: swiglu on cpu is off by" in capsys.readouterr().out


def test_missing_extras_are_told_with_the_command(capsys, monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "scikit-learn":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(module, "version", version)
    assert doctor() == 0
    assert "lacks scikit-learn: pip install 'geovit[hyperspectral]'" in capsys.readouterr().out


def test_an_outdated_dependency_is_a_problem(capsys, monkeypatch):
    real = importlib.metadata.version
    monkeypatch.setattr(module, "version", lambda name: "2.9" if name == "torch" else real(name))
    assert doctor() == 1
    assert "Problem: geovit needs torch>=2.10 (is 2.9)" in capsys.readouterr().out
