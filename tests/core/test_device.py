import pytest
import torch

from geovit.core.device import available_devices, cpu_features, has_fast_bfloat16, resolve_device


def test_every_available_device_can_be_named_and_used():
    for name in available_devices():
        assert torch.zeros(1, device=resolve_device(name)).device == torch.device(name)


def test_auto_is_the_preferred_device():
    assert resolve_device() == torch.device(available_devices()[0])
    assert available_devices()[-1] == "cpu"


def test_cuda_means_the_first_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda:0")
    assert resolve_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "", "CPU"])
def test_absent_device_is_refused_with_those_that_are_here(name):
    with pytest.raises(ValueError, match=f"device is {name!r}, available here are auto, .*cpu"):
        resolve_device(name)


def test_features_agree_with_torch():
    level = torch.backends.cpu.get_cpu_capability()
    if level in ("AVX2", "AVX512"):
        assert {"AVX2": "avx2", "AVX512": "avx512_f"}[level] in cpu_features()


def test_bfloat16_is_fast_only_where_the_instructions_are(monkeypatch):
    for features, expected in (
        ({"avx2": True}, False),
        ({"avx512_f": True, "avx512_bf16": True}, True),
        ({"amx_bf16": False}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda features=features: features, raising=False)
        assert has_fast_bfloat16(torch.device("cpu")) is expected


def test_older_torch_tells_the_level_of_its_kernels_only(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert cpu_features() == {"avx2", "avx512_f"}
    assert not has_fast_bfloat16(torch.device("cpu"))
