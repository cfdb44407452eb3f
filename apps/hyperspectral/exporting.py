"""Classifiers as exported programs, and exported programs in the place of classifiers."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.engines import EngineModule, EngineName, Exported, open_exported
from ...core.export import Exportable
from ...core.sensors.model import FoundationModel
from ...datasets import ClassInfo
from .model import Classifier, Member, ModelInfo, load_classifier
from .patches import SlidingPatches
from .recipe import recipe_from_dict

APP = "hyperspectral"
_PATCHES = 512  # at once
_NODATA = 0.02  # share of the pixels of samples


def exportable(path: Path, encoder: FoundationModel | None = None) -> Exportable:
    """Return a classifier as it is exported: raw spectra, NaN where there is no data, to class probabilities.

    A patch network is exported for patches, of which the program takes any number: their middle pixels are classified.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no classifier.
    """
    model = load_classifier(path, encoder).merge().requires_grad_(False)
    transform, network = model.members[0].transform, model.members[0].network
    mean, std = transform.band_mean, transform.band_std

    def sample(shape: Sequence[int], generator: torch.Generator) -> Tensor:
        x = mean[:, None, None] + std[:, None, None] * torch.randn(tuple(shape), generator=generator)
        gone = torch.rand((shape[0], 1, *shape[2:]), generator=generator) < _NODATA
        return x.masked_fill(gone, torch.nan)

    patch = network.patch if isinstance(network, SlidingPatches) else None
    step = model.window if patch is None else 0
    about = {
        "info": {**asdict(model.info), "recipe": model.info.recipe.to_dict()},
        "window": model.window,
        "receptive_field": model.receptive_field,
        "patch": patch,
        "band_mean": mean.tolist(),
        "band_std": std.tolist(),
    }
    side = (step or patch or 1) if step != 1 else 2
    return Exportable(
        module=model if patch is None else _OfPatches(model),
        channels=model.info.bands,
        multiple=(step, step),
        smallest=(side, side),
        scale=1,
        app=APP,
        model=model.info.recipe.network,
        about=json.loads(json.dumps(about)),
        meaning=("numbers of the scene's bands, NaN where there is no data", "probability of each class"),
        sample=sample,
    )


class _OfPatches(nn.Module):
    """Raw patches (number, bands, patch, patch) to probabilities (number, classes, 1, 1)."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for member in self.model.members:
            assert isinstance(member.network, SlidingPatches)
            logits = member.network.of_patches(member.transform(x)).float()
            found.append((logits / self.model.temperature).softmax(1))
        return torch.stack(found).mean(0)[:, :, None, None]


class _Known(nn.Module):
    """What an exported program tells of its member networks."""

    band_mean: Tensor
    band_std: Tensor

    def __init__(self, about: dict[str, Any]) -> None:
        super().__init__()
        self.window, self.receptive_field = int(about["window"]), int(about["receptive_field"])
        self.register_buffer("band_mean", torch.tensor(about["band_mean"]))
        self.register_buffer("band_std", torch.tensor(about["band_std"]))

    @property
    def transform(self) -> "_Known":
        return self


class ExportedClassifier(Classifier):
    """An exported program in the place of the classifier that it was made of: same input, output, window and reach."""

    def __init__(self, exported: Exported) -> None:
        nn.Module.__init__(self)  # there are no member networks to be built
        about = dict(exported.metadata["about"])
        info = dict(about["info"])
        classes = tuple(ClassInfo(c["value"], c["name"], tuple(c["color"])) for c in info["classes"])
        recipe = recipe_from_dict(info["recipe"], str(exported.path))
        self.info = ModelInfo(**{**info, "classes": classes, "recipe": recipe})
        self.members: Sequence[Member] = nn.ModuleList([_Known(about)])  # type: ignore[assignment]
        self.patch: int | None = about["patch"]
        self.exported, self.engine = exported, exported.name
        self.program = EngineModule(exported) if self.patch is None else None

    def forward(self, x: Tensor) -> Tensor:
        if self.program is not None:
            found: Tensor = self.program(x)
            return found
        assert self.patch is not None
        side = self.patch
        batch, bands, height, width = x.shape
        rows, columns = height - side + 1, width - side + 1
        parts = []
        for row in range(rows):
            strip = F.unfold(x[:, :, row : row + side].float().cpu(), side).transpose(1, 2).flatten(0, 1)
            for chunk in torch.split(strip, _PATCHES):
                patches = torch.unflatten(chunk, 1, (bands, side, side)).contiguous().numpy()
                parts.append(self.exported.engine.run(patches.astype(np.float32, copy=False))[..., 0, 0])
        found = torch.from_numpy(np.concatenate(parts)).view(rows, batch, columns, -1).permute(1, 3, 0, 2)
        return found.to(x.device)

    def merge(self) -> "Classifier":
        """Return it as it is: nothing is apart."""
        return self


def exported_classifier(path: Path, engine: EngineName | None) -> ExportedClassifier:
    """Load an exported classifier; errors as ``open_exported``."""
    return ExportedClassifier(open_exported(path, engine=engine, app=APP)).eval()
