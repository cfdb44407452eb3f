"""Networks of other architectures, by the optional package spandrel."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...core.weights.layout import Layout
from ...core.weights.load import Coverage
from .network import Network
from .weights import Architecture, Restorer

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor

_HALO, _FAR_HALO = 32, 64  # pixels; the latter for networks that are said to look at the whole image
_LARGEST_WINDOW = 64
_HALF = "spandrel lists {} as not working in it"


class SpandrelNetwork(Network):
    """A network that spandrel knows, behind our interface. Its results are in 0..1.

    Args:
        descriptor: what spandrel loaded.
    """

    def __init__(self, descriptor: "ImageModelDescriptor[nn.Module]") -> None:
        super().__init__()
        needs = descriptor.size_requirements
        self.scale, self.in_channels, self.out_channels = (
            descriptor.scale, descriptor.input_channels, descriptor.output_channels,
        )  # fmt: skip
        self.model = descriptor.model
        self._descriptor = descriptor
        self.multiple = math.lcm(max(needs.multiple_of, 1), *_windows(descriptor.model))
        halo = _HALO if descriptor.tiling.name == "SUPPORTED" else _FAR_HALO
        self.halo = -(-halo // self.multiple) * self.multiple
        name = descriptor.architecture.name
        flags = {torch.float16: descriptor.supports_half, torch.bfloat16: descriptor.supports_bfloat16}
        # Of this network alone, though other networks have it in their class.
        self.__dict__["unsafe"] = {dtype: _HALF.format(name) for dtype, fine in flags.items() if not fine}

    def body(self, x_BCHW: Tensor) -> Tensor:
        """Restore images one by one, which is all that spandrel promises; it fills up to a smallest size itself."""
        return torch.cat([self._descriptor(x_CHW[None]) for x_CHW in x_BCHW])


def _windows(model: nn.Module) -> set[int]:
    """Sizes of windows, as most of these networks name them: tiles have to keep their phase."""
    found: set[int] = set()
    for module in model.modules():
        sizes: Any = getattr(module, "window_size", 1)
        found |= {n for n in (sizes if isinstance(sizes, tuple | list) else [sizes]) if isinstance(n, int)}
    return {n for n in found if 1 < n <= _LARGEST_WINDOW}


def foreign_restorer(
    state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, name: str, known: str
) -> Restorer:
    """Make a network of a state dict that is of none of our architectures.

    Args:
        state: tensors, read already.
        metadata: of the file.
        name: of the file, for errors.
        known: what we know ourselves, for errors.

    Raises:
        ImportError: spandrel is not installed.
        ValueError: spandrel does not know it either, its tensors do not fit, or it is no network from image to image.
    """
    try:
        import spandrel
    except ImportError as error:
        raise ImportError(
            f"{name} is none of {known}; other architectures need spandrel: pip install 'geovit[restoration]'"
        ) from error
    try:
        descriptor = spandrel.ModelLoader().load_from_state_dict(dict(state))
    except spandrel.UnsupportedModelError as error:
        first = next(iter(state))
        raise ValueError(
            f"{name} is of no known architecture (first tensor {first}): it is none of {known}, nor of those that spandrel knows"
        ) from error
    except (RuntimeError, KeyError, IndexError, AttributeError, TypeError, ValueError, AssertionError) as error:
        # It tells architectures by a few names: a file with those can still be another or lack the rest.
        said = " ".join(str(error).split())
        raise ValueError(f"{name}: spandrel finds an architecture, but its tensors do not fit: {said[:200]}") from error
    official = descriptor.architecture.name
    if not isinstance(descriptor, spandrel.ImageModelDescriptor) or descriptor.purpose == "FaceSR":
        raise ValueError(
            f"{name} is a network for {descriptor.purpose} ({official}): expected one that makes an image of an image alone"
        )
    descriptor.model.float()
    network = SpandrelNetwork(descriptor).eval()
    parameters = descriptor.model.state_dict()
    coverage = Coverage(tensors=len(parameters), elements=sum(tensor.numel() for tensor in parameters.values()))
    architecture = Architecture(official.lower(), official, lambda _: None, _not_built, Layout(((r"^model\.", ""),)))
    return Restorer(network, architecture, coverage, metadata or {})


def _not_built(_: Mapping[str, Any]) -> Network:
    raise ValueError("an architecture of spandrel's is made from a state dict only")
