"""Published checkpoints into our networks: which system a file is of is told by its tensors.

The files come from where their authors put them, and the page of this application lists; nothing is downloaded here.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ....core.backbones.token_encoder import Encoder
from ....core.sensors.normalization import Normalization
from ....core.weights.checkpoint import read_checkpoint
from ....core.weights.load import Coverage
from . import channelvit, dofa, less, satmae, smarties, spectralearth, spectralgpt
from .system import System

logger = logging.getLogger(__name__)

SYSTEMS: tuple[System, ...] = (
    *smarties.SYSTEMS,
    *satmae.SYSTEMS,
    *dofa.SYSTEMS,
    *spectralgpt.SYSTEMS,
    *channelvit.SYSTEMS,
    *spectralearth.SYSTEMS,
    *less.SYSTEMS,
)

# What comes of asking an absent tensor, or one of too few axes or elements, for its shape.
_UNREADABLE = (KeyError, IndexError, TypeError, ZeroDivisionError, RuntimeError)


class UnknownSystemError(ValueError):
    """The tensors are of no system here."""


@dataclass(frozen=True, eq=False)
class Published:
    """A published network with its weights.

    Args:
        system: what it is.
        network: all of it, in evaluation mode: an auto-encoder or a classifier.
        arguments: of the official constructor, those that were given and those that the tensors tell.
        coverage: what was loaded.
    """

    system: System
    network: nn.Module
    arguments: Mapping[str, Any]
    coverage: Coverage

    @property
    def encoder(self) -> Encoder:
        """The part that is the encoder."""
        return self.system.encoder(self.network)

    @property
    def size(self) -> int | None:
        """Pixels on a side of the images that it was trained on; None if that does not show."""
        return self.system.size(self.arguments)

    def untrained(self) -> Encoder:
        """Return such an encoder with random weights."""
        return self.system.encoder(self.system.build(self.arguments).eval())

    def normalization(self) -> Normalization:
        """Return what makes the encoder's input of images in physical units.

        Raises:
            UnscaledError: if it is not known; it says what is missing.
        """
        return self.system.scale(self.arguments)


def load_published(path: str | os.PathLike[str], *, arguments: Mapping[str, Any] | None = None) -> Published:
    """Read a published checkpoint, a file of ``torch.save`` or safetensors, and log its licence. Nothing in it is executed.

    Args:
        path: of the file.
        arguments: of the official constructor, by its names, that tensors do not tell, such as ``num_heads`` of a size that is
            not among the published ones.

    Raises:
        FileNotFoundError: if there is no such file.
        UnknownSystemError: the tensors are of no system here.
        ValueError: if it is no checkpoint, or a tensor is missing, unexpected or of another shape.
    """
    state, _ = read_checkpoint(path)
    published = published_from(state, arguments=arguments, name=str(path))
    logger.info("%s: weights of %s, licence %s; %s", Path(path).name, published.system.name, published.system.licence,
                published.coverage)  # fmt: skip
    return published


def published_from(
    state: Mapping[str, Tensor], *, arguments: Mapping[str, Any] | None = None, name: str = "state dict"
) -> Published:
    """Make the network that a published state dict belongs to, and load it; arguments and errors as ``load_published``."""
    for system in SYSTEMS:
        try:
            inferred = system.infer(state)
            if inferred is None:
                continue
            complete = inferred | dict(arguments or {})
            network = system.build(complete).eval()
            coverage = system.load(network, state)
        except ValueError as error:
            raise ValueError(f"{name} looks like {system.name}, but {error}") from error
        except _UNREADABLE as error:
            told = f"tensors that tell its sizes are missing or of another shape ({type(error).__name__}: {error})"
            raise ValueError(f"{name} looks like {system.name}, but {told}") from error
        return Published(system, network, complete, coverage)
    known = ", ".join(system.name for system in SYSTEMS)
    raise UnknownSystemError(f"{name} is of no known system (first tensor {next(iter(state))}): known are {known}")
