"""What only the compiled selective scan can get wrong: memory, threads, processes, instruction sets, registration."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from geovit.core.native import native_status
from geovit.core.ops.selective_scan import selective_scan

LOADED, REASON = native_status()
pytestmark = pytest.mark.skipif(not LOADED, reason=REASON)

FILE = Path(__file__).with_name("test_selective_scan.py")
_spec = importlib.util.spec_from_file_location("scan_cases", FILE)
cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)
make, results = cases.make, cases.results


def same(got, want):
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_result_does_not_depend_on_threads_or_on_the_run():
    threads = torch.get_num_threads()
    plain, routed = make(2, 300, 100, 16, groups=2), make(1, 300, 100, 4, routes=4)
    try:
        runs = []
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            runs.append((results(plain, "native"), results(routed, "native")))
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        same(run[0], runs[0][0])
        same(run[1], runs[0][1])


def test_nothing_is_read_before_it_is_written():
    arguments = make(2, 45, 20, 5, routes=3, groups=2), make(1, 33, 17, 16, extras=False)
    want = [results(x, "native") for x in arguments]
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = True  # every torch.empty is then full of NaN
        assert torch.empty(3).isnan().all()
        got = [results(x, "native") for x in arguments]
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]
    for a, b in zip(got, want, strict=True):
        same(a, b)


def test_inference_is_training_without_the_memory():
    arguments = make(1, 70, 24, 16)
    with torch.no_grad():
        y = selective_scan(**arguments, softplus=True, backend="native")
    assert torch.equal(y, results(arguments, "native")["y"])


@pytest.mark.parametrize("states", [1, 21])
def test_decays_beyond_the_exponents_of_a_float(states):
    torch.manual_seed(0)
    u, dt, A = torch.rand(1, 40, 20), torch.rand(1, 40, 20), -torch.rand(20, states) - 0.1
    B, C = torch.rand(2, 1, 40, states)
    usual = selective_scan(u, dt, A, B, C, backend="native")
    dt[0, 10, 3], u[0, 10, 3] = 1e4, 1e-4  # forgets all that was before
    dt[0, 10, 4], A[4] = 1e30, 2.0
    got = selective_scan(u, dt, A, B, C, backend="native")
    want = selective_scan(u.double(), dt.double(), A.double(), B.double(), C.double(), backend="reference")
    torch.testing.assert_close(got[..., 3].double(), want[..., 3], rtol=1e-5, atol=1e-5)
    assert (got[0, 10:, 4] > 1e30).all()
    others = [channel for channel in range(20) if channel not in (3, 4)]
    assert torch.equal(got[..., others], usual[..., others])  # also those in the same vector


def test_gradients_of_what_is_fixed_are_not_made_up():
    arguments = {name: x.detach() for name, x in make(1, 40, 8, 4).items()}
    arguments["A"].requires_grad_()
    _, state = selective_scan(**arguments, return_state=True, softplus=True, backend="native")
    (got,) = torch.autograd.grad(state.sum(), arguments["A"])  # the other output is not used
    _, state = selective_scan(**arguments, return_state=True, softplus=True, backend="reference")
    torch.testing.assert_close(got, torch.autograd.grad(state.sum(), arguments["A"])[0], rtol=1e-4, atol=1e-4)


def test_second_derivative_is_refused_not_wrong():
    arguments = make(1, 7, 4, 2)
    (first,) = torch.autograd.grad(selective_scan(**arguments, backend="native").sum(), arguments["u"], create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        torch.autograd.grad(first.sum(), arguments["C"])


@pytest.mark.parametrize("extras", [True, False])
def test_ops_are_registered_as_torch_expects(extras):
    given = {name: x.detach() for name, x in make(1, 40, 6, 3, routes=2, groups=2, extras=extras).items()}
    given["u"] = given["u"].unsqueeze(2)
    rest = [given.get(name) for name in ("u", "dt", "A", "B", "C", "D", "z", "dt_bias", "orders")]
    ops = torch.ops.geovit
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(ops.selective_scan.default, (*rest, True, False), test_utils=tests)
    y, state, ungated, borders = ops.selective_scan(*rest, True, True)
    torch.library.opcheck(ops.selective_scan.default, (*rest, True, True), test_utils=tests)
    torch.library.opcheck(ops.selective_scan_backward.default, (y, state, ungated, borders, *rest, True), test_utils=tests)


def test_direct_calls_cannot_read_outside_of_tensors():
    given = {name: x.detach() for name, x in make(1, 5, 6, 3, routes=2, extras=False).items()}
    order = ("u", "dt", "A", "B", "C", "D", "z", "dt_bias", "orders")
    right = given | {"u": given["u"][:, :, None], "B": given["B"][:, :, :, None], "C": given["C"][:, :, :, None]}
    for wrong in (
        {"orders": torch.tensor([[0, 1, 2, 3, 4], [0, 1, 2, 3, 5]])},
        {"orders": torch.tensor([[0, 1, 2, 3, 4], [0, 1, 2, 3, 3]])},
        {"orders": None},
        {"dt": right["dt"].double()},
        {"C": right["C"][..., :2]},
        {"D": torch.zeros(6)},
    ):
        arguments = right | wrong
        with pytest.raises(RuntimeError, match="geovit::selective_scan"):
            torch.ops.geovit.selective_scan(*(arguments.get(name) for name in order), True, False)


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler for inductor")
def test_compiles_with_inductor():
    arguments = make(1, 40, 8, 4)
    leaves = list(arguments.values())
    compiled = torch.compile(lambda **x: selective_scan(**x, softplus=True).square().sum(), fullgraph=True)
    got = torch.autograd.grad(compiled(**arguments), leaves)
    want = torch.autograd.grad(selective_scan(**arguments, softplus=True, backend="reference").square().sum(), leaves)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-3)


class Scans(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, _index):
        return results(make(1, 70, 40, 4), "native")["y"][0]


def test_runs_in_workers_forked_after_use():
    want = results(make(1, 70, 40, 4), "native")["y"]
    loader = torch.utils.data.DataLoader(Scans(), batch_size=1, num_workers=1, multiprocessing_context="fork")
    for got in loader:
        assert torch.equal(got, want)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same_answer(isa):
    code = f"""
import importlib.util, torch
from geovit.core.native import native_status
spec = importlib.util.spec_from_file_location("scan_cases", {str(FILE)!r})
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)
for case in (dict(batch=2, length=33, dim=21, states=n) for n in (1, 5, 16, 31)):
    for more in ({{}}, dict(routes=2, groups=3)):
        arguments = cases.make(**case, **more)
        cases.assert_close(cases.results(arguments, "native"), cases.results(arguments, "reference", torch.float64))
print(native_status()[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "GEOVIT_ISA": isa}, capture_output=True, text=True, check=False
    )
    if "but this CPU has" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{isa} kernels")
