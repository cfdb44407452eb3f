"""A pretrained encoder, saved as one safetensors file."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from ..backbones.token_encoder import Encoded, Encoder
from ..weights import load_into, load_state, save_module
from .batch import SensorBatch
from .encoder import EncoderConfig, build_encoder
from .normalization import Normalization

_FORMAT = "geovit foundation encoder 1"
FINAL = "last.safetensors"  # in the folder of a training
DEFAULT = "default"  # the encoder that comes with the package; configs/foundation/default.yaml tells how it was trained
_SHIPPED = Path(__file__).parent / "pretrained" / "default.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundationModel:
    """An encoder with what its input must be.

    Args:
        encoder: a module.
        config: of the encoder; None for one that is published, whose own file is kept.
        normalization: of physical values.
        facts: what else the file tells, such as sensors and training; as JSON.
        make: makes such an encoder with random weights, where ``config`` does not.
    """

    encoder: Encoder
    config: EncoderConfig | None
    normalization: Normalization
    facts: Mapping[str, Any] = field(default_factory=dict)
    make: Callable[[], Encoder] | None = None

    def encode(self, batch: SensorBatch) -> Encoded:
        """Encode images in physical units."""
        batch = self.normalization(batch)
        return self.encoder(batch.values, batch.wavelengths, batch.gsd, batch.valid.flatten(2).any(2))

    def untrained(self) -> Encoder:
        """Return an encoder of the same kind with random weights."""
        if self.make is not None:
            return self.make()
        if self.config is None:
            raise ValueError("it is not told how an encoder of this kind is made")
        return build_encoder(self.config)


def _module(model: FoundationModel) -> nn.Module:
    assert isinstance(model.encoder, nn.Module)
    return nn.ModuleDict({"encoder": model.encoder, "normalization": model.normalization})


def save_model(path: str | os.PathLike[str], model: FoundationModel) -> None:
    """Write an encoder to a file, whole or not at all.

    Raises:
        ValueError: for a published one.
    """
    if model.config is None:
        raise ValueError("a published encoder is not saved: keep its own file")
    content = {
        "encoder": model.config.to_dict(),
        "knots": len(model.normalization.wavelengths),
        "facts": dict(model.facts),
    }
    save_module(path, _module(model), {"format": _FORMAT, "geovit": version("geovit"), "model": json.dumps(content)})


def model_file(path: str | os.PathLike[str] | None) -> Path:
    """Return the file of an encoder.

    Args:
        path: a file; the folder of a training, for the weights at its end; None or "default" for the encoder that comes with the
            package.

    Raises:
        FileNotFoundError: if there is none.
    """
    if path is None or Path(path) == Path(DEFAULT):
        return _SHIPPED
    path = Path(path)
    if path.is_dir():
        if not (path / FINAL).is_file():
            raise FileNotFoundError(f"{path} has no {FINAL}: expected an encoder, or the folder that geovit pretrain wrote")
        return path / FINAL
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    return path


def load_model(path: str | os.PathLike[str] | None) -> FoundationModel:
    """Read what ``save_model`` wrote, in evaluation mode.

    Args:
        path: as of ``model_file``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such model, or its weights do not fit.
    """
    path = model_file(path)
    state, metadata = load_state(path)
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"{path} is no encoder of geovit pretrain: its format is {metadata.get('format')!r}")
    try:
        content = json.loads(metadata["model"])
        config = EncoderConfig(**content["encoder"])
        normalization = Normalization(content["knots"], logarithm=config.logarithm)
        model = FoundationModel(encoder=build_encoder(config), config=config, normalization=normalization, facts=content["facts"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: its description cannot be read ({error!r})") from error
    module = _module(model)
    load_into(module, state)
    module.eval()
    return model
