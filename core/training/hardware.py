"""Where a training runs."""

from dataclasses import dataclass
from typing import Any, Literal

_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


@dataclass(frozen=True, kw_only=True)
class HardwareConfig:
    """Where training runs, in Lightning's words.

    Args:
        accelerator: "auto", "cpu", "gpu", "mps".
        devices: how many; the default takes one.
        strategy: "auto"; "ddp", all weights on every device; "fsdp", a part of them on each, where a task can be so split.
        precision: "32" or mixed with "bf16" or "fp16".
    """

    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    precision: Literal["32", "bf16", "fp16"] = "32"

    def trainer_options(self) -> dict[str, Any]:
        """Return the options of Lightning's ``Trainer`` that follow."""
        strategy: Any = self.strategy
        if strategy == "fsdp":
            from lightning.pytorch.strategies import ModelParallelStrategy

            # One file for the state, by which any number of devices goes on.
            strategy = ModelParallelStrategy(self.devices, 1, save_distributed_checkpoint=False)
        return {
            "accelerator": self.accelerator,
            "devices": self.devices,
            "strategy": strategy,
            "precision": _PRECISION[self.precision],
        }
