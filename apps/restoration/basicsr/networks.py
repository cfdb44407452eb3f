"""Networks as BasicSR wants them: made of the official arguments, with state dicts in the published layout."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from ..weights import ARCHITECTURES, Architecture

_OWN = "network."
_IMAGE = 64  # the default of all official constructors that have an img_size


class Registry(Protocol):
    """What is used of BasicSR's registries."""

    def register(self, obj: type) -> Any: ...

    def __contains__(self, name: str) -> bool: ...


class PublishedNetwork(nn.Module):
    """One of our networks behind the constructor and the tensor names of its official class.

    ``state_dict`` gives, and ``load_state_dict`` takes, what the official class does, for this module itself as for one that
    holds it (DataParallel). Buffers that follow from sizes are given as well, and passed over.

    Args:
        arguments: of the official constructor.

    Raises:
        ValueError: for an argument, or a value, that is not understood.
    """

    architecture: ClassVar[Architecture]

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.network = self.architecture.build(arguments)
        self.image = arguments.get("img_size", _IMAGE)
        self.register_state_dict_post_hook(_publish)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_accept)  # type: ignore[no-untyped-call]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Restore images of any size; see ``Network``."""
        y_BCHW: Tensor = self.network(x_BCHW)
        return y_BCHW


def _publish(module: nn.Module, state: dict[str, Tensor], prefix: str, _metadata: Mapping[str, Any]) -> None:
    """Rename our tensors in a state dict, where they are all those below the prefix."""
    assert isinstance(module, PublishedNetwork)
    own = {name: state.pop(prefix + _OWN + name) for name in module.network.state_dict()}
    layout = module.architecture.layout
    published = layout.to_published(own)
    for name, tensor in (published | layout.buffers(published, module.image)).items():
        state[prefix + name] = tensor


def _accept(module: nn.Module, state: dict[str, Tensor], prefix: str, _metadata: Mapping[str, Any], *_collected: object) -> None:
    """Rename published tensors in a state dict to ours; unknown ones stay, and torch tells of them."""
    assert isinstance(module, PublishedNetwork)
    published = {name.removeprefix(prefix): state.pop(name) for name in list(state) if name.startswith(prefix)}
    known = module.network.state_dict().keys()
    for name, tensor in module.architecture.layout.to_ours(module.network, published).items():
        state[prefix + (_OWN if name in known else "") + name] = tensor


def network_classes(architectures: Sequence[Architecture] = ARCHITECTURES) -> list[type[PublishedNetwork]]:
    """Make a class for each architecture, called Geovit and its official name."""
    return [
        type(
            f"Geovit{architecture.official}",
            (PublishedNetwork,),
            {
                "__doc__": f"The network {architecture.name} in the place of the official {architecture.official}.",
                "__module__": __name__,
                "architecture": architecture,
            },
        )
        for architecture in architectures
    ]


def register(registry: Registry) -> list[str]:
    """Put every network into BasicSR's ``ARCH_REGISTRY``; return the names. A second call changes nothing."""
    classes = network_classes()
    for network_class in classes:
        if network_class.__name__ not in registry:
            registry.register(network_class)
    return [network_class.__name__ for network_class in classes]
