"""Reading checkpoints of training programs."""

import pickle

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
