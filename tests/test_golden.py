"""Official implementations reproduced: outputs and gradients of every case in the folder of golden tensors.

An adapter, in the files of ``core/golden`` and ``apps/*/golden``, builds our module from a case's constructor arguments, loads
the official state dict into it and returns the outputs by their official names. It is given the state as leaves and calls the
module on them (``torch.func.functional_call``), so that gradients come out under official names too, whatever was renamed, split
or joined.
"""

import importlib.util
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

# In these a leaky ReLU gets an input of about 1e-7, whose sign is a matter of rounding in float32: the gradient may take either
# slope, in the official code too. With what that may change, of the largest value: on inputs that differ in the last bit, MONAI's
# gradients and ours are up to 4e-3 from those of float64 (2e-4 if both slopes are equal; 2e-3 for a convolution of one channel
# before a norm, whose gradient is a difference of equal numbers). None: compared in float64 alone, where the sign is certain.
ON_A_KINK: dict[str, float | None] = {
    "swinir_real": None,
    "monai_swinunetr/v1_3d": 5e-3,
    "monai_swinunetr/v1_3d_before_fix": 5e-3,
    "monai_swinunetr/v2_3d": 5e-3,
}

# A gradient below this share of the largest one of its case is zero in exact numbers, and in float32 what rounding left of it:
# such as that of a bias which all keys share, and a softmax does not see.
ROUNDING = 1e-7

Adapter = Callable[[SimpleNamespace], dict[str, Tensor]]


TESTS = Path(__file__).parent


def _adapters(folder: Path, table: str = "ADAPTERS") -> dict[str, Adapter]:
    found: dict[str, Adapter] = {}
    for path in sorted(folder.glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"golden_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        adapters = getattr(module, table, {})
        assert not found.keys() & adapters.keys(), path
        found |= adapters
    return found


OF = {folder: _adapters(folder) for folder in (TESTS / "core" / "golden", *sorted(TESTS.glob("apps/*/golden")))}
ADAPTERS = {name: adapter for adapters in OF.values() for name, adapter in adapters.items()}
# The official code itself, where it is installed and the gradients of float32 in the files are none to compare float64 with.
OFFICIAL = {name: official for folder in OF for name, official in _adapters(folder, "OFFICIAL").items()}


def load(path: Path, dtype: torch.dtype) -> SimpleNamespace:
    """Read a case: constructor arguments, metadata, and state, inputs, outputs, gradients by their official names."""
    parts: dict[str, dict[str, Tensor]] = {"state": {}, "input": {}, "output": {}, "grad": {}, "grad_input": {}}
    with safe_open(path, framework="pt") as file:
        meta = json.loads(file.metadata()["golden"])
        for key in file.keys():  # noqa: SIM118 - it is no dict
            kind, _, name = key.partition(".")
            tensor = file.get_tensor(key)
            parts[kind][name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    for tensor in (*parts["state"].values(), *parts["input"].values()):
        tensor.requires_grad_(tensor.is_floating_point())
    constructor = meta["constructor"]
    return SimpleNamespace(arguments=constructor.get("args", constructor), constructor=constructor, meta=meta, **parts)


def close(got: Tensor, want: Tensor, tolerance: float, name: str) -> None:
    assert got.shape == want.shape, name
    if want.dtype == torch.bool or not want.is_floating_point():
        assert torch.equal(got, want), name
        return
    worst, largest = (got - want).abs().max(), want.abs().max()
    assert worst <= tolerance * largest, f"{name}: off by {worst / largest:.1e} of the largest value"  # false for NaN


def backward(case: SimpleNamespace, outputs: dict[str, Tensor]) -> None:
    names = case.meta.get("gradient", "")
    used = [value for name, value in outputs.items() if f"'{name}'" in names] or list(outputs.values())
    sum(value.square().mean() for value in used).backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("model", ADAPTERS)
def test_official_outputs_and_gradients(model, dtype, golden_dir):
    paths = sorted((golden_dir / model).glob("*.safetensors"))
    assert paths, f"no cases of {model}"
    for path in paths:
        case = load(path, dtype)
        state, inputs = ({name: tensor.detach().clone() for name, tensor in part.items()} for part in (case.state, case.input))
        with torch.no_grad():
            freely = ADAPTERS[model](case)
        for before, after in ((state, case.state), (inputs, case.input)):
            assert all(torch.equal(tensor, after[name]) for name, tensor in before.items()), f"{path.stem}: written to"
        outputs = ADAPTERS[model](case)
        assert outputs.keys() == freely.keys() == case.output.keys(), path.stem
        for name, want in case.output.items():
            close(outputs[name], want, 1e-5, f"{path.stem}: {name}")
            close(freely[name], want, 1e-5, f"{path.stem}: {name} without gradients")
        tolerance: float | None = 1e-4
        if dtype == torch.float32:
            tolerance = ON_A_KINK.get(model, ON_A_KINK.get(f"{model}/{path.stem}", tolerance))
            if tolerance is None:
                continue
        backward(case, outputs)
        if dtype == torch.float64 and model in OFFICIAL:
            official, tolerance = load(path, dtype), 1e-9
            backward(official, OFFICIAL[model](official))
            case.grad = {name: official.state[name].grad for name in case.grad}
            case.grad_input = {name: official.input[name].grad for name in case.grad_input}
        largest = max(
            (g.abs().max() for grads in (case.grad, case.grad_input) for g in grads.values()), default=torch.tensor(0.0)
        )
        for kind, leaves, grads in (("grad", case.state, case.grad), ("grad_input", case.input, case.grad_input)):
            for name, want in grads.items():
                assert leaves[name].grad is not None, f"{path.stem}: no gradient reaches {name}"
                if want.abs().max() < ROUNDING * largest:
                    assert leaves[name].grad.abs().max() < ROUNDING * largest, f"{path.stem}: {kind}.{name} is not zero"
                    continue
                close(leaves[name].grad, want, tolerance, f"{path.stem}: {kind}.{name}")


@pytest.mark.parametrize("folder", OF, ids=lambda folder: folder.parent.name)
def test_the_readme_lists_what_is_reproduced(folder):
    readme = TESTS.parent / folder.parent.relative_to(TESTS) / "README.md"
    table = readme.read_text(encoding="utf-8").partition("| golden tensors |")[2].splitlines()[2:]
    rows = itertools.takewhile(lambda line: line.startswith("| "), table)
    assert {line.split("`")[1] for line in rows} == OF[folder].keys()
