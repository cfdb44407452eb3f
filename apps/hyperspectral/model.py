"""A fitted classifier, saved as one safetensors file.

It holds member networks with their transforms, a temperature, and what they were fitted on.
"""

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from ...core.engines import EngineName, is_exported
from ...core.sensors.model import FoundationModel
from ...core.weights import load_into, load_state, save_module
from ...datasets import ClassInfo
from .encoder_network import EncoderNetwork, SceneEncoder, SensorTransform, fingerprint
from .recipe import Recipe, recipe_from_dict

FORMAT = "geovit hyperspectral classifier 1"
ADAPTERS = "geovit hyperspectral adapters 1"
_NEVER = 1e12  # nm^2, more than all pairs of near bands together


@dataclass(frozen=True)
class ModelInfo:
    """What a model file says about itself.

    Args:
        version: of geovit that wrote it.
        bands: number of bands.
        wavelengths: centre of each band in nm; None if the scene had none.
        classes: in the order of the network's outputs.
        recipe: that was fitted.
        validation: measured while fitting.
        encoder: fingerprint of the pretrained encoder that was adapted; None if there was none.
    """

    version: str
    bands: int
    wavelengths: list[float] | None
    classes: tuple[ClassInfo, ...]
    recipe: Recipe
    validation: dict[str, Any]
    encoder: str | None = None


class Member(nn.Module):
    """A network, the transform of its input, and what stands beside it: raw spectra (batch, bands, height, width) to logits.

    The probabilities of all are averaged. Each member has a transform, a discriminant and a kernel classifier of its own, whose
    statistics leave out the pixels that validate it.
    """

    def __init__(self, info: ModelInfo) -> None:
        super().__init__()
        self.transform = info.recipe.build_transform(info.bands)
        self.network = info.recipe.build(self.transform.features, len(info.classes))
        self.discriminant = info.recipe.build_discriminant(info.bands, len(info.classes))
        self.kernel = info.recipe.build_kernel(info.bands, len(info.classes))
        self.window = int(self.network.window)  # type: ignore[arg-type]
        self.receptive_field = info.recipe.reach_of(self.network)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(self.transform(x)).float()
        beside = [classifier(x) for classifier in (self.discriminant, self.kernel) if classifier is not None]
        return torch.stack([logits, *beside]).log_softmax(2).logsumexp(0) if beside else logits

    def measured(self) -> dict[str, nn.Module]:
        """Return the parts by name that are solved for on the training pixels, and not trained."""
        parts = {"transform": self.transform, "discriminant": self.discriminant, "kernel": self.kernel}
        return {name: part for name, part in parts.items() if part is not None}


class Classifier(nn.Module):
    """Raw spectra (batch, bands, height, width), NaN where nodata, to class probabilities (batch, classes, height', width').

    The members' probabilities are averaged. One temperature, of all their logits, calibrates them (Guo et al. 2017, section
    4.2).
    """

    engine: EngineName | None = None  # that runs it, where it is not PyTorch
    members: Sequence[Member]  # a ModuleList of nothing else
    temperature: Tensor

    def __init__(self, info: ModelInfo) -> None:
        super().__init__()
        self.info = info
        self.members = nn.ModuleList(Member(info) for _ in range(info.recipe.training.members))  # type: ignore[assignment]
        self.register_buffer("temperature", torch.ones(()))

    @property
    def window(self) -> int:
        """Period of the window grid in pixels: tiles start at multiples of it."""
        return self.members[0].window

    @property
    def receptive_field(self) -> int:
        """Reach in pixels on every side."""
        return self.members[0].receptive_field

    @property
    def halo(self) -> int:
        """Pixels to read around a tile: the reach, rounded up to whole windows."""
        return math.ceil(self.receptive_field / self.window) * self.window

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([(member(x) / self.temperature).softmax(1) for member in self.members]).mean(0)

    def adapt(self, source: SceneEncoder) -> None:
        """Give the members the weights of a pretrained encoder, with adapters where the recipe wants them.

        Raises:
            ValueError: the recipe's network is no encoder, or the weights do not fit.
        """
        for member in self.members:
            if not isinstance(member.network, EncoderNetwork) or not isinstance(member.transform, SensorTransform):
                raise ValueError(f"an encoder was given, but the recipe's network is {self.info.recipe.network}")  # noqa: TRY004
            member.network.adapt(source)
            member.transform.adapt(source)

    def merge(self) -> "Classifier":
        """Fold adapters into the layers that they adapt, in place."""
        for member in self.members:
            if isinstance(member.network, EncoderNetwork):
                member.network.merge()
        return self

    def save(self, path: Path) -> None:
        """Write weights, statistics and info; adapters are merged in the file."""
        whole = copy.deepcopy(self).merge() if self.info.recipe.network == "encoder" else self
        save_module(path, whole, self._metadata(FORMAT))

    def save_adapters(self, path: Path, adapters: dict[str, Tensor]) -> None:
        """Write what ``adapters`` gave: for ``load_classifier`` with the encoder."""
        save_module(path, adapters, self._metadata(ADAPTERS))

    def adapters(self) -> dict[str, Tensor]:
        """Return what was trained and measured, without the encoder that it adapts. A merge ends it: ask before.

        Raises:
            ValueError: the encoder itself was trained, or there is none.
        """
        chosen, network = self.info.recipe.encoder.adaptation, self.info.recipe.network
        if network != "encoder" or chosen not in ("lora", "freeze"):
            what = chosen if network == "encoder" else network
            raise ValueError(f"adapters alone can be written after lora or freeze: {what} trains all weights")
        state = {"temperature": self.temperature.clone()}
        for i, member in enumerate(self.members):
            assert isinstance(member.network, EncoderNetwork)
            state |= {f"{i}.network.{name}": tensor for name, tensor in member.network.own_state().items()}
            for part, module in member.measured().items():
                state |= {f"{i}.{part}.{name}": tensor for name, tensor in module.state_dict().items()}
        return state

    def _metadata(self, kind: str) -> dict[str, str]:
        info = {**asdict(self.info), "recipe": self.info.recipe.to_dict()}
        return {"format": kind, "info": json.dumps(info)}


