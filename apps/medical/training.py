"""Fitting a segmentation network to cases."""

import json
import logging
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from ...core.training.hardware import HardwareConfig
from ...core.training.records import METRICS, OPTIONS, History, events, plain_options, require_same
from ...core.training.runs import (
    BEST,
    Clock,
    SeededSteps,
    seed_of,
    state_file,
)
from ...core.training.steps import train_by_steps
from ...datasets import write_text_atomic
from .adaptation import LoRAConfig, adapt, merged, save_adapters
from .augmentation import AugmentationConfig
from .feeding import CropsConfig, Feeding
from .losses import LossConfig
from .model import Segmenter, new_segmenter, save_segmenter
from .networks import NetworkConfig, needs_of
from .planning import Wishes
from .starting import read_start
from .study import open_study, reopen_study
from .task import SegmentationOptimizer, SegmentationTask

logger = logging.getLogger(__name__)

ADAPTERS = "adapters.safetensors"


@dataclass(frozen=True)
class Fit:
    """What came out of a training.

    Args:
        file: of the best weights, for ``geovit segment``.
        best: the Dice of the validation, mean over targets of the mean over cases; None where no case validates.
        targets: the Dice of each target then; None of one that no validation case has.
        history: of every validation: "step", "loss" (mean since the last one), "dice", "targets", "minutes".
        minutes: that it took, with those before it was resumed.
    """

    file: Path
    best: float | None
    targets: dict[str, float | None]
    history: Sequence[dict[str, Any]]
    minutes: float

    def __rich__(self) -> str:
        """Say it in a line, and how to go on."""
        score = "the last weights, as no case was there to validate"
        if self.best is not None:
            score = f"{_told(self.best, self.targets)} in the validation"
        return f"{self.file}: {score} ({self.minutes:.1f} min)\ngeovit segment IMAGES --model {shlex.quote(str(self.file))}"


