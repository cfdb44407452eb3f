"""What is fitted and how: one typed object, filled from YAML."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from torch import nn

from .baselines import BASELINES
from .discriminant import LinearDiscriminant
from .encoder_network import EncoderNetwork, EncoderNetworkConfig, SensorTransform
from .kernel_classifier import KernelClassifier
from .lola_specvit import LolaSpecViTConfig
from .patches import SlidingPatches
from .spectra import SpectralTransform, SpectralTransformConfig
from .spectral_swin import SpectralSwin, SpectralSwinConfig

NetworkName = Literal["spectral_swin", "lola_specvit", "encoder"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of training.

    Args:
        members: networks that are fitted, each with other validation blocks held out, and averaged.
        steps: optimiser steps of each at the most.
        batch: crops in a step.
        crop: pixels on a side of a crop; a patch network and an encoder take their own size.
        lr: peak of the one-cycle schedule.
        weight_decay: of AdamW.
        label_smoothing: of the cross-entropy.
        noise: standard deviation of noise added to the whitened spectra.
        band_dropout: share of the features set to zero in a crop.
        gain: standard deviation of a random factor (around 1) and offset on each crop.
        validation: share of the training labels held out for early stopping and calibration, in whole blocks.
        block: pixels on a side of these blocks.
        check_every: steps between two validations.
        patience: validations without improvement before a member stops.
    """

    members: int = 3
    steps: int = 150
    batch: int = 16
    crop: int = 12
    lr: float = 2e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    noise: float = 0.3
    band_dropout: float = 0.3
    gain: float = 0.1
    validation: float = 0.1
    block: int = 8
    check_every: int = 50
    patience: int = 2


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A network with its settings, the transform of its input, and its training.

    Args:
        network: which of the networks below is built; the settings of the others are not used.
        spectral_swin: settings of the dense network.
        lola_specvit: settings of the published patch network. Its bands and classes are taken from the scene.
        encoder: settings of a pretrained encoder, adapted to the labels.
        transform: of the spectra; an encoder has its own.
        discriminant: shrinkage of the linear discriminant of single spectra whose probabilities are averaged with those of the
            network; None leaves it out. The published patch network is always alone.
        kernel: support spectra, at most, of the kernel classifier that is averaged with network and discriminant in the same way;
            None leaves it out.
        training: of the network.
    """

    network: NetworkName = "spectral_swin"
    spectral_swin: SpectralSwinConfig = field(default_factory=SpectralSwinConfig)
    lola_specvit: LolaSpecViTConfig = field(default_factory=LolaSpecViTConfig)
    encoder: EncoderNetworkConfig = field(default_factory=EncoderNetworkConfig)
    transform: SpectralTransformConfig = field(default_factory=SpectralTransformConfig)
    discriminant: float | None = 0.02
    kernel: int | None = 1000
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def build(self, features: int, classes: int) -> nn.Module:
        """Return the network, untrained: (batch, features, height, width) to logits (batch, classes, height', width').

        The output may be smaller than the input by the same number of pixels on every side. The network tells its reach in
        pixels as ``receptive_field`` and the period of its window grid as ``window``.
        """
        if self.network == "spectral_swin":
            return SpectralSwin(features, classes, config=self.spectral_swin)
        if self.network == "encoder":
            return EncoderNetwork(features, classes, config=self.encoder)
        return SlidingPatches(features, classes, config=self.lola_specvit)

    def build_transform(self, bands: int) -> SpectralTransform | SensorTransform:
        """Return what goes before the network, not fitted yet."""
        return (
            SensorTransform(bands, self.encoder.scale) if self.network == "encoder" else SpectralTransform(bands, self.transform)
        )

    def build_discriminant(self, bands: int, classes: int) -> LinearDiscriminant | None:
        """Return what stands beside the network, not fitted yet: raw spectra to logits. None where nothing does."""
        if self.discriminant is None or self.network == "lola_specvit":
            return None
        return LinearDiscriminant(bands, classes, shrinkage=self.discriminant)

    def build_kernel(self, bands: int, classes: int) -> KernelClassifier | None:
        """Return what else stands beside the network, likewise."""
        if self.kernel is None or self.network == "lola_specvit":
            return None
        return KernelClassifier(bands, classes, supports=self.kernel)

    def reach_of(self, network: nn.Module) -> int:
        """Return how far what ``build`` gave and what stands beside it look on each side, in pixels."""
        beside = 0 if self.kernel is None or self.network == "lola_specvit" else KernelClassifier.receptive_field
        return max(int(network.receptive_field), beside)  # type: ignore[arg-type]

    @property
    def crop(self) -> int:
        """Pixels on a side of a training crop."""
        if self.network == "encoder":
            return self.encoder.context * self.encoder.architecture.patch
        return self.training.crop if self.network == "spectral_swin" else self.lola_specvit.patch

    @property
    def jitter(self) -> int:
        """Pixels by which the crop's centre may miss its labelled pixel; a patch network classifies just that."""
        if self.network == "encoder":
            return (self.crop - 1) // 2  # anywhere in a window, as pixels of a map are
        return self.training.crop // 4 if self.network == "spectral_swin" else 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in YAML."""
        return asdict(self)


DEFAULT_RECIPE = Recipe()


def recipe_files() -> dict[str, Path]:
    """Names and files of the recipes that come with the package."""
    folder = Path(__file__).parents[2] / "configs" / "hyperspectral"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def named_recipe(name: str) -> Recipe:
    """Read a recipe that comes with the package, or a YAML file.

    Raises:
        ValueError: neither, or a file whose settings are not those of a recipe.
    """
    file = recipe_files().get(name, Path(name))
    if not file.is_file():
        raise ValueError(f"no model or recipe {name!r}: allowed are {', '.join([*BASELINES, *recipe_files()])} and YAML files")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not YAML ({' '.join(str(error).split())})") from error
    return recipe_from_dict(values or {}, str(file))


def recipe_from_dict(values: object, name: str) -> Recipe:
    """Fill a recipe from plain values; an unknown key or a value of another type is a ValueError that names ``name``."""
    if not isinstance(values, dict):
        raise ValueError(f"{name} is no recipe: expected settings by name, got {type(values).__name__}")  # noqa: TRY004
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe, "recipe")
    try:
        recipe: Recipe = parser.instantiate(parser.parse_object({"recipe": values})).recipe
    except (ArgumentError, TypeError, ValueError) as error:
        raise ValueError(f"{name} is no recipe: {' '.join(str(error).split())}") from error
    return recipe
