"""Training by steps: what the trainings of all applications ask of Lightning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, RichProgressBar

from .hardware import HardwareConfig
from .optimizer import OptimizerConfig
from .records import quiet
from .runs import Averaging, SaveState, interruptible


def train_by_steps(
    task: L.LightningModule,
    data: L.LightningDataModule,
    last: Path,
    *,
    hardware: HardwareConfig,
    optimizer: OptimizerConfig,
    steps: int,
    callbacks: Sequence[Callback],
    accumulate: int = 1,
    logger: Any = False,
    log_every: int = 50,
    resume: bool = False,
    progress: bool = False,
) -> None:
    """Train for a number of steps; the state is saved after each validation, and Ctrl-C ends it as it ends everything else.

    Args:
        task, data: what is trained, on what. Data are asked for anew in each epoch, by every device for itself.
        last: file of the state.
        hardware: on what.
        optimizer: whose clipping and averaging are done here.
        steps: of training, at most.
        callbacks: before those that average the weights and save the state: at the end of a validation they see averaged weights.
        accumulate: passes in a step.
        logger: of Lightning; False for none.
        log_every: steps between what it is told.
        resume: go on from ``last``.
        progress: show a bar.

    Raises:
        ValueError: the weights are to be split over devices, but the task does not say how.
    """
    if hardware.strategy == "fsdp" and type(task).configure_model is L.LightningModule.configure_model:
        raise ValueError("strategy is 'fsdp', but these weights cannot be split over devices: use 'ddp'")
    wanted = list(callbacks)
    if optimizer.average:
        wanted.append(Averaging(optimizer.average))
    if progress:
        wanted.append(RichProgressBar(console_kwargs={"stderr": True}))  # standard output is for results
    trainer = L.Trainer(
        **hardware.trainer_options(),
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        reload_dataloaders_every_n_epochs=1,  # crops are drawn anew
        use_distributed_sampler=False,  # every device draws its own
        num_sanity_val_steps=0,
        gradient_clip_val=optimizer.clip or None,
        callbacks=[*wanted, SaveState(last)],
        logger=logger,
        log_every_n_steps=log_every,
        enable_progress_bar=progress,
        enable_model_summary=False,
    )
    with interruptible(), quiet():
        trainer.fit(task, datamodule=data, ckpt_path=str(last) if resume else None, weights_only=True)