def fit(
    data: Path,
    out: Path = Path("segmenter"),
    network: NetworkConfig | None = None,
    *,
    start: Path | None = None,
    lora: LoRAConfig | None = None,
    plan: Wishes | None = None,
    crops: CropsConfig | None = None,
    augmentation: AugmentationConfig | None = None,
    loss: LossConfig | None = None,
    optimizer: SegmentationOptimizer | None = None,
    hardware: HardwareConfig | None = None,
    fold: int = 0,
    folds: int = 5,
    steps: int = 25_000,
    epochs: int | None = None,
    minutes: float | None = None,
    check_every: int = 1_000,
    seed: int = 0,
    resume: bool = False,
    tensorboard: bool = False,
    progress: bool = False,
) -> Fit:
    """Fit a segmentation network to cases, and keep the weights that do best on those held out for validation.

    OUT gets ``best.safetensors`` (averaged weights and the plan, for ``geovit segment``), ``metrics.jsonl`` with a line for each
    validation, what the plan follows from (``plan.json``, ``fingerprint.json``, ``splits.json``, ``findings.json``), and
    ``last.ckpt``, from which ``resume`` goes on as if nothing had happened, with the same options. The same seed gives the same
    weights on a CPU, unless a limit of minutes ends the training.

    Args:
        data: a folder of cases or a dataset.json.
        out: folder for the results; it is made.
        network: name and arguments; by default that of ``start``, else a Swin UNETR.
        start: a checkpoint whose weights training starts from: of ``geovit fit medical``, or of MONAI. Layers of other shapes,
            such as a head for other classes, start at random, which is logged.
        lora: adapters on the encoder instead of training all of it, for few cases.
        plan: what is wished otherwise than the fingerprint of the training cases says.
        crops: how training sees the cases.
        augmentation: where crops are cut, and how they are altered.
        loss: what is minimised.
        optimizer: how.
        hardware: on what.
        fold: which part of the cases validates, from 0 on.
        folds: into how many parts cases are split; 1 trains on all, and keeps the last weights.
        steps: of training, at most.
        epochs: crops as many times as there are training cases; given, they tell the steps.
        minutes: of training at most; the learning rate then falls with the time.
        check_every: steps between validations, after which the state is saved.
        seed: of weights, crops and augmentation; the split is the same for all seeds.
        resume: go on from OUT/last.ckpt.
        tensorboard: write events into OUT as well.
        progress: show a bar.

    Raises:
        FileNotFoundError: if a folder or file is missing.
        ValueError: if cases, network and options do not fit together, or OUT has the state of another training.
    """
    out, data = Path(out), Path(data)
    last = state_file(out, resume=resume)
    numbers = {"steps": steps, "check_every": check_every, "epochs": epochs, "minutes": minutes, "folds": folds}
    if wrong := [f"{name} {value}" for name, value in numbers.items() if value is not None and value <= 0]:
        raise ValueError(f"{', '.join(wrong)}: allowed are numbers from 1 on")
    lora, crops, augmentation = lora or LoRAConfig(), crops or CropsConfig(), augmentation or AugmentationConfig()
    loss, optimizer = loss or LossConfig(), optimizer or SegmentationOptimizer()
    hardware, wishes = hardware or HardwareConfig(), plan or Wishes()
    if lora.rank and start is None:
        raise ValueError(f"LoRA of rank {lora.rank} adapts trained weights: give a checkpoint to start from")
    begun = read_start(network, start)
    config = begun.network
    options = plain_options(
        network=config, lora=lora, plan=wishes, crops=crops, augmentation=augmentation, loss=loss, optimizer=optimizer,
        start=start, fold=fold, folds=folds,
        steps=steps, epochs=epochs, minutes=minutes, check_every=check_every, seed=seed,
    )  # fmt: skip
    clock = Clock(steps, minutes)
    if resume:
        require_same(out / OPTIONS, options)
        study = reopen_study(data, out, fold=fold)
    else:
        needs = needs_of(config, axes=wishes.axes, roi=wishes.roi)
        multiple = wishes.multiple or needs.multiple
        if multiple % needs.multiple:
            raise ValueError(f"multiple is {multiple}: the network {config.name} wants a ROI in multiples of {needs.multiple}")
        study = open_study(data, fold=fold, folds=folds, wishes=replace(wishes, multiple=multiple), progress=progress)
    if epochs is not None:
        steps = clock.steps = math.ceil(epochs * len(study.train) / (crops.batch * crops.accumulate * hardware.processes))
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(seed, 0))
        segmenter = new_segmenter(config, study.plan)
        begun.begin(segmenter)
        if lora.rank:
            adapt(segmenter.network, lora)
        segmenter = replace(segmenter, facts={**study.facts, "training": {**options, "steps": steps}})
        cases = Feeding(study, crops, augmentation, steps=steps, check_every=check_every, seed=seed, progress=progress)
        task = SegmentationTask(segmenter, loss=loss, optimizer=optimizer, steps=clock.expected)
        if not resume:  # everything fits: from here on there is something to keep
            out.mkdir(parents=True, exist_ok=True)
            study.write(out)
            write_text_atomic(out / OPTIONS, json.dumps(options, indent=1) + "\n", overwrite=True)
        callbacks: list[Callback] = [_Best(out, adapters=lora.rank > 0), SeededSteps(seed), clock, History(out / METRICS, clock)]
        train_by_steps(
            task,
            cases,
            last,
            hardware=hardware,
            optimizer=optimizer,
            steps=steps,
            callbacks=callbacks,
            accumulate=crops.accumulate,
            logger=events(out) if tensorboard else False,
            resume=resume,
            progress=progress,
        )
    best = max(task.history, key=lambda row: -1.0 if row["dice"] is None else row["dice"])
    return Fit(out / BEST, best["dice"], best["targets"], tuple(task.history), clock.seconds / 60)


def _told(score: float, targets: dict[str, float | None]) -> str:
    each = ", ".join(f"{name} {'-' if value is None else f'{value:.3f}'}" for name, value in targets.items())
    return f"Dice {score:.4f} ({each})"


class _Best(Callback):
    """Writes the weights whenever they do better on the validation cases than all before, so that a stop loses nothing.

    Without validation cases the last ones count as the best. It must come before the callback that averages weights: at the end
    of a validation that one takes the averaged ones back.
    """

    def __init__(self, out: Path, *, adapters: bool) -> None:
        self.out, self.adapters = out, adapters

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SegmentationTask)
        row = pl_module.scores()
        score, before = row["dice"], [other["dice"] for other in pl_module.history]
        if not trainer.is_global_zero:
            return
        told = "no validation" if score is None else _told(score, row["targets"])
        loss = "" if row["loss"] is None else f"loss {row['loss']:.4f}, "
        logger.info("step %d: %s%s", trainer.global_step, loss, told)
        if score is None and any(other is not None for other in before):
            return
        if score is None or score > max((other for other in before if other is not None), default=-1.0):
            segmenter = pl_module.segmenter
            facts = {**segmenter.facts, "validation": {key: row[key] for key in ("step", "dice", "targets")}}
            found = Segmenter(network=merged(pl_module.network), config=segmenter.config, plan=segmenter.plan, facts=facts)
            save_segmenter(self.out / BEST, found)
            if self.adapters:
                save_adapters(self.out / ADAPTERS, pl_module.network)
