"""Where a training runs."""

from dataclasses import dataclass
from typing import Any, Literal

_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


@dataclass(frozen=True, kw_only=True)
class HardwareConfig:
    """Where training runs, in Lightning's words.

    Args:
        accelerator: "auto", "cpu", "gpu", "mps".
        devices: how many on a machine; the default takes one.
        nodes: machines; their processes are started from outside: under SLURM by `srun`, a task for each device.
        strategy: "auto"; "ddp", all weights on every device; "fsdp", a part of them on each, where a task can be so split.
        precision: "32" or mixed with "bf16" or "fp16".
    """

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    precision: Literal["32", "bf16", "fp16"] = "32"

    @property
    def processes(self) -> int:
        """How many train together."""
        return self.devices * self.nodes

    def trainer_options(self) -> dict[str, Any]:
        """Return the options of Lightning's ``Trainer`` that follow."""
        strategy: Any = self.strategy
        if strategy == "fsdp":
            from lightning.pytorch.strategies import ModelParallelStrategy

            # One file for the state, by which any number of devices goes on.
            strategy = ModelParallelStrategy(self.processes, 1, save_distributed_checkpoint=False)
        return {
            "accelerator": self.accelerator,
            "devices": self.devices,
            "num_nodes": self.nodes,
            "strategy": strategy,
            "precision": _PRECISION[self.precision],
        }
