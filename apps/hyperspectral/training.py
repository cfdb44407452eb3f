"""Fitting a classifier to labelled pixels."""

import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging, RichProgressBar
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ... import __version__
from ...core.training.runs import interruptible
from ...datasets import Scene
from .encoder_network import EncoderNetwork, SceneEncoder, fingerprint
from .kernel_classifier import KernelClassifier, mean_spectra
from .model import Classifier, ModelInfo
from .recipe import Recipe, TrainingConfig
from .samples import UNLABELLED, Crops, LabelledScene, Mask, at_pixels, centre, require_trainable, validation_folds

logger = logging.getLogger(__name__)

_CORE = 64  # pixels on a side of a tile with labels: small beside a scene, large beside its margin
_TEMPERATURES = torch.logspace(-1, 1, 81)  # 0.1..10 in steps of 6 %


@dataclass(frozen=True)
class Tiling:
    """How tiles with labels are cut for some recipes: pixels of the ``margin`` around a ``core``, both whole windows."""

    margin: int
    core: int


def reach_of(recipe: Recipe) -> tuple[int, int]:
    """Return how far a recipe's models look on each side, and the period of the network's window grid, both in pixels."""
    with torch.device("meta"):
        network = recipe.build(64, 2)  # neither depends on these numbers
    return recipe.reach_of(network), int(network.window)  # type: ignore[arg-type]


