import pickle
import re
import stat
import subprocess
import sys

import pytest
import torch
from torch import nn

from geovit.core import weights
from geovit.core.weights import load_into, load_state, rename, save_module
from geovit.core.weights.head import load_with_head


class Tied(nn.Module):
    """Tensors as they occur: shared, strided, 16 bit, whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.b = nn.Linear(3, 4)
        self.b.weight = self.a.weight
        self.register_buffer("narrow16", torch.randn(4, 6).bfloat16().T)
        self.register_buffer("index", torch.arange(5))


def test_a_module_and_its_metadata_come_back(tmp_path):
    module, path = Tied(), tmp_path / "model.safetensors"
    save_module(path, module, {"classes": '["Wasser", "Wald"]'})
    state, metadata = load_state(path)
    assert metadata == {"classes": '["Wasser", "Wald"]'}
    assert state.keys() == module.state_dict().keys()
    for name, tensor in module.state_dict().items():
        assert tensor.dtype == state[name].dtype
        assert torch.equal(tensor, state[name])
    other = Tied()
    coverage = load_into(other, state)
    assert torch.equal(other.b.weight, module.a.weight)
    assert (coverage.tensors, coverage.elements) == (6, 12 + 4 + 12 + 4 + 24 + 5)
    assert "6 tensors" in str(coverage)


def test_the_file_replaces_an_older_one_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "model.safetensors"
    for value in (1.0, 2.0):
        save_module(path, {"x": torch.tensor(value)}, {})
    assert load_state(path)[0]["x"] == 2
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "other").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_the_same_weights_are_the_same_bytes(tmp_path):
    metadata = {f'key "{k}" \u00e4': f"value {k}\n\x1f\x7f" for k in range(9)}
    files = [tmp_path / f"{k}.safetensors" for k in range(4)]
    for file in files:
        save_module(file, {"b": torch.arange(3), "a": torch.ones(2, dtype=torch.float16)}, metadata)
    assert len({file.read_bytes() for file in files}) == 1
    tensors, told = load_state(files[0])
    assert told == metadata
    assert torch.equal(tensors["b"], torch.arange(3))


def test_a_failed_write_keeps_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_module(path, {"x": torch.tensor(1.0)}, {})

    def fail(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("geovit.core.weights.store.save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        save_module(path, {"x": torch.tensor(2.0)}, {})
    assert load_state(path)[0]["x"] == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"text, not weights", pickle.dumps({"x": 1}), None])
def test_a_file_that_is_not_whole_is_named(tmp_path, content):
    path = tmp_path / "model.safetensors"
    save_module(path, {"x": torch.zeros(10)}, {})
    path.write_bytes(path.read_bytes()[:-7] if content is None else content)
    with pytest.raises(ValueError, match=r"model\.safetensors is not a whole safetensors file") as error:
        load_state(path)
    assert "\n" not in str(error.value)


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        load_state(tmp_path / "absent.safetensors")
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*absent"):
        save_module(tmp_path / "absent" / "model.safetensors", {}, {})


def test_weights_that_do_not_fit_are_listed_in_one_line_and_nothing_is_loaded():
    module = nn.Sequential(*(nn.Linear(2, 3) for _ in range(3)))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = {"0.weight": torch.zeros(3, 2), "0.bias": torch.zeros(5), "extra": torch.zeros(1)}
    with pytest.raises(ValueError, match="do not fit") as error:
        load_into(module, state)
    assert str(error.value) == (
        "weights do not fit: 4 missing (1.bias, 1.weight, 2.bias and 1 more); 1 unexpected (extra); "
        "1 of another shape (0.bias [5] instead of [3])"
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_rename_applies_rules_in_order_and_drops():
    state = {"module.attn.w": torch.tensor(1), "module.index": torch.tensor(2), "head.w": torch.tensor(3)}
    renamed = rename(state, [(r"^module\.", ""), (r"attn\.", "mixer."), (r"^index$", None)])
    assert renamed == {"mixer.w": state["module.attn.w"], "head.w": state["head.w"]}


def test_two_tensors_under_one_name_are_an_error():
    with pytest.raises(ValueError, match="would be named x"):
        rename({"a.x": torch.zeros(1), "b.x": torch.zeros(1)}, [(r"^[ab]\.", "")])


def test_public_loaders_come_on_first_use():
    there = "'geovit.core.backbones' in sys.modules"
    code = f"import sys, geovit.core.weights as w; print({there}, w.load_swin, {there})"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"False <function load_swin at .*> True\n", told)
    assert all(callable(getattr(weights, name)) for name in weights.__all__)
    with pytest.raises(AttributeError, match="no attribute 'load_all'"):
        weights.load_all  # noqa: B018


def test_head_of_another_width_than_the_backbone_is_told():
    with pytest.raises(ValueError, match=r"weight \[5, 4\] instead of \[5, 3\]"):
        load_with_head(nn.Identity(), {}, {"weight": torch.zeros(5, 4)}, dim=3)
    loaded = load_with_head(nn.Linear(2, 3), nn.Linear(2, 3).state_dict(), {"weight": torch.ones(5, 3)}, dim=3)
    assert (loaded.head.bias, loaded.coverage.elements) == (None, 9 + 15)
