"""Fitting a restoration network to pairs of images."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch import Tensor

from ... import __version__
from ...core.training.hardware import HardwareConfig
from ...core.training.optimizer import OptimizerConfig
from ...core.training.runs import BEST, seed_of, state_file
from ...core.training.steps import train_by_steps
from ...datasets.pairs import Pair
from .degradation import Degradation, DegradationConfig
from .losses import Loss, LossConfig
from .metrics import psnr, to_uint8
from .network import Network
from .resize import matlab_resize
from .training_data import ImagesConfig, TrainingData
from .weights import Architecture, architecture_of, load_restorer, save_restorer

logger = logging.getLogger(__name__)

_LEAST_SHARE = 0.5  # of weights that a start must bring: those for another scale lack the last layers


@dataclass(frozen=True)
class Fit:
    """What came out of a training: PSNR in dB on the validation images, rounded as they are saved.

    Args:
        file: of the best weights.
        best: their PSNR.
        baseline: the PSNR of the sources, enlarged bicubically if they are smaller.
        curve: the PSNR after every ``check_every`` steps.
        seconds: that it took.
    """

    file: Path
    best: float
    baseline: float
    curve: Sequence[float]
    seconds: float

    def __rich__(self) -> str:
        """Say it in a line."""
        return (
            f"{self.file}: {self.best:.2f} dB PSNR on the validation images, whose sources have {self.baseline:.2f} dB "
            f"({self.seconds:.0f} s)"
        )


def fit(
    images: ImagesConfig,
    out: Path = Path("restoration"),
    network: Callable[[], Network] | None = None,
    *,
    start: Path | None = None,
    degradation: DegradationConfig | None = None,
    loss: LossConfig | None = None,
    optimizer: OptimizerConfig | None = None,
    hardware: HardwareConfig | None = None,
    steps: int = 100_000,
    check_every: int = 5_000,
    seed: int = 0,
    luma: bool = True,
    resume: bool = False,
    notes: Mapping[str, str] | None = None,
    progress: bool = False,
) -> Fit:
    """Fit a restoration network to images, and keep the weights that do best on the validation images.

    OUT gets ``best.safetensors`` (averaged weights, in the published layout of the architecture) and ``last.ckpt``, from which
    ``resume`` goes on as if nothing had happened. The same seed gives the same weights on a CPU.

    Args:
        images: which images.
        out: folder for the results; it is made.
        network: a class of networks with its options, such as ``{class_path: Compact, init_args: {scale: 2}}``.
        start: a checkpoint whose weights training starts from; it also tells the network, if none is given. One for another
            scale serves too: layers of other shapes start at random, which is logged.
        degradation: how sources are made of targets; by default bicubic shrinking by the network's scale.
        loss: what is minimised.
        optimizer: how.
        hardware: on what.
        steps: of training.
        check_every: steps between validations, after which the state is saved.
        seed: of weights, crops and degradations.
        luma: whether PSNR is that of the luma of colour images, as is usual for super-resolution, or of all channels.
        resume: go on from OUT/last.ckpt.
        notes: what the file of weights tells beside the facts of the training, such as the images' licence.
        progress: show a bar.

    Raises:
        FileNotFoundError: if a folder or file is missing.
        ValueError: if images, network and options do not fit together, or OUT has the state of another training.
    """
    out = Path(out)
    last = state_file(out, resume=resume)
    if steps < 1 or check_every < 1:
        raise ValueError(f"steps {steps} and check_every {check_every}: allowed are numbers from 1 on")
    begun = time.perf_counter()
    optimizer, hardware = optimizer or OptimizerConfig(), hardware or HardwareConfig()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = _network(network, start)
        degrade = Degradation(degradation or DegradationConfig())
        data = TrainingData(images, module, degrade, steps=steps, check_every=check_every, seed=seed)
        task = _Task(module, Loss(loss or LossConfig()), degrade, optimizer, steps=steps, crop=images.crop, luma=luma, seed=seed)
        facts = {
            "training": f"{steps} steps of {images.batch} crops of {images.crop} x {images.crop} pixels, seed {seed}",
            **(notes or {}),
        }
        out.mkdir(parents=True, exist_ok=True)
        best = _Best(out / BEST, architecture_of(module), facts)
        train_by_steps(
            task,
            data,
            last,
            hardware=hardware,
            optimizer=optimizer,
            steps=steps,
            callbacks=[best],
            resume=resume,
            progress=progress,
        )
    baseline = sum(_psnr(_enlarged(pair, module.scale), pair.target, module.scale, luma) for pair in data.validation)
    return Fit(out / BEST, max(task.curve), baseline / len(data.validation), tuple(task.curve), time.perf_counter() - begun)


def _network(make: Callable[[], Network] | None, start: Path | None) -> Network:
    if start is None:
        if make is None:
            raise ValueError("neither a network nor a checkpoint to start from was given")
        return make()
    begun = load_restorer(start).network.train()
    if make is None:
        return begun
    module = make()
    own = module.state_dict()
    fitting = {k: v for k, v in begun.state_dict().items() if k in own and own[k].shape == v.shape}
    share = sum(v.numel() for v in fitting.values()) / sum(v.numel() for v in own.values())
    if share < _LEAST_SHARE:
        raise ValueError(f"{start} holds {share:.0%} of the weights of this {type(module).__name__}: expected {_LEAST_SHARE:.0%}")
    if fresh := [k for k in own if k not in fitting]:
        logger.info("%d of %d tensors are not in %s and start at random: %s", len(fresh), len(own), start, ", ".join(fresh))
    module.load_state_dict(fitting, strict=False)
    return module


class _Task(L.LightningModule):
    """The loss on crops, and the PSNR on whole validation images."""

    def __init__(
        self,
        network: Network,
        loss: Loss,
        degradation: Degradation,
        optimizer: OptimizerConfig,
        *,
        steps: int,
        crop: int,
        luma: bool,
        seed: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.curve: list[float] = []
        self._loss, self._degradation, self._optimizer = loss, degradation, optimizer
        self._steps, self._crop, self._luma, self._seed = steps, crop, luma, seed
        self._scores: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        source, target = batch
        if self._degradation.random and source.shape == target.shape and source.shape[-1] > self._crop:
            source, target = self._degradation.crops(target, self.network.scale, self._crop, self._generator())
        loss = self._loss(self.network(source), target)
        self.log("loss", loss, prog_bar=True)
        return loss

    def _generator(self) -> torch.Generator:
        """Of this step and device alone, so that a training that is resumed draws what it would have drawn."""
        return torch.Generator().manual_seed(seed_of(self._seed, self.global_step, self.global_rank))

    def validation_step(self, images: tuple[NDArray[Any], NDArray[Any]]) -> None:
        source_HWC, target_HWC = images
        source = torch.from_numpy(np.moveaxis(source_HWC, -1, 0).astype(np.float32) / np.iinfo(source_HWC.dtype).max)[None]
        with torch.autocast(self.device.type, enabled=False):
            restored = self.network(source.to(self.device).contiguous())
        image = np.moveaxis(restored[0].float().cpu().numpy(), 0, -1)
        self._scores.append(_psnr(to_uint8(image), target_HWC, self.network.scale, self._luma))

    def score(self) -> float:
        """Return the mean PSNR over the images of the validation that is going on."""
        return sum(self._scores) / len(self._scores)

    def on_validation_epoch_end(self) -> None:
        self.curve.append(self.score())
        self._scores = []
        self.log("psnr", self.curve[-1], prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizer, schedule = self._optimizer.build(self.network.parameters(), self._steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["curve"] = self.curve

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.curve = list(checkpoint["curve"])


class _Best(Callback):
    """Writes the weights whenever they do better on the validation images than all before, so that a stop loses nothing.

    It must come before the callback that averages weights: at the end of a validation that one takes the averaged ones back.
    """

    def __init__(self, file: Path, architecture: Architecture, facts: Mapping[str, str]) -> None:
        self.file, self.architecture, self.facts = file, architecture, facts

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, _Task)
        score = pl_module.score()
        if not trainer.is_global_zero:
            return
        logger.info("step %d: %.3f dB", trainer.global_step, score)
        if score > max(pl_module.curve, default=float("-inf")):
            network = pl_module.network
            found = {
                "geovit": __version__,
                "architecture": self.architecture.name,
                "scale": str(network.scale),
                "validation": f"{score:.2f} dB PSNR after {trainer.global_step} steps",
            }
            save_restorer(self.file, network, self.architecture, {**found, **self.facts})


def _enlarged(pair: Pair, scale: int) -> NDArray[Any]:
    assert pair.source is not None
    bigger = matlab_resize(pair.source, scale) if scale > 1 else pair.source
    return _as_bytes(bigger)


def _psnr(restored_HWC: NDArray[np.uint8], target_HWC: NDArray[Any], scale: int, luma: bool) -> float:
    return psnr(restored_HWC, _as_bytes(target_HWC), crop=scale if scale > 1 else 0, luma=luma)


def _as_bytes(image_HWC: NDArray[Any]) -> NDArray[np.uint8]:
    return image_HWC if image_HWC.dtype == np.uint8 else to_uint8(image_HWC / np.iinfo(image_HWC.dtype).max)