def tiling(*recipes: Recipe) -> Tiling:
    """Return tiles with room for the reach and the training crops of every recipe."""
    reaches = [reach_of(recipe) for recipe in recipes]
    window = math.lcm(*(window for _, window in reaches))
    crops = [recipe.crop // 2 + recipe.jitter + 1 for recipe in recipes]
    wanted = max([reach for reach, _ in reaches] + crops, default=0)
    return Tiling(-(-wanted // window) * window, -(-_CORE // window) * window)


def fit(
    scene: Scene,
    labelled: LabelledScene,
    training: Mask,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    precision: torch.dtype = torch.float32,
    progress: bool = False,
    encoder: SceneEncoder | None = None,
) -> Classifier:
    """Fit a classifier to the chosen labelled pixels; no other label is looked at.

    Each member holds out other blocks of them, for early stopping and for the temperature. The same seed gives the same
    weights on a CPU. A pretrained encoder is what each member starts from, if the recipe's network is an encoder; adapters are
    left as they are, beside the layers that they adapt.

    Raises:
        ValueError: fewer than two classes, a class with fewer than two pixels, or an encoder is missing, given in vain, or does
            not fit.
    """
    require_trainable(labelled.classes, labelled.targets[training])
    wavelengths = None if scene.wavelengths is None else scene.wavelengths.tolist()
    if encoder is None and recipe.network == "encoder":
        raise ValueError("the recipe adapts a pretrained encoder: give one (--encoder)")
    base = None if encoder is None else fingerprint(encoder.model)
    info = ModelInfo(__version__, scene.num_bands, wavelengths, labelled.classes, recipe, {}, base)
    spectra = torch.from_numpy(labelled.spectra())
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = Classifier(info)
        if encoder is not None:
            model.adapt(encoder)
        outputs, truths, history = [], [], []
        for number, held_out in enumerate(validation_folds(labelled, training, recipe.training, seed)):
            logger.info("fitting member %d of %d", number + 1, len(model.members))
            started = time.perf_counter()
            member = model.members[number]
            fitted = training & ~held_out
            member.transform.fit(spectra[fitted])
            known, smoothing = torch.from_numpy(labelled.targets[fitted]), recipe.training.label_smoothing
            if member.discriminant is not None:
                member.discriminant.fit(spectra[fitted], known, label_smoothing=smoothing)
            if member.kernel is not None:
                member.kernel.fit(_mean_spectra(labelled, fitted), known, label_smoothing=smoothing)
            seen = labelled.transformed(member.transform)
            if isinstance(member.network, EncoderNetwork):
                _start(member.network, seen, fitted)
            curve = _fit_member(
                member.network, seen, fitted, held_out, recipe, seed=seed + 1000 * number, device=device,
                precision=precision, progress=progress,
            )  # fmt: skip
            entry: dict[str, Any] = {"validation_pixels": int(held_out.sum()), "loss": curve}
            if held_out.any():
                outputs.append(_logits(member, labelled, held_out, torch.device("cpu")))
                truths.append(torch.from_numpy(labelled.targets[held_out]))
                entry["accuracy"] = float((outputs[-1].argmax(1) == truths[-1]).float().mean())
            history.append({**entry, "seconds": round(time.perf_counter() - started, 1)})
    accuracy = confusion = None
    if outputs:
        logits, targets = torch.cat(outputs), torch.cat(truths)
        chosen, classes = logits.argmax(1), len(labelled.classes)
        accuracy = float((chosen == targets).float().mean())
        confusion = torch.bincount(targets * classes + chosen, minlength=classes**2).view(classes, classes).tolist()
        model.temperature.copy_(_temperature(logits, targets))
    info.validation.update(
        accuracy=accuracy,
        confusion=confusion,  # labelled as, mapped as
        note="on blocks held out of the training labels; they also stopped the training, so this is optimistic",
        temperature=round(float(model.temperature), 4),
        members=history,
        trained_parameters=sum(p.numel() for p in model.members[0].network.parameters() if p.requires_grad),
    )
    return model.eval().to(device)


def _mean_spectra(labelled: LabelledScene, chosen: Mask) -> Tensor:
    """Return the mean spectra around some labelled pixels, (windows, pixels, bands)."""
    found = at_pixels(mean_spectra, labelled, chosen, reach=KernelClassifier.receptive_field, window=1)
    return torch.unflatten(found, 1, (-1, len(labelled.tiles[0].values))).transpose(0, 1)


def _start(network: EncoderNetwork, labelled: LabelledScene, training: Mask) -> None:
    """Standardise an encoder's features at the training pixels, and fit the classifier that training starts from."""
    network.eval()
    network.standardize(_outputs(network.features, network, labelled, training))
    if network.config.probe:
        features = _outputs(network.features, network, labelled, training)
        network.start(features.clone(), torch.from_numpy(labelled.targets[training]))
    network.train()


def _fit_member(
    network: nn.Module,
    labelled: LabelledScene,
    training: Mask,
    held_out: Mask,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    precision: torch.dtype,
    progress: bool,
) -> list[float]:
    """Train in place, ending at the weights of the lowest validation loss; return that loss at each validation."""
    config = recipe.training
    frozen = {name: p.detach().clone() for name, p in network.named_parameters() if not p.requires_grad}
    task = _Task(network, labelled, held_out, config)
    if isinstance(network, EncoderNetwork) and network.config.probe and held_out.any():
        network.eval()
        task.judge(torch.device("cpu"))  # where it starts from may be the best of all
        network.train()
    crops = Crops(labelled, training, config, side=recipe.crop, jitter=recipe.jitter, seed=seed)
    callbacks: list[Callback] = [EMAWeightAveraging(decay=0.98)]
    if held_out.any():
        callbacks.append(EarlyStopping("validation", patience=config.patience))
    if progress:
        callbacks.append(RichProgressBar(console_kwargs={"stderr": True}))  # standard output is for results
    trainer = L.Trainer(
        accelerator=device.type,
        devices=[device.index] if device.type == "cuda" else 1,
        precision={torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}.get(precision, "32-true"),  # type: ignore[arg-type]
        max_steps=config.steps,
        val_check_interval=config.check_every,
        check_val_every_n_epoch=None,
        limit_val_batches=1 if held_out.any() else 0,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
    )
    with interruptible():
        trainer.fit(task, DataLoader(crops, batch_size=None), DataLoader(TensorDataset(torch.zeros(1)), batch_size=None))
    if task.best is not None:
        network.load_state_dict(task.best)
    network.load_state_dict(frozen, strict=False)  # to the bit: the average of equal weights is rounded
    network.eval().cpu()
    return task.curve


class _Task(L.LightningModule):
    """Cross-entropy on crops; the validation is the mean loss over the held-out pixels."""

    def __init__(self, network: nn.Module, labelled: LabelledScene, held_out: Mask, config: TrainingConfig) -> None:
        super().__init__()
        self.network, self.config = network, config
        self.best: dict[str, Tensor] | None = None
        self.curve: list[float] = []
        self._labelled, self._held_out = labelled, held_out

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        crops, targets = batch
        logits = self.network(crops)
        loss: Tensor = F.cross_entropy(
            logits, centre(targets, logits), ignore_index=UNLABELLED, label_smoothing=self.config.label_smoothing
        )
        return loss

    def validation_step(self, _: Any) -> None:
        self.log("validation", self.judge(self.device), prog_bar=True, batch_size=1)

    def judge(self, device: torch.device) -> float:
        """Return the loss on the held-out pixels, and remember the weights if there were none better."""
        logits = _logits(self.network, self._labelled, self._held_out, device)
        loss = F.cross_entropy(logits, torch.from_numpy(self._labelled.targets[self._held_out])).item()
        if loss < min(self.curve, default=float("inf")):
            self.best = copy.deepcopy(self.network.state_dict())
        self.curve.append(loss)
        return loss

    def configure_optimizers(self) -> Any:
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=self.config.lr, weight_decay=self.config.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.config.lr, total_steps=self.config.steps, pct_start=0.2)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@torch.inference_mode()
def _logits(network: nn.Module, labelled: LabelledScene, chosen: Mask, device: torch.device) -> Tensor:
    return _outputs(lambda z: network(z.to(device)).float(), network, labelled, chosen)


@torch.inference_mode()
def _outputs(call: Callable[[Tensor], Tensor], network: nn.Module, labelled: LabelledScene, chosen: Mask) -> Tensor:
    """Apply a part of a network, which looks as far as that, at some labelled pixels."""
    reach, window = int(network.receptive_field), int(network.window)  # type: ignore[arg-type]
    return at_pixels(call, labelled, chosen, reach=reach, window=window)


def _temperature(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the divisor of the logits at which the held-out pixels are most likely (Guo et al. 2017, section 4.2)."""
    losses = torch.stack([F.cross_entropy(logits / t, targets) for t in _TEMPERATURES])
    return _TEMPERATURES[losses.argmin()]
