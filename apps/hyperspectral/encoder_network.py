"""A pretrained encoder of any sensor as a classifier of pixels, adapted to a few labels."""

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from ...core.backbones.dense_encoder import DenseEncoder
from ...core.layers.lora import add_lora, load_lora, lora_state_dict, merge_lora
from ...core.sensors.encoder import EncoderConfig, build_encoder
from ...core.sensors.model import FoundationModel
from ...core.weights import load_into
from ...datasets import Scene
from .baselines import logistic

Adaptation = Literal["lora", "freeze", "full", "scratch"]

_BEYOND = 0.15  # of the shortest and longest wavelength that an encoder has seen: there its scales still hold
_FAR = 4.0  # standard deviations between the scene's mean and that of the encoder's images: another unit, not another place


@dataclass(frozen=True, kw_only=True)
class EncoderNetworkConfig:
    """Settings of ``EncoderNetwork``.

    Args:
        adaptation: lora: adapters of low rank on the encoder's linear layers are trained, with the classifier; freeze: the
            classifier alone; full: everything; scratch: everything, from random weights, to compare with.
        rank: of the adapters.
        alpha: their strength is alpha / rank; default: the rank.
        context: tokens on a side of the windows that the encoder sees at once.
        stride: pixels on a side that share a token; 1 is sharpest.
        spectra: whether the classifier sees each pixel's spectrum beside the encoder's features.
        probe: whether the classifier starts from the logistic regression on the features as they are before training.
        dropout: of the features before the classifier.
        scale: reflectance is a scene's number times this.
        architecture: of the encoder; taken from its file.
    """

    adaptation: Adaptation = "lora"
    rank: int = 8
    alpha: float | None = None
    context: int = 6
    stride: int = 1
    spectra: bool = True
    probe: bool = True
    dropout: float = 0.1
    scale: float = 1e-4
    architecture: EncoderConfig = field(default_factory=EncoderConfig)


