"""Reading checkpoints of training programs."""

import pickle
import re
import zipfile

import numpy as np
import pytest
import torch

from geovit.core.weights.checkpoint import read_checkpoint

WRAPPERS = {
    "none": lambda state: state,
    "basicsr": lambda state: {"params": {"other": torch.ones(1)}, "params_ema": state},
    "parallel": lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3},
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_state_dict_is_found_in_what_training_programs_save(tmp_path, wrap):
    state = {"a.weight": torch.randn(2, 3), "b": torch.randn(4)}
    torch.save(wrap(state), tmp_path / "x.pth")
    got, metadata = read_checkpoint(tmp_path / "x.pth")
    assert metadata == {}
    assert got.keys() == state.keys()
    assert all(torch.equal(got[key], state[key]) for key in state)


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_nothing_in_a_file_is_executed(tmp_path, capsys):
    for name, save in (("torch.pth", lambda path: torch.save({"params": Evil()}, path)), ("plain.pth", _pickle)):
        save(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} holds more than tensors"):
            read_checkpoint(tmp_path / name)
    assert "executed" not in capsys.readouterr().out


def _pickle(path):
    path.write_bytes(pickle.dumps(Evil(), protocol=2))


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path):
    (tmp_path / "empty.pth").touch()
    torch.save({"w": torch.ones(1000)}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:900])
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights here")
    for name in ("empty", "cut", "list", "text"):
        with pytest.raises(ValueError, match=f"{name}.pth") as error:
            read_checkpoint(tmp_path / f"{name}.pth")
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_checkpoint(tmp_path / "none.pth")


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numbers_of_numpy_beside_the_weights_are_no_code(tmp_path, module):
    """Scores are saved so by many training programs, under the name of either series of NumPy."""
    scores = {"best_acc": np.float64(0.8), "epoch": np.int64(3), "loss": np.float32(0.1)}
    torch.save({"state_dict": {"a": torch.ones(2)}, **scores}, tmp_path / "new.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as new, zipfile.ZipFile(tmp_path / "x.pt", "w") as file:
        for entry in new.namelist():
            file.writestr(entry, re.sub(rb"numpy\._?core\.multiarray", module.encode(), new.read(entry)))
    assert torch.equal(read_checkpoint(tmp_path / "x.pt")[0]["a"], torch.ones(2))


def test_text_beside_the_weights_is_metadata(tmp_path):
    torch.save({"network": {"a": torch.ones(2)}, "metadata": {"made by": "us", "epoch": 3}}, tmp_path / "x.pt")
    state, metadata = read_checkpoint(tmp_path / "x.pt")
    assert list(state) == ["a"]
    assert metadata == {"made by": "us"}
