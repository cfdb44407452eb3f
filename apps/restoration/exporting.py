"""Restoration networks as exported programs, and exported programs in the place of networks."""

from pathlib import Path

from torch import Tensor

from ...core.engines import EngineModule, EngineName, Exported, open_exported
from ...core.export import Exportable
from ...core.weights.load import Coverage
from .models import open_restorer
from .network import Network
from .weights import ARCHITECTURES, Architecture, Restorer

APP = "restoration"


def exportable(*, weights: Path | None = None, model: str | None = None) -> Exportable:
    """Return a network as it is exported: images in 0..1 to images, of sizes that are multiples of its own.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no network of ours, or does not fit.
    """
    restorer = open_restorer(weights, model)
    network = restorer.network.folded().eval().requires_grad_(False)
    about = {
        "architecture": restorer.architecture.name,
        "official": restorer.architecture.official,
        "out_channels": network.out_channels,
        "halo": network.halo,
        "exact_halo": network.exact_halo,
        "fill": network.fill,
        "licence": restorer.metadata.get("licence") or restorer.metadata.get("license") or "",
    }
    least = max(network.multiple, network.least)
    return Exportable(
        module=network,
        channels=network.in_channels,
        multiple=(network.multiple,) * 2,
        smallest=(least,) * 2,
        scale=network.scale,
        app=APP,
        model=restorer.architecture.name,
        about=about,
        meaning=("image in 0..1", "restored image in 0..1"),
    )


class ExportedNetwork(Network):
    """An exported program in the place of the network that it was made of."""

    def __init__(self, exported: Exported) -> None:
        super().__init__()
        about, told = exported.metadata["about"], exported.metadata["input"]
        self.program = EngineModule(exported)
        self.scale, self.in_channels, self.out_channels = self.program.scale, told["channels"], about["out_channels"]
        self.multiple, self.halo, self.exact_halo = told["multiple"][0], about["halo"], about["exact_halo"]
        self.least, self.fill = told["smallest"][0], about["fill"]

    def body(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW: Tensor = self.program(x_BCHW)
        return y_BCHW


def exported_restorer(path: Path, engine: EngineName | None) -> Restorer:
    """Load an exported network; errors as ``open_exported``."""
    exported = open_exported(path, engine=engine, app=APP)
    about = exported.metadata["about"]
    known: Architecture = next(a for a in ARCHITECTURES if a.name == about["architecture"])
    coverage = Coverage(tensors=0, elements=0, renamed=0)
    network = ExportedNetwork(exported).eval()
    return Restorer(network, known, coverage, {"licence": about["licence"]}, file=path, engine=exported.name)
