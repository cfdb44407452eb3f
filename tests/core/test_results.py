import os
import threading

import pytest
import torch

from geovit.core.memory import give_freed_memory_back, used_bytes
from geovit.core.native import keep_results, native_status
from geovit.core.ops.swiglu import swiglu

pytestmark = pytest.mark.skipif(
    not native_status()[0] or not os.path.exists("/proc/self/statm") or torch.__version__ < (2, 11),
    reason="results are kept by the compiled kernels, on Linux, from torch 2.11 on",
)
CPU = torch.device("cpu")
MIB = 2**20


@pytest.fixture(autouse=True)
def what_is_kept():
    before = keep_results(0)
    keep_results(before)
    yield
    keep_results(0)
    keep_results(before)


def made(mib, value=0.0):
    """Return a result of that size: of large ones what is freed serves the next."""
    gate = torch.full((mib, MIB // 4), value)
    return swiglu(gate, torch.ones(1).expand_as(gate), backend="native")


def test_the_memory_of_a_freed_result_serves_the_next():
    first = made(40)
    place = first.data_ptr()
    del first
    smaller = made(36, value=2.0)
    assert smaller.data_ptr() == place
    assert bool((smaller == smaller[0, 0]).all())
    other = made(36)
    assert other.data_ptr() != place, "what is in use is nobody else's"
    half = smaller[:10]
    del smaller
    assert made(36).data_ptr() != place, "a view still holds it"
    assert bool((half == half[0, 0]).all())


def test_what_is_kept_is_bounded_by_what_was_in_use_and_by_what_is_allowed():
    small, large = (torch.ones(mib, MIB // 4) for mib in (40, 100))  # made before: what is counted below are results alone
    before = used_bytes(CPU)

    def held():
        return (used_bytes(CPU) - before) / MIB

    several = [swiglu(small, small, backend="native") for _ in range(3)]
    assert held() > 115
    del several
    assert held() > 115, "kept"
    one = swiglu(large, large, backend="native")  # too large for what is kept: together more than half as much again as before
    assert held() < 195
    del one
    keep_results(50 * MIB)
    assert held() < 60
    keep_results(2**30)
    one = swiglu(small, small, backend="native")
    del one
    give_freed_memory_back()
    assert held() < 10
    assert keep_results(2**30) == 2**30, "and results are kept again"


def test_results_of_several_threads_share_no_memory():
    wrong = []

    def work(value):
        for _ in range(6):
            result = made(33, value=value)
            if not bool((result == result[0, 0]).all()):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(float(value),)) for value in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_large_results_are_tensors_as_any_other():
    with torch.inference_mode():
        inferred = made(33, value=1.0)
    assert inferred.is_inference()
    gate = torch.ones(33, MIB // 4, requires_grad=True)
    y = swiglu(gate, torch.ones_like(gate), backend="native")
    y.sum().backward()
    assert gate.grad is not None
    assert bool((gate.grad == gate.grad[0, 0]).all())
    shared = y.detach().share_memory_()
    assert shared.is_shared()
    assert torch.equal(shared, y)
    assert y.detach().numpy().shape == (33, MIB // 4)
