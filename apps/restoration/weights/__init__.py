"""Published checkpoints into our networks and back."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ....core.engines import EngineName
from ....core.weights.checkpoint import read_checkpoint
from ....core.weights.layout import Layout
from ....core.weights.load import Coverage
from ....core.weights.store import save_module
from ..network import Network
from . import catanet, cfsr, compact, dlgsanet, drct, hat, mambair, nafnet, restormer, swinir


@dataclass(frozen=True)
class Architecture:
    """A published implementation of one of our networks.

    Args:
        name: for users, in lower case.
        official: name of the official class.
        infer: tells from a state dict the arguments of the official constructor, those that shapes tell and those that all
            published checkpoints share; None if the tensors are of another architecture.
        build: makes our network of the arguments of the official constructor; a ValueError for one that is not understood.
        layout: of the official state dict.
    """

    name: str
    official: str
    infer: Callable[[Mapping[str, Tensor]], dict[str, Any] | None]
    build: Callable[[Mapping[str, Any]], Network]
    layout: Layout


@dataclass(frozen=True)
class Restorer:
    """A network with its weights, what they are, what was loaded, and its file; its engine if exported."""

    network: Network
    architecture: Architecture
    coverage: Coverage
    metadata: Mapping[str, str]
    file: Path | None = None
    engine: EngineName | None = None


# What comes of asking an absent tensor, or one of too few axes or elements, for its shape.
_UNREADABLE = (KeyError, IndexError, TypeError, ZeroDivisionError)


class UnknownArchitectureError(ValueError):
    """The tensors are of no architecture here."""


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture("swinir", "SwinIR", swinir.infer, swinir.build, swinir.LAYOUT),
    Architecture("hat", "HAT", hat.infer, hat.build, hat.LAYOUT),
    Architecture("drct", "DRCT", drct.infer, drct.build, drct.LAYOUT),
    Architecture("cfsr", "CFSR", cfsr.infer, cfsr.build, cfsr.LAYOUT),
    Architecture("nafnet", "NAFNet", nafnet.infer, nafnet.build, nafnet.LAYOUT),
    Architecture("restormer", "Restormer", restormer.infer, restormer.build, restormer.LAYOUT),
    Architecture("compact", "SRVGGNetCompact", compact.infer, compact.build, compact.LAYOUT),
    Architecture("mambair", "MambaIR", mambair.infer, mambair.build, mambair.LAYOUT),
    Architecture("dlgsanet", "DLGSANet", dlgsanet.infer, dlgsanet.build, dlgsanet.LAYOUT),
    Architecture("catanet", "CATANet", catanet.infer, catanet.build, catanet.LAYOUT),
)


def load_restorer(path: str | os.PathLike[str]) -> Restorer:
    """Read a published checkpoint, or one of ours: the same layout as safetensors.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no checkpoint, of an unknown architecture, or a tensor is missing, unexpected or of another shape.
    """
    state, metadata = read_checkpoint(path)
    return replace(restorer_from(state, metadata, name=str(path)), file=Path(path))


def restorer_from(
    state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, name: str = "state dict"
) -> Restorer:
    """Make the network that a published state dict belongs to, and load it; errors as ``load_restorer``.

    An unknown architecture is an UnknownArchitectureError.
    """
    for architecture in ARCHITECTURES:
        try:
            arguments = architecture.infer(state)
            if arguments is None:
                continue
            network = architecture.build(arguments).eval()
            coverage = architecture.layout.load(network, state)
        except ValueError as error:
            raise ValueError(f"{name} looks like {architecture.official}, but {error}") from error
        except _UNREADABLE as error:
            told = f"tensors that tell its sizes are missing or of another shape ({type(error).__name__}: {error})"
            raise ValueError(f"{name} looks like {architecture.official}, but {told}") from error
        return Restorer(network, architecture, coverage, metadata or {})
    known = ", ".join(architecture.official for architecture in ARCHITECTURES)
    raise UnknownArchitectureError(f"{name} is of no known architecture (first tensor {next(iter(state))}): known are {known}")


def save_restorer(
    path: str | os.PathLike[str],
    network: Network,
    architecture: Architecture,
    metadata: Mapping[str, str],
    *,
    buffers: bool = True,
) -> None:
    """Write a network as safetensors in its published layout, folded, which other programs read as well.

    Some of those ask for buffers that follow from sizes; we do not, and without ``buffers`` they are left out of the file.
    """
    layout = architecture.layout
    state = layout.to_published(network.folded().state_dict())
    save_module(path, state | layout.buffers(state) if buffers else state, metadata)


def architecture_of(network: Network) -> Architecture:
    """Return the architecture in whose published layout a network can be saved and read back.

    Raises:
        ValueError: if it has none, or not with its options.
    """
    found = next((architecture for architecture in ARCHITECTURES if _has_place_for(architecture, network.folded())), None)
    if found is None:
        raise ValueError(f"{type(network).__name__} with these options has no published layout, in which it would be saved")
    return found


def _has_place_for(architecture: Architecture, network: Network) -> bool:
    state = network.state_dict()
    try:
        published = architecture.layout.to_published(state)
        arguments = architecture.infer(published)
        built = architecture.build(arguments) if arguments is not None else None
    except (KeyError, ValueError):  # a layout may look for tensors that only its own networks have
        return False
    return type(built) is type(network) and built.state_dict().keys() == state.keys()
