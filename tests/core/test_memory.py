import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from geovit.core.memory import LiveBytes, forward_bytes, free_bytes, is_out_of_memory, memory_limit, peak_bytes, used_bytes

CPU = torch.device("cpu")


def test_live_tensors_are_counted_and_forgotten():
    with LiveBytes() as live, torch.no_grad():
        x = torch.zeros(1000)
        y = x + 1
        assert live.live == 8000
        z = y[:10]  # shares memory
        y += 1
        del x
        assert live.live == 4000
        del y
        assert live.live == 4000, "the view still holds it"
        del z
        assert (live.live, live.peak) == (0, 8000)


def test_the_bytes_of_a_forward_pass_are_those_of_its_widest_place():
    network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(16, 8, 3, padding=1)).eval()
    pixels = 4 * 64 * 64
    # The input, 16 channels and 8 of the output are alive together, and the smaller parts of products may be.
    assert forward_bytes(network, (1, 3, 64, 64), device=CPU) == pytest.approx((3 + 16 + 8) * pixels, rel=0.02)


def test_memory_of_the_machine_is_told():
    assert 10**7 < used_bytes(CPU) < 10**11
    assert free_bytes(CPU) > 10**7


def test_the_peak_is_what_was_ever_held():
    before = peak_bytes(CPU)
    block = torch.ones(10**7, dtype=torch.float64)
    held = used_bytes(CPU)
    del block
    assert peak_bytes(CPU) >= max(before, held) * 0.99


def test_a_limit_is_what_was_given_or_leaves_room():
    assert memory_limit(CPU, 5e9) == 5e9
    assert used_bytes(CPU) < memory_limit(CPU) < used_bytes(CPU) + free_bytes(CPU)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("x"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_running_out_of_memory_is_recognised(error, told):
    assert is_out_of_memory(error) is told


def test_the_allocator_s_own_error_is_recognised():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**55)
    assert is_out_of_memory(raised.value)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process can be reset on Linux only")
def test_what_is_predicted_from_small_inputs_is_what_a_process_takes():
    code = """
import re, torch
from torch import nn
from geovit.core.memory import forward_bytes, keep_no_freed_memory
torch.set_num_threads(1)
assert keep_no_freed_memory()
status = lambda key: int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
cpu = torch.device("cpu")
network = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.GELU(), nn.Conv2d(32, 32, 1), nn.GELU(), nn.Conv2d(32, 3, 1)).eval()
small, large = (forward_bytes(network, (1, 3, side, side), device=cpu) for side in (48, 96))
slope = (large - small) / (96**2 - 48**2)
predicted = small + slope * (512**2 - 48**2)
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
with torch.inference_mode():
    network(torch.rand(1, 3, 512, 512))
print(predicted / (status("VmHWM") - before))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(1, abs=0.15)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries cannot be told what to keep")
def test_memory_that_is_kept_is_not_asked_of_the_system_again():
    code = """
import resource, torch
from geovit.core.memory import give_freed_memory_back, keeping_freed_memory, used_bytes
cpu = torch.device("cpu")
def asked():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.empty(2**24).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
torch.set_num_threads(1)
asked()
usual, before = asked(), used_bytes(cpu)
with keeping_freed_memory():
    kept = min(asked() for _ in range(4))  # something small may take the place of a large tensor now and then
    held = used_bytes(cpu) - before
after = used_bytes(cpu) - before
asked()  # may find a gap that was left in the heap
give_freed_memory_back()
print(usual, kept, held, after, used_bytes(cpu) - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    usual, kept, held, after, later = map(int, done.stdout.split())
    assert kept < 0.05 * usual, "the same memory serves all"
    assert held > 0.9 * 2**26
    assert after < 2**23, "and is given back"
    assert later < 2**23, "and so is what is kept of it later, when that is asked for"
