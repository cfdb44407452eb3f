import re

import pytest
import torch

from geovit.apps import bench as module
from geovit.apps.bench import bench, medians
from geovit.core.native import native_status
from geovit.core.ops.local_attention import windows

NUMBER = r"\d+\.\d+(?:e[+-]\d+)?"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(module, "_SWIGLU", ((5, 7),))
    monkeypatch.setattr(module, "_ATTENTION", ((2, 8, 4, 2, 3), (3, 4, 2, 1, 5)))


def rows(text: str) -> dict[tuple[str, str], list[float]]:
    """Numbers of each line by dtype and backend; of several sizes the last one counts."""
    found, dtype = {}, ""
    for line in text.splitlines():
        dtype = next((name for name in ("float32", "bfloat16") if line.startswith(name)), dtype)
        match = re.search(rf"\b(plain|eager|native)\s+({NUMBER}.*)", line)
        if match:
            found[dtype, match[1]] = [float(number) for number in re.findall(NUMBER, match[2])]
    return found


def test_every_backend_is_timed_with_its_error(capsys):
    assert bench(seconds=0.001, device="cpu") == 0
    told = capsys.readouterr().out
    assert f"torch {torch.__version__}" in told
    backends = {"plain", "eager"} | ({"native"} if native_status()[0] else set())
    measured = rows(told)
    assert measured.keys() == {(dtype, backend) for dtype in ("float32", "bfloat16") for backend in backends}
    for (dtype, _), numbers in measured.items():
        assert len(numbers) in (3, 5)  # the first backend has no ratios
        assert 0 < numbers[-1] < (1e-5 if dtype == "float32" else 0.05)


def test_the_error_of_a_wrong_backend_shows(capsys, monkeypatch):
    right = module.local_attention
    monkeypatch.setattr(
        module,
        "local_attention",
        lambda q, k, v, pattern, backend, **kw: right(q, k, -v if backend == "eager" else v, pattern, backend=backend, **kw),
    )
    bench(seconds=0.001, device="cpu")
    measured = rows(capsys.readouterr().out.partition("local_attention")[2])
    assert measured["float32", "plain"][-1] < 1e-5
    assert measured["float32", "eager"][-1] > 0.1


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


@pytest.mark.parametrize("window", [(3,), (2, 3), (2, 1, 3)])
def test_the_plain_attention_is_that_of_the_op(window):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, *(2 * w for w in window), 3, 4)
    table = torch.randn(torch.Size(2 * w - 1 for w in window).numel(), 3)
    plain = module._plain_attention(module._bias_rows(window, q.device), window, q, k, v, table)
    reference = module.local_attention(q, k, v, windows(window), bias_table=table, backend="reference")
    torch.testing.assert_close(plain, reference)
    torch.testing.assert_close(module._reference_attention(window, q, k, v, table), reference)