def load_classifier(path: str | Path, encoder: FoundationModel | None = None, engine: EngineName | None = None) -> Classifier:
    """Read a file that ``Classifier.save`` or ``save_adapters`` wrote, or `geovit export`.

    Args:
        path: of the file.
        encoder: that the adapters of the latter belong to; for others None.
        engine: that runs a file of `geovit export`: "onnx" or "openvino". Default: the one that the file is made for.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, a damaged one, adapters without their encoder, or an encoder that nothing asks for.
    """
    path = Path(path)
    if engine is not None or is_exported(path):
        from .exporting import exported_classifier

        if encoder is not None:
            raise ValueError(f"{path} is exported and holds all weights: an encoder beside it is of no use")
        return exported_classifier(path, engine)
    tensors, metadata = load_state(path)
    kind = metadata.get("format")
    if kind not in (FORMAT, ADAPTERS):
        raise ValueError(f"{path} is not a model of `geovit classify`: its format is {kind!r}")
    if kind == FORMAT and encoder is not None:
        raise ValueError(f"{path} holds all weights: an encoder beside it is of no use")
    try:
        info = json.loads(metadata["info"])
        classes = tuple(ClassInfo(c["value"], c["name"], tuple(c["color"])) for c in info["classes"])
        for part in ("discriminant", "kernel"):
            info["recipe"].setdefault(part, None)  # older files have none
        recipe = recipe_from_dict(info["recipe"], str(path))
        model = Classifier(ModelInfo(**{**info, "classes": classes, "recipe": recipe}))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: its description cannot be read ({error!r})") from error
    if kind == ADAPTERS:
        _load_adapters(model, tensors, encoder, path)
    else:
        load_into(model, tensors)
    return model.eval()


def _load_adapters(model: Classifier, tensors: dict[str, Tensor], encoder: FoundationModel | None, path: Path) -> None:
    if encoder is None:
        raise ValueError(f"{path} holds adapters alone: give the encoder that they belong to")
    if fingerprint(encoder) != model.info.encoder:
        raise ValueError(f"{path} adapts another encoder: the weights of the one given differ from those it was trained with")
    state = {name: tensor for name, tensor in tensors.items() if name != "temperature"}
    try:
        model.temperature.copy_(tensors["temperature"])
        for i, member in enumerate(model.members):
            assert isinstance(member.network, EncoderNetwork)
            member.network.load_base(encoder)
            own = {name.removeprefix(f"{i}."): state.pop(name) for name in list(state) if name.startswith(f"{i}.")}
            parts = {
                part: {name.removeprefix(f"{part}."): t for name, t in own.items() if name.startswith(f"{part}.")}
                for part in ("network", *member.measured())
            }
            member.network.load_own_state(parts["network"])
            for part, module in member.measured().items():
                load_into(module, parts[part])
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}") from error


def match_bands(info: ModelInfo, wavelengths: NDArray[np.float64] | None, bands: int, name: str) -> list[int]:
    """Positions in a scene of the bands that a model wants.

    With wavelengths, each of the model's bands is paired with one of the scene's, as near as possible and within half the
    spacing of the model's bands there; no band serves twice. Without, the numbers of bands must agree.

    Raises:
        ValueError: bands are missing, or the scene has no wavelengths where the model has.
    """
    if info.wavelengths is None:
        if bands != info.bands:
            raise ValueError(f"{name} has {bands} bands, the model was fitted on {info.bands}")
        return list(range(bands))
    wanted = np.array(info.wavelengths)
    if wavelengths is None:
        raise ValueError(
            f"{name} has no wavelengths, the model needs {len(wanted)} bands at {wanted[0]:.0f}..{wanted[-1]:.0f} nm"
        )
    spacing = np.gradient(wanted) if len(wanted) > 1 else np.array([10.0])
    # Where two detectors overlap bands lie arbitrarily close: half a nanometre is what rounding of a header needs.
    tolerance = np.maximum(np.abs(spacing) / 2, 0.5)
    distance = np.abs(wavelengths[None] - wanted[:, None])
    # Squares: where bands crowd, the best pairs are then those in order.
    wanted_at, scene_at = linear_sum_assignment(np.where(distance <= tolerance[:, None], distance**2, _NEVER))
    close = distance[wanted_at, scene_at] <= tolerance[wanted_at]
    missing = np.setdiff1d(np.arange(len(wanted)), wanted_at[close])
    if len(missing):
        first = ", ".join(f"{wanted[i]:.1f}" for i in missing[:3])
        raise ValueError(f"{name} lacks {len(missing)} of the model's {len(wanted)} bands, such as {first} nm")
    return [int(i) for i in scene_at]
