import itertools
import re

import pytest
import torch

from geovit.apps import bench as module
from geovit.apps.bench import bench, medians
from geovit.apps.op_cases import OPS, Op

NUMBER = r"\d+\.\d+(?:e[+-]\d+)?"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    few = {name: Op(op.choose_backend, op.small, [op.small]) for name, op in OPS.items() if name in ("swiglu", "ssd")}
    monkeypatch.setattr(module, "OPS", few)


def rows(text: str) -> dict[tuple[str, str, str], list[float]]:
    """Numbers of each line by op, dtype and backend."""
    found, op, dtype = {}, "", ""
    for line in text.splitlines():
        op = line.partition(";")[0] if line.endswith("times in ms") else op
        dtype = next((name for name in ("float32", "bfloat16") if line.startswith(name)), dtype)
        match = re.search(rf"\b(eager|native)\s+({NUMBER}.*)", line)
        if match:
            found[op, dtype, match[1]] = [float(number) for number in re.findall(NUMBER, match[2])]
    return found


def test_every_backend_is_timed_with_its_error(capsys):
    assert bench(seconds=0.001, device="cpu") == 0
    told = capsys.readouterr().out
    assert f"torch {torch.__version__}" in told
    measured = rows(told)
    expected = set()
    for (name, op), dtype in itertools.product(module.OPS.items(), (torch.float32, torch.bfloat16)):
        chosen, _ = op.choose_backend(torch.device("cpu"), dtype)
        expected |= {(name, str(dtype).removeprefix("torch."), backend) for backend in ("eager", chosen)}
    assert measured.keys() == expected
    for (_, dtype, _), numbers in measured.items():
        assert len(numbers) in (3, 5)  # the eager form has no ratios
        assert 0 < numbers[-1] < (1e-5 if dtype == "float32" else 0.05)


def test_the_error_of_a_wrong_backend_shows(capsys, monkeypatch):
    op = OPS["swiglu"]

    class Wrong(type(op.small)):
        def outputs(self, inputs, backend):
            right = super().outputs(inputs, backend)
            return [-x for x in right] if backend == "other" else right

    wrong = Op(
        lambda device, dtype: ("other", ""), op.small, [Wrong(op.small.size, op.small.shapes, lambda g, v, backend: g * v)]
    )
    monkeypatch.setattr(module, "OPS", {"swiglu": wrong})
    monkeypatch.setattr(module, "_DTYPES", (torch.float32,))
    bench(seconds=0.001, device="cpu")
    told = capsys.readouterr().out
    (eager,) = re.findall(rf"eager\s+{NUMBER}\s+{NUMBER}\s+({NUMBER})", told)
    (other,) = re.findall(rf"other(?:\s+{NUMBER}){{4}}\s+({NUMBER})", told)
    assert float(eager) < 1e-6
    assert float(other) == pytest.approx(2)


def test_threads_are_those_asked_for_and_then_as_before(capsys):
    before = torch.get_num_threads()
    bench(threads=before + 1, seconds=0.001, device="cpu")
    assert f"{before + 1} threads" in capsys.readouterr().out
    assert torch.get_num_threads() == before


def test_threads_are_as_before_after_an_error(monkeypatch):
    before = torch.get_num_threads()

    def fail(*_):
        raise RuntimeError("no luck")

    monkeypatch.setattr(module, "_add_rows", fail)
    with pytest.raises(RuntimeError, match="no luck"):
        bench(threads=before + 1, seconds=0.001)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("wrong", [{"threads": -1}, {"seconds": 0.0}, {"seconds": float("nan")}, {"device": "abacus"}])
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="-1|0.0|nan|abacus"):
        bench(**wrong)


def test_calls_take_turns_a_few_times_at_least():
    order = []
    taken = medians([lambda: order.append("a"), lambda: order.append("b")], 1e-9, torch.device("cpu"))
    assert "".join(order) == "ab" * (len(order) // 2)
    assert len(order) >= 12
    assert len(taken) == 2
    assert min(taken) >= 0
