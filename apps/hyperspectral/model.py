"""A fitted classifier: transform, member networks, temperatures, and what they were fitted on. Saved as one safetensors file."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...core.weights import load_into, load_state, save_module
from ...datasets import ClassInfo
from .recipe import Recipe, recipe_from_dict
from .spectra import SpectralTransform

FORMAT = "geovit hyperspectral classifier 1"


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
    """

    version: str
    bands: int
    wavelengths: list[float] | None
    classes: tuple[ClassInfo, ...]
    recipe: Recipe
    validation: dict[str, Any]


class Classifier(nn.Module):
    """Raw spectra (batch, bands, height, width), NaN where nodata, to class probabilities (batch, classes, height', width').

    The probabilities of the members, each at its own temperature (Guo et al. 2017, section 4.2), are averaged.
    """

    temperatures: Tensor

    def __init__(self, info: ModelInfo) -> None:
        super().__init__()
        self.info = info
        self.transform = SpectralTransform(info.bands, info.recipe.transform)
        members = info.recipe.training.members
        self.members = nn.ModuleList(info.recipe.build(self.transform.features, len(info.classes)) for _ in range(members))
        self.register_buffer("temperatures", torch.ones(members))

    @property
    def window(self) -> int:
        """Period of the window grid in pixels: tiles start at multiples of it."""
        return int(self.members[0].window)  # type: ignore[arg-type]

    @property
    def receptive_field(self) -> int:
        """Reach in pixels on every side."""
        return int(self.members[0].receptive_field)  # type: ignore[arg-type]

    @property
    def halo(self) -> int:
        """Pixels to read around a tile: the reach, rounded up to whole windows."""
        return math.ceil(self.receptive_field / self.window) * self.window

    def forward(self, x: Tensor) -> Tensor:
        return self.probabilities(self.transform(x))

    def probabilities(self, z: Tensor) -> Tensor:
        """As ``forward``, from transformed spectra."""
        parts = [(m(z).float() / t).softmax(1) for m, t in zip(self.members, self.temperatures, strict=True)]
        return torch.stack(parts).mean(0)

    def save(self, path: Path) -> None:
        """Write weights, statistics and info."""
        info = {**asdict(self.info), "recipe": self.info.recipe.to_dict()}
        save_module(path, self, {"format": FORMAT, "info": json.dumps(info)})


def load_classifier(path: Path) -> Classifier:
    """Read a file that ``Classifier.save`` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or a damaged one.
    """
    tensors, metadata = load_state(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is not a model of `geovit classify`: its format is {metadata.get('format')!r}")
    try:
        info = json.loads(metadata["info"])
        classes = tuple(ClassInfo(c["value"], c["name"], tuple(c["color"])) for c in info["classes"])
        recipe = recipe_from_dict(info["recipe"], str(path))
        model = Classifier(ModelInfo(**{**info, "classes": classes, "recipe": recipe}))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: its description cannot be read ({error!r})") from error
    load_into(model, tensors)
    return model.eval()


def match_bands(info: ModelInfo, wavelengths: NDArray[np.float64] | None, bands: int, name: str) -> list[int]:
    """Positions in a scene of the bands that a model wants.

    With wavelengths, each of the model's bands is paired with the scene's nearest, within half the spacing of the model's bands
    there. Without, the numbers of bands must agree.

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
    nearest = distance.argmin(1)
    missing = np.flatnonzero(distance.min(1) > tolerance)
    if len(missing):
        first = ", ".join(f"{wanted[i]:.1f}" for i in missing[:3])
        raise ValueError(f"{name} lacks {len(missing)} of the model's {len(wanted)} bands, such as {first} nm")
    if bands == len(wanted) and (np.abs(np.sort(wavelengths) - wanted) <= tolerance).all():
        return list(range(bands))  # the same bands: nearest neighbours could swap those that lie closer than the rounding
    return [int(i) for i in nearest]
