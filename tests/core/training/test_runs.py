import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from geovit.core.training.runs import LAST, Averaging, Clock, SaveState, SeededSteps, interruptible, seed_of, state_file


class Indexed(L.LightningModule):
    """A layer with a table of whole numbers, as attention in windows has; its weight is told the seen numbers of dropout."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("index", torch.arange(343).view(7, 7, 7))
        self.drawn = []

    def training_step(self, batch):
        self.drawn.append(torch.rand(()).item())
        return ((self.weight - 1) ** 2).sum()

    def validation_step(self, batch):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(module, *callbacks, epochs=2, **options):
    data = DataLoader(TensorDataset(torch.zeros(5)), batch_size=1)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=list(callbacks), logger=False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, data, data, weights_only=True, **options)
    return trainer


def test_tables_of_whole_numbers_survive_averaging():
    module = Indexed()
    train(module, Averaging(0.9))
    assert torch.equal(module.index, torch.arange(343).view(7, 7, 7))
    assert 0 < module.weight[0] < 1 - 0.8**10, "an average lags behind"


def test_a_short_training_does_not_end_with_its_random_start_in_it():
    module = Indexed()
    train(module, Averaging(0.9999))
    weights = 1 - 0.8 ** torch.arange(1, 11, dtype=torch.float64)
    expected = weights[0]
    for count, weight in enumerate(weights[1:], start=1):
        decay = count / (count + 10)
        expected = decay * expected + (1 - decay) * weight
    assert module.weight[0].item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_clock_ends_a_training_and_foresees_its_steps(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("geovit.core.training.runs.time.monotonic", lambda: now[0])
    clock = Clock(1000, minutes=1)
    assert clock.expected(0) == 1000
    now[0] += 15
    assert clock.expected(50) == 200
    assert Clock(1000, None).expected(50) == 1000
    again = Clock(1000, minutes=1)
    again.load_state_dict(clock.state_dict())
    now[0] += 5
    assert again.seconds == pytest.approx(20)
    now[0] += 50
    module = Indexed()
    trainer = train(module, again)
    assert trainer.global_step == 1
    assert again.expected(1) == 1


def test_random_numbers_of_a_step_follow_from_the_seed_alone(tmp_path):
    whole, first, second = Indexed(), Indexed(), Indexed()
    torch.manual_seed(1)
    train(whole, SeededSteps(7), epochs=3)
    torch.manual_seed(2)
    train(first, SeededSteps(7), SaveState(tmp_path / LAST), epochs=1)
    torch.manual_seed(3)
    train(second, SeededSteps(7), SaveState(tmp_path / LAST), epochs=3, ckpt_path=str(tmp_path / LAST))
    assert whole.drawn == first.drawn + second.drawn
    assert len(set(whole.drawn)) == 15
    assert [path.name for path in tmp_path.iterdir()] == [LAST]


def test_states_are_neither_lost_nor_made_up(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        state_file(tmp_path, resume=True)
    assert state_file(tmp_path, resume=False) == tmp_path / LAST
    (tmp_path / LAST).touch()
    assert state_file(tmp_path, resume=True) == tmp_path / LAST
    with pytest.raises(ValueError, match="of an earlier training"):
        state_file(tmp_path, resume=False)


def test_seeds_are_mixed():
    assert len({seed_of(a, b) for a in range(9) for b in range(9)}) == 81
    assert seed_of(1, 2) == seed_of(1, 2)


def test_ctrl_c_is_heard_through_the_trainer():
    class Kind(KeyboardInterrupt):
        pass

    class Interrupted(Indexed):
        def training_step(self, batch):
            raise Kind

    with pytest.raises(Kind), interruptible():
        train(Interrupted())