class EncoderNetwork(nn.Module):
    """Normalised reflectance (batch, bands, height, width) to logits (batch, classes, height, width)."""

    wavelengths: Tensor
    gsd: Tensor
    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, bands: int, classes: int, *, config: EncoderNetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.dense = DenseEncoder(build_encoder(config.architecture), context=config.context, stride=config.stride)
        self.dropout = nn.Dropout(config.dropout)
        features = self.dense.dim + bands * config.spectra
        self.head = nn.Linear(features, classes)
        self.register_buffer("wavelengths", torch.zeros(bands))
        self.register_buffer("gsd", torch.ones(()))
        self.register_buffer("feature_mean", torch.zeros(features))
        self.register_buffer("feature_std", torch.ones(features))
        self.window, self.receptive_field = self.dense.window, self.dense.receptive_field

    @property
    def encoder(self) -> nn.Module:
        """The encoder, with adapters if it has been adapted."""
        assert isinstance(self.dense.encoder, nn.Module)
        return self.dense.encoder

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.features(x).permute(0, 2, 3, 1)))
        return logits.permute(0, 3, 1, 2)

    def features(self, x: Tensor) -> Tensor:
        """Return what the classifier sees: (batch, features, height, width)."""
        seen: Tensor = self.dense(x, self.wavelengths, self.gsd)
        if self.config.spectra:
            seen = torch.cat([seen, x.permute(0, 2, 3, 1).to(seen.dtype)], dim=-1)
        seen = (seen - self.feature_mean) / self.feature_std
        return seen.permute(0, 3, 1, 2)

    @torch.no_grad()
    def standardize(self, features_ND: Tensor) -> None:
        """Give features zero mean and unit deviation, as they are at the training pixels before training.

        Pretrained features differ little between pixels beside what all pixels share: on them as they are, a linear classifier
        learns slowly (He et al. 2022, MAE, appendix A.1, has a batch norm in its place).
        """
        self.feature_mean.copy_(features_ND.mean(0))
        self.feature_std.copy_(features_ND.std(0, correction=0).clamp_min(1e-3))

    @torch.no_grad()
    def start(self, features_ND: Tensor, targets_N: Tensor) -> None:
        """Start the classifier from a logistic regression on standardised features, as ``features`` gives them.

        A random classifier sends random gradients into the adapters for as long as it takes to learn what a regression finds at
        once (Kumar et al. 2022, section 3.4: linear probing, then fine-tuning).
        """
        targets = targets_N.numpy()
        found = logistic(targets, seed=0).fit(features_ND.numpy(), targets)
        scaling, rotation, regression = getattr(found, "best_estimator_", found)
        weight = regression.coef_ @ rotation.components_ / scaling.scale_
        bias = regression.intercept_ - weight @ scaling.mean_ - regression.coef_ @ rotation.components_ @ rotation.mean_
        weight_KD, bias_K = torch.from_numpy(weight).float(), torch.from_numpy(bias).float()
        if len(regression.classes_) == 2:  # of two classes it tells the difference
            weight_KD, bias_K = torch.cat([-weight_KD, weight_KD]) / 2, torch.cat([-bias_K, bias_K]) / 2
        self.head.weight.zero_()
        self.head.bias.fill_(float(bias_K.min()) - 2)  # classes without a training pixel
        self.head.weight[regression.classes_] = weight_KD
        self.head.bias[regression.classes_] = bias_K

    def adapt(self, source: "SceneEncoder") -> None:
        """Take the weights of a pretrained encoder, and leave trainable what the settings say.

        Raises:
            ValueError: if they do not fit, or for an impossible rank.
        """
        self.wavelengths.copy_(source.wavelengths)
        self.gsd.fill_(source.gsd)
        if self.config.adaptation != "scratch":
            self.load_base(source.model)
        if self.config.adaptation in ("lora", "freeze"):
            self.encoder.requires_grad_(False)
        if self.config.adaptation == "lora":
            # What reads the bands stays: it is shared by all sensors, and its layers make weights and no features.
            add_lora(self.encoder.get_submodule("blocks"), rank=self.config.rank, alpha=self.config.alpha)

    def load_base(self, model: FoundationModel) -> None:
        """Take an encoder's weights.

        Raises:
            ValueError: if they do not fit.
        """
        assert isinstance(model.encoder, nn.Module)
        load_into(self.encoder, model.encoder.state_dict())

    def merge(self) -> None:
        """Fold adapters into the layers that they adapt, in place."""
        merge_lora(self.encoder)

    def own_state(self) -> dict[str, Tensor]:
        """Return what is not the pretrained encoder: adapters, classifier, and what is known of the bands."""
        rest = {name: t for name, t in self.state_dict().items() if not name.startswith("dense.")}
        return rest | {f"adapters.{name}": t for name, t in lora_state_dict(self.encoder).items()}

    def load_own_state(self, state: dict[str, Tensor]) -> None:
        """Take what ``own_state`` gave, and merge it into the encoder.

        Raises:
            ValueError: if it does not fit.
        """
        adapters = {name.removeprefix("adapters."): t for name, t in state.items() if name.startswith("adapters.")}
        if adapters:
            load_lora(self.encoder, adapters)
            self.merge()
        rest = {name: t for name, t in state.items() if not name.startswith("adapters.")}
        load_into(self, rest | {name: t for name, t in self.state_dict().items() if name.startswith("dense.")})


@dataclass(frozen=True, eq=False)
class SceneEncoder:
    """A pretrained encoder and what it has to know of a scene: made by ``encoder_for``.

    Args:
        model: the encoder with its scales.
        wavelengths: (bands,), nm, of the scene.
        gsd: metres from a pixel to the next.
    """

    model: FoundationModel
    wavelengths: Tensor
    gsd: float


