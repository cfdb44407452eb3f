"""Published checkpoints into our networks and back."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ....core.weights.checkpoint import read_checkpoint
from ....core.weights.layout import Layout
from ....core.weights.load import Coverage
from ....core.weights.store import save_module
from ..network import Network
from . import catanet, cfsr, dlgsanet, drct, hat, mambair, nafnet, restormer, swinir


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
    """A network with its weights, what they are, and what was loaded."""

    network: Network
    architecture: Architecture
    coverage: Coverage
    metadata: Mapping[str, str]


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture("cfsr", "CFSR", cfsr.infer, cfsr.build, cfsr.LAYOUT),
    Architecture("nafnet", "NAFNet", nafnet.infer, nafnet.build, nafnet.LAYOUT),
    Architecture("restormer", "Restormer", restormer.infer, restormer.build, restormer.LAYOUT),
    Architecture("swinir", "SwinIR", swinir.infer, swinir.build, swinir.LAYOUT),
    Architecture("hat", "HAT", hat.infer, hat.build, hat.LAYOUT),
    Architecture("drct", "DRCT", drct.infer, drct.build, drct.LAYOUT),
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
    return restorer_from(state, metadata, name=str(path))


def restorer_from(
    state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, name: str = "state dict"
) -> Restorer:
    """Make the network that a published state dict belongs to, and load it; errors as ``load_restorer``."""
    for architecture in ARCHITECTURES:
        arguments = architecture.infer(state)
        if arguments is not None:
            network = architecture.build(arguments).eval()
            try:
                coverage = architecture.layout.load(network, state)
            except ValueError as error:
                raise ValueError(f"{name} looks like {architecture.official}, but {error}") from error
            return Restorer(network, architecture, coverage, metadata or {})
    known = ", ".join(architecture.official for architecture in ARCHITECTURES)
    raise ValueError(f"{name} is of no known architecture (first tensor {next(iter(state))}): known are {known}")


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
