"""The networks that segment, by name."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from ...core.registry import Registry


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """A network by name and the arguments of its constructor beside channels and axes.

    Args:
        name: of ``NETWORKS``.
        arguments: by the constructor's names; what is left out has the constructor's default.
    """

    name: str = "swin_unetr"
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON would hold it."""
        return asdict(self)


def _monai(name: str) -> Callable[..., nn.Module]:
    def build(in_channels: int, out_channels: int, axes: int, arguments: Mapping[str, Any]) -> nn.Module:
        from monai.networks import nets

        return getattr(nets, name)(  # type: ignore[no-any-return]
            in_channels=in_channels, out_channels=out_channels, spatial_dims=axes, **arguments
        )

    return build


NETWORKS: Registry[Callable[[int, int, int, Mapping[str, Any]], nn.Module]] = Registry(
    "network",
    {
        "swin_unetr": _monai("SwinUNETR"),
        "monai_swin_unetr": _monai("SwinUNETR"),
        "monai_unet": _monai("UNet"),
        "monai_segresnet": _monai("SegResNet"),
    },
)


def build_network(config: NetworkConfig, *, in_channels: int, out_channels: int, axes: int = 3) -> nn.Module:
    """Build a network: (batch, in_channels, *size) to logits (batch, out_channels, *size).

    Raises:
        ValueError: for an unknown name, or an argument that the constructor does not have or refuses.
    """
    return NETWORKS[config.name](in_channels, out_channels, axes, config.arguments)