def encoder_for(scene: Scene, model: FoundationModel) -> SceneEncoder:
    """Check that an encoder can read a scene.

    Raises:
        ValueError: the scene has no wavelengths, no size of pixels in metres, or bands that the encoder knows nothing about.
    """
    if scene.wavelengths is None:
        raise ValueError(f"{scene.path} has no wavelengths: an encoder cannot tell what its {scene.num_bands} bands are")
    crs = scene.grid.crs
    if crs is None or not crs.is_projected:
        raise ValueError(
            f"{scene.path}: its pixels have no size in metres ({crs.to_string() if crs else 'no CRS'}): an encoder wants a scene"
            " in a projected CRS"
        )
    gsd = abs(scene.grid.transform.determinant) ** 0.5 * crs.linear_units_factor[1]
    known = model.normalization.wavelengths
    known = known[known > 0]
    if not len(known):
        raise ValueError(f"{scene.path}: the encoder was trained on radar bands only")
    low, high = float(known.min()), float(known.max())
    outside = [w for w in scene.wavelengths.tolist() if not low * (1 - _BEYOND) <= w <= high * (1 + _BEYOND)]
    if outside:
        first = ", ".join(f"{w:.0f}" for w in outside[:3])
        raise ValueError(
            f"{scene.path}: {len(outside)} of its bands, such as {first} nm, lie outside of the {low:.0f}..{high:.0f} nm that the"
            " encoder was trained on"
        )
    return SceneEncoder(model, torch.tensor(scene.wavelengths, dtype=torch.float32), gsd)


class SensorTransform(nn.Module):
    """Raw spectra (batch, bands, height, width) to an encoder's normalised reflectance, zeros at pixels that are not valid."""

    band_mean: Tensor
    band_std: Tensor
    mean: Tensor
    deviation: Tensor
    logarithm: Tensor

    def __init__(self, bands: int, scale: float) -> None:
        super().__init__()
        self.features, self.scale = bands, scale
        self.register_buffer("band_mean", torch.zeros(bands))  # of the raw bands, to tell whether another scene is alike
        self.register_buffer("band_std", torch.ones(bands))
        self.register_buffer("mean", torch.zeros(bands))
        self.register_buffer("deviation", torch.ones(bands))
        self.register_buffer("logarithm", torch.zeros(()))  # see ``Normalization``

    def adapt(self, source: SceneEncoder) -> None:
        """Take the encoder's scales."""
        mean, deviation = source.model.normalization.at(source.wavelengths)
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)
        self.logarithm.fill_(source.model.normalization.logarithm)

    @torch.no_grad()
    def fit(self, spectra_NC: Tensor) -> "SensorTransform":
        """Take the statistics of training spectra, finite values of shape (pixels, bands).

        Raises:
            ValueError: if they are in another unit than the encoder's images.
        """
        self.band_mean.copy_(spectra_NC.mean(0))
        self.band_std.copy_(spectra_NC.std(0, correction=0).clamp_min(1e-6))
        distance = float(((self._scaled(self.band_mean) - self.mean) / self.deviation).abs().median())
        if distance > _FAR:
            raise ValueError(
                f"values times {self.scale:g} are no reflectance like that of the encoder's images: the mean is {distance:.1f}"
                " standard deviations off (median over bands); set encoder.scale in a recipe"
            )
        return self

    def forward(self, x: Tensor) -> Tensor:
        valid = x.isfinite().all(1, keepdim=True)
        x = (self._scaled(x) - self.mean[:, None, None]) / self.deviation[:, None, None]
        return torch.where(valid, x, 0.0)

    def _scaled(self, x: Tensor) -> Tensor:
        reflectance = x * self.scale
        if torch.compiler.is_exporting():  # which cannot branch on values
            return torch.where(self.logarithm > 0, (reflectance.clamp_min(0) + self.logarithm).log(), reflectance)
        return (reflectance.clamp_min(0) + self.logarithm).log() if self.logarithm > 0 else reflectance


def fingerprint(model: FoundationModel) -> str:
    """Return a short text that differs between encoders."""
    assert isinstance(model.encoder, nn.Module)
    digest = hashlib.sha256()
    for name, tensor in sorted(model.encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
