import lightning as L
import pytest
import torch

from geovit.core.training.hardware import HardwareConfig
from geovit.core.training.optimizer import OptimizerConfig
from geovit.core.training.steps import train_by_steps


class Plain(L.LightningModule):
    """Weights that nothing says how to split."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)


def test_nodes_and_devices_make_processes():
    hardware = HardwareConfig(devices=4, nodes=3, strategy="ddp", accelerator="cpu")
    assert hardware.processes == 12
    options = hardware.trainer_options()
    assert (options["devices"], options["num_nodes"], options["strategy"]) == (4, 3, "ddp")


def test_weights_that_cannot_be_split_are_refused_before_anything_starts(tmp_path):
    hardware = HardwareConfig(accelerator="cpu", devices=2, strategy="fsdp")
    with pytest.raises(ValueError, match="strategy is 'fsdp', but these weights cannot be split over devices: use 'ddp'"):
        train_by_steps(
            Plain(), L.LightningDataModule(), tmp_path / "last.ckpt",
            hardware=hardware, optimizer=OptimizerConfig(), steps=1, callbacks=[],
        )  # fmt: skip
    assert not list(tmp_path.iterdir())
