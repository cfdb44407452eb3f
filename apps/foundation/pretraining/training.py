"""Pretraining an encoder on images of many sensors."""

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from ....core.sensors.encoder import EncoderConfig, build_encoder
from ....core.sensors.model import FINAL, FoundationModel, load_model, save_model
from ....core.sensors.normalization import Normalization
from ....core.training.hardware import HardwareConfig
from ....core.training.records import METRICS, OPTIONS, History, events, plain_options, require_same
from ....core.training.runs import BEST, Clock, SeededSteps, seed_of, state_file
from ....core.training.steps import train_by_steps
from ....datasets import Image, write_image, write_text_atomic
from ....datasets.collections import Collection, open_collection, split
from .augmentation import AugmentationConfig
from .autoencoder import AutoencoderConfig, MaskedAutoencoder
from .distillation import Distillation, DistillationConfig
from .feeding import CropsConfig, Feeding, measured
from .task import PretrainingOptimizer, PretrainingTask, ShardedPretrainingTask

logger = logging.getLogger(__name__)

PICTURES = "reconstructions"


@dataclass(frozen=True, kw_only=True)
class PlacesConfig:
    """Which images of DATA are taken, and which of its places.

    Args:
        sensors: whose images; by default all. A scene does not tell its sensor: give it.
        bands: for a sensor, names of the bands in the order of its files, where the files do not tell.
        paired: whether only places are taken that all of the sensors have seen.
        block: cuts a scene into places of so many pixels a side.
        validation: share of the places that validate, at least one; 0 trains on all, as is done where there is only one.
        validation_places: those that validate, by name, instead of a share.
        leave_out: places that have no part, such as those to test on.
    """

    sensors: Sequence[str] = ()
    bands: Mapping[str, Sequence[str]] | None = None
    paired: bool = True
    block: int | None = None
    validation: float = 0.2
    validation_places: Sequence[str] = ()
    leave_out: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse shares that leave nothing."""
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation is {self.validation}: allowed is a share from 0 on, below 1")
        if both := sorted(set(self.validation_places) & set(self.leave_out)):
            raise ValueError(f"places {', '.join(both)} are to validate and to be left out")


@dataclass(frozen=True)
class Pretraining:
    """What came out of a pretraining.

    Args:
        file: of the weights at the end, for ``geovit embed``, ``probe`` and ``classify``.
        best: of the weights with the lowest loss on places held out; None where no place validates.
        history: of every validation: "step", "loss" (mean since the last one) and its "parts", "validation" (the loss on places
            held out, mean over combinations of sensors, which are in "sensors"), "samples_per_second", "tokens_per_second" (of
            whole images, hidden ones too), "minutes".
        minutes: that it took, with those before it was resumed.
    """

    file: Path
    best: Path | None
    history: Sequence[dict[str, Any]]
    minutes: float

    def __rich__(self) -> str:
        """Say it in a line, and how to go on."""
        last = self.history[-1]
        held_out = "" if last["validation"] is None else f", {last['validation']:.4f} on places held out"
        loss = "" if last["loss"] is None else f"loss {last['loss']:.4f}{held_out}, "
        told = f"{loss}{last['step']} steps, {last['samples_per_second']:g} samples/s ({self.minutes:.1f} min)"
        return f"{self.file}: {told}\ngeovit embed IMAGE --model {shlex.quote(str(self.file))}"


def pretrain(
    data: str | Path | Collection,
    out: str | Path = Path("encoder"),
    encoder: EncoderConfig | None = None,
    autoencoder: AutoencoderConfig | None = None,
    *,
    places: PlacesConfig | None = None,
    crops: CropsConfig | None = None,
    augmentation: AugmentationConfig | None = None,
    distillation: DistillationConfig | None = None,
    optimizer: PretrainingOptimizer | None = None,
    hardware: HardwareConfig | None = None,
    start: str | Path | None = None,
    steps: int = 20_000,
    minutes: float | None = None,
    check_every: int = 500,
    seed: int = 0,
    resume: bool = False,
    tensorboard: bool = False,
    progress: bool = False,
) -> Pretraining:
    """Pretrain an encoder on unlabelled images of any sensors: parts of images are hidden, and predicted from the rest.

    OUT gets ``last.safetensors`` (averaged weights, for ``geovit embed``, ``probe`` and ``classify``), ``best.safetensors``
    (those with the lowest loss on places held out), ``metrics.jsonl`` with a line for each validation, ``reconstructions`` with
    pictures of places held out, of what was shown of them and what was made of that, and ``last.ckpt``, from which ``resume``
    goes on as if nothing had happened, with the same options. The same seed gives the same weights on a CPU, unless a limit of
    minutes ends the training.

    Args:
        data: a folder of co-registered rasters, SENSOR/PLACE.tif, or a scene.
        out: folder for the results; it is made.
        encoder: what is trained; by default that of ``start``, else a small vision transformer.
        autoencoder: what is hidden, what is predicted, and the decoder, which is not kept.
        places: which images and places are taken, and which of them validate.
        crops: how training sees the places.
        augmentation: how crops are altered.
        distillation: a loss beside that of the reconstruction, by which what sensors see of a place becomes alike.
        optimizer: how weights move.
        hardware: on what.
        start: an encoder of ``geovit pretrain`` whose weights and scale of values training starts from.
        steps: of training, at most.
        minutes: of training at most; the learning rate then falls with the time.
        check_every: steps between validations, after which the state is saved.
        seed: of weights, crops, augmentation and masks; the split of the places is the same for all seeds.
        resume: go on from OUT/last.ckpt.
        tensorboard: write losses and pictures of reconstructions into OUT as well.
        progress: show a bar.

    Raises:
        FileNotFoundError: if a folder or file is missing.
        ValueError: if images, encoder and options do not fit together, or OUT has the state of another training.
    """
    out = Path(out)
    last = state_file(out, resume=resume)
    numbers = {"steps": steps, "check_every": check_every, "minutes": minutes}
    if wrong := [f"{name} {value}" for name, value in numbers.items() if value is not None and value <= 0]:
        raise ValueError(f"{', '.join(wrong)}: allowed are numbers above 0")
    autoencoder, places, crops = autoencoder or AutoencoderConfig(), places or PlacesConfig(), crops or CropsConfig()
    augmentation, distillation = augmentation or AugmentationConfig(), distillation or DistillationConfig()
    optimizer, hardware = optimizer or PretrainingOptimizer(), hardware or HardwareConfig()
    if hardware.strategy == "fsdp" and (optimizer.average or distillation.weight or autoencoder.context):
        raise ValueError(
            "weights in parts (fsdp) cannot be averaged or distilled: set optimizer.average, distillation.weight and"
            " autoencoder.context to 0"
        )
    begun = None if start is None else load_model(start)
    if begun is not None and encoder is not None and encoder != begun.config:
        raise ValueError(f"the encoder of {start} is {begun.config}: leave the encoder out, or give the same")
    config = (begun.config if begun is not None else encoder) or EncoderConfig()
    options = plain_options(
        encoder=config, autoencoder=autoencoder, places=places, crops=crops, augmentation=augmentation, distillation=distillation,
        optimizer=optimizer, start=start, steps=steps, minutes=minutes, check_every=check_every, seed=seed,
    )  # fmt: skip
    clock = Clock(steps, minutes)
    if resume:
        require_same(out / OPTIONS, options)
    collection = data if isinstance(data, Collection) else _opened(data, places, crops)
    train, validation = _split(collection, places)
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(seed, 0))
        model = begun or FoundationModel(
            encoder=build_encoder(config),
            config=config,
            normalization=Normalization.fitted(measured(train, crops.on_error), logarithm=config.logarithm),
        )
        facts = {"sensors": list(train.sensors), "places": list(train.places), "size": crops.size, "training": options}
        model = replace(model, facts=facts)
        feeding = Feeding(
            train, validation, model.normalization, patch=model.encoder.patch, config=crops, augmentation=augmentation,
            steps=steps, check_every=check_every, seed=seed,
        )  # fmt: skip
        kind = ShardedPretrainingTask if hardware.strategy == "fsdp" else PretrainingTask
        task = kind(
            MaskedAutoencoder(model.encoder, autoencoder),
            distillation=Distillation(model.encoder, distillation) if distillation.weight else None,
            optimizer=optimizer,
            steps=clock.expected,
            seed=seed,
        )
        task.train()
        if not resume:  # everything fits: from here on there is something to keep
            out.mkdir(parents=True, exist_ok=True)
            write_text_atomic(out / OPTIONS, json.dumps(options, indent=1) + "\n", overwrite=True)
        callbacks: list[Callback] = [_Keep(out, model, config), SeededSteps(seed), clock, History(out / METRICS, clock)]
        train_by_steps(
            task,
            feeding,
            last,
            hardware=_spread(hardware),
            optimizer=optimizer,
            steps=steps,
            callbacks=callbacks,
            accumulate=crops.accumulate,
            logger=events(out) if tensorboard else False,
            log_every=min(check_every, 50),
            resume=resume,
            progress=progress,
        )
    best = out / BEST if task.history[-1]["validation"] is not None else None
    return Pretraining(out / FINAL, best, tuple(task.history), clock.seconds / 60)


def _opened(data: str | Path, places: PlacesConfig, crops: CropsConfig) -> Collection:
    return open_collection(
        data,
        sensors=places.sensors or None,
        bands=places.bands,
        paired=places.paired,
        block=places.block,
        on_error=crops.on_error,
    )


def _split(collection: Collection, config: PlacesConfig) -> tuple[Collection, Collection | None]:
    """Return the places for training and those that validate."""
    named = [*config.validation_places, *config.leave_out]
    if unknown := sorted(set(named) - set(collection.places)):
        raise ValueError(f"{collection.source} has no places {', '.join(unknown)}: it has {', '.join(collection.places[:8])}")
    taken = [place for place in collection.places if place not in config.leave_out]
    if len(taken) <= len(config.validation_places):
        raise ValueError(f"{collection.source} has {len(collection)} places: none is left to train on")
    if config.validation_places:
        rest = [place for place in taken if place not in config.validation_places]
        return collection.subset(rest), collection.subset(list(config.validation_places))
    if not config.validation or len(taken) < 2:
        logger.info("no place validates")
        return collection.subset(taken), None
    parts = split(collection.subset(taken), {"train": 1 - config.validation, "validation": config.validation})
    return parts["train"], parts["validation"]


def _spread(hardware: HardwareConfig) -> HardwareConfig:
    """With several devices, expect that a pass leaves some weights out, as those of bands that none of its sensors has."""
    if hardware.processes > 1 and hardware.strategy in ("auto", "ddp"):
        return replace(hardware, strategy="ddp_find_unused_parameters_true")
    return hardware


class _Keep(Callback):
    """Writes the weights after every validation, and those that do best in it, so that a stop loses nothing.

    It must come before the callback that averages weights: at the end of a validation that one takes the averaged ones back.
    """

    def __init__(self, out: Path, model: FoundationModel, config: EncoderConfig) -> None:
        self.out, self.model, self.config = out, model, config

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, PretrainingTask)
        row = pl_module.row()
        before = [other["validation"] for other in pl_module.history]
        state = trainer.strategy.lightning_module_state_dict()  # on all devices: each may hold a part of it
        if not trainer.is_global_zero:
            return
        score = row["validation"]
        told = "" if score is None else f", {score:.4f} on places held out"
        loss = "no training step" if row["loss"] is None else f"loss {row['loss']:.4f}"
        logger.info("step %d: %s%s, %g samples/s", row["step"], loss, told, row["samples_per_second"])
        prefix = "autoencoder.encoder."
        encoder = build_encoder(self.config)
        assert isinstance(encoder, nn.Module)
        encoder.load_state_dict({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})
        figures = {key: row[key] for key in ("step", "loss", "validation")}
        found = replace(self.model, encoder=encoder, facts={**self.model.facts, "validation": figures})
        save_model(self.out / FINAL, found)
        for name, picture in pl_module.pictures.items():
            file = self.out / PICTURES / f"{name.replace('/', '_')}.png"
            file.parent.mkdir(exist_ok=True)
            write_image(file, Image(pixels=picture), overwrite=True)
        if score is not None and all(other is None or score < other for other in before):
            save_model(self.out / BEST, found)
