import pytest
import torch

from geovit.core.precision import autocast, resolve_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture
def bf16(monkeypatch, request):
    monkeypatch.setattr("geovit.core.precision.has_fast_bfloat16", lambda _device: request.param)
    return request.param


@pytest.mark.parametrize("bf16", [False, True], indirect=True)
def test_auto_is_single_precision_on_every_cpu_and_bf16_on_gpus_that_have_it(bf16):
    assert resolve_precision("auto", CPU) == torch.float32
    assert resolve_precision("auto", CUDA) == (torch.bfloat16 if bf16 else torch.float32)


@pytest.mark.parametrize("bf16", [False], indirect=True)
@pytest.mark.parametrize(("name", "device", "allowed"), [("bf16", CPU, "auto, fp32"), ("bf16", CUDA, "auto, fp32, fp16")])
def test_bf16_without_hardware_is_refused(bf16, name, device, allowed):
    with pytest.raises(ValueError, match=f"precision is '{name}', this {device.type} allows {allowed}$"):
        resolve_precision(name, device)


@pytest.mark.parametrize("name", ["fp16", "fp64", ""])
def test_what_a_cpu_cannot_do_is_refused(name):
    with pytest.raises(ValueError, match=f"precision is '{name}', this cpu allows auto, fp32"):
        resolve_precision(name, CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_computed_in_the_dtype_asked_for(dtype):
    with autocast(CPU, dtype):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
