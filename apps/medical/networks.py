"""The networks that segment, by name."""

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ...core.registry import Registry

_DECIDED = ("in_channels", "out_channels", "axes", "spatial_dims")  # by the plan
# What constructors raise that were given nonsense.
_REFUSALS = (TypeError, ValueError, KeyError, IndexError, AttributeError, AssertionError, RuntimeError)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """A network by name and the arguments of its constructor beside channels and axes.

    Args:
        name: of ``NETWORKS``.
        arguments: by the constructor's names; what is left out has the default of ``NETWORKS``. Only what JSON can hold.
    """

    name: str = "swin_unetr"
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON would hold it."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a network asks of the sizes that it is given.

    Args:
        multiple: of it are the sizes that it computes; others are filled up inside, at a cost.
        coarsest: voxels that its coarsest grid must hold, each axis of which is the size divided by ``multiple``. Instance norm
            refuses to take statistics of one.
        fixed: the one size that it computes: smaller ones are filled up, larger ones refused. None: any size.
    """

    multiple: int = 1
    coarsest: int = 1
    fixed: tuple[int, ...] | None = None

    def padded(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the size that is computed for a size given.

        Raises:
            ValueError: if it is larger than the fixed one.
        """
        if self.fixed is not None:
            if len(self.fixed) != len(size) or any(n > f for n, f in zip(size, self.fixed, strict=True)):
                raise ValueError(f"the network was made for images of {list(self.fixed)} voxels, got {list(size)}")
            return self.fixed
        grid = [-(-n // self.multiple) for n in size]
        grid[-1] = max(grid[-1], -(-self.coarsest // math.prod(grid[:-1])))
        return tuple(n * self.multiple for n in grid)


class FirstOutput(nn.Module):
    """A network of which, of several outputs, the first is given: networks have several that know deep supervision."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Map as the network does."""
        return first_of(self.network(x))


def first_of(outputs: Tensor | Sequence[Tensor]) -> Tensor:
    """Return the first of several outputs, or the only one."""
    return outputs[0] if isinstance(outputs, Sequence) else outputs


class AnySize(nn.Module):
    """A network that takes images of any size: they are filled up with zeros at the end, and the logits are cut.

    Of several outputs, as networks have that know deep supervision, the first is given.

    Args:
        network: (batch, channels, *size) to (batch, outputs, *size).
        needs: of the network.
    """

    def __init__(self, network: nn.Module, needs: Needs) -> None:
        super().__init__()
        self.network, self.needs = network, needs

    @property
    def fixed_size(self) -> tuple[int, ...] | None:
        """The one size that the network computes; None if it computes others."""
        return self.needs.fixed

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, *size) to logits (batch, outputs, *size).

        Raises:
            ValueError: for a network of one size, if the image is larger.
        """
        size = tuple(x.shape[2:])
        missing = [wanted - given for wanted, given in zip(self.needs.padded(size), size, strict=True)]
        y = self.network(F.pad(x, [p for m in reversed(missing) for p in (0, m)]) if any(missing) else x)
        logits = first_of(y)
        for axis, n in enumerate(size, 2):
            logits = logits.narrow(axis, 0, n)
        return logits


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of network.

    Args:
        target: its constructor, as module:name.
        needs: of all arguments, defaults filled in, and the number of axes.
        axes_name: of the constructor's argument for the number of spatial axes.
        defaults: arguments that differ from the constructor's own defaults.
        always: arguments that nobody may change, such as no outputs for deep supervision.
        follows: arguments whose default is the number of axes.
        sized: the argument whose default is the size of the images, if there is one.
        any_size: whether the network itself takes any size and has one output.
        exported_for_roi: whether it is exported for windows of the ROI alone: how its own windows lie depends on the size in ways
            that cannot be written down in reasonable time.
    """

    target: str
    needs: Callable[[Mapping[str, Any], int], Needs]
    axes_name: str = "spatial_dims"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    always: Mapping[str, Any] = field(default_factory=dict)
    follows: Sequence[str] = ()
    sized: str | None = None
    any_size: bool = False
    exported_for_roi: bool = False

    def constructor(self) -> Callable[..., nn.Module]:
        """Import the class."""
        module, _, name = self.target.partition(":")
        found: Callable[..., nn.Module] = getattr(import_module(module, __package__), name)
        return found

    def complete(self, name: str, given: Mapping[str, Any], axes: int, roi: Sequence[int] | None) -> dict[str, Any]:
        """Check arguments and fill in those that differ from the constructor's own defaults.

        Raises:
            ValueError: for an argument that the constructor does not have, that is decided elsewhere, or that JSON cannot hold.
        """
        parameters = inspect.signature(self.constructor()).parameters
        free = [p for p in parameters if p not in (*_DECIDED, *self.always)]
        for argument in given:
            if argument in self.always and given[argument] == self.always[argument]:
                continue
            if argument in self.always or argument in _DECIDED:
                told = f"is always {self.always[argument]!r}" if argument in self.always else "follows from the plan"
                raise ValueError(f"network {name}: {argument} {told} and is not allowed among the arguments")
            if argument not in free:
                near = get_close_matches(argument, free)
                hint = f"did you mean {' or '.join(near)}? " if near else ""
                raise ValueError(f"network {name}: unknown argument {argument!r}: {hint}allowed are {', '.join(free)}")
        try:
            json.dumps(dict(given))
        except (TypeError, ValueError) as error:
            raise ValueError(f"network {name}: arguments are {dict(given)}, allowed is what JSON can hold ({error})") from error
        sized = {self.sized: list(roi)} if self.sized is not None and roi is not None else {}
        return {**self.defaults, **dict.fromkeys(self.follows, axes), **sized, **given, **self.always}

    def needs_with(self, arguments: Mapping[str, Any], axes: int) -> Needs:
        """Return what the network asks of sizes that is made of these arguments, which ``complete`` returned."""
        parameters = inspect.signature(self.constructor()).parameters
        return self.needs({name: p.default for name, p in parameters.items()} | dict(arguments), axes)


def build_network(
    config: NetworkConfig, *, in_channels: int, out_channels: int, axes: int = 3, roi: Sequence[int] | None = None
) -> nn.Module:
    """Build a network: (batch, in_channels, *size) to logits (batch, out_channels, *size), of any size, see ``Needs``.

    Args:
        config: name and arguments.
        in_channels, out_channels: of the plan.
        axes: spatial axes, 2 or 3.
        roi: the size that it will see, for networks of one size, such as ``monai_unetr``.

    Raises:
        ValueError: for an unknown name, or an argument that the constructor does not have or refuses.
    """
    if axes not in (2, 3):
        raise ValueError(f"network {config.name}: axes is {axes}, allowed are 2 and 3")
    kind = NETWORKS[config.name]
    arguments = kind.complete(config.name, config.arguments, axes, roi)
    shape = {"in_channels": in_channels, "out_channels": out_channels, kind.axes_name: axes}
    try:
        network = kind.constructor()(**shape, **arguments)
        return network if kind.any_size else AnySize(network, kind.needs_with(arguments, axes))
    except _REFUSALS as error:
        told = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"network {config.name}: its arguments were refused: {told}") from error


def needs_of(config: NetworkConfig, *, axes: int = 3, roi: Sequence[int] | None = None) -> Needs:
    """Return what a network asks of the sizes that it is given, without building it.

    Raises:
        ValueError: for an unknown name or argument.
    """
    kind = NETWORKS[config.name]
    return kind.needs_with(kind.complete(config.name, config.arguments, axes, roi), axes)


def _halvings(count: int) -> Callable[[Mapping[str, Any], int], Needs]:
    return lambda arguments, axes: Needs(multiple=2**count, coarsest=2)


def _strides(arguments: Mapping[str, Any], axes: int) -> Needs:
    steps = [max(step) if isinstance(step, Sequence) else step for step in arguments["strides"]]
    return Needs(multiple=math.prod(steps), coarsest=2)


def _blocks_down(arguments: Mapping[str, Any], axes: int) -> Needs:
    return Needs(multiple=2 ** (len(arguments["blocks_down"]) - 1), coarsest=2)


def _mednext(arguments: Mapping[str, Any], axes: int) -> Needs:
    return Needs(multiple=2 ** len(arguments["blocks_down"]), coarsest=2)


def _swin(arguments: Mapping[str, Any], axes: int) -> Needs:
    return Needs(multiple=arguments["patch_size"] ** 5, coarsest=2)


def _ours(arguments: Mapping[str, Any], axes: int) -> Needs:
    return Needs(multiple=32)


def _levels(arguments: Mapping[str, Any], axes: int) -> Needs:
    return Needs(multiple=2 ** (len(arguments["features"]) - 1))


def _image(arguments: Mapping[str, Any], axes: int) -> Needs:
    size = arguments["img_size"]
    return Needs(multiple=16, fixed=tuple(size) if isinstance(size, Sequence) else (size,) * axes)


_DEEP = {"deep_supervision": False}
_FIVE = {"channels": (32, 64, 128, 256, 320), "strides": (2, 2, 2, 2)}  # nnU-Net's widths


_NETS = "monai.networks.nets:"

NETWORKS: Registry[Kind] = Registry(
    "network",
    {
        "swin_unetr": Kind(target=".swin_unetr:SwinUNETR", needs=_ours, any_size=True, exported_for_roi=True),
        "vssm_unet": Kind(target=".vssm_unet:VSSMUNet", needs=_levels, axes_name="axes", any_size=True),
        "monai_swin_unetr": Kind(target=_NETS + "SwinUNETR", needs=_swin, exported_for_roi=True),
        "monai_unet": Kind(target=_NETS + "UNet", needs=_strides, defaults={**_FIVE, "num_res_units": 2}),
        "monai_dynunet": Kind(
            target=_NETS + "DynUNet",
            needs=_strides,
            defaults={"kernel_size": (3,) * 5, "strides": (1, 2, 2, 2, 2), "upsample_kernel_size": (2, 2, 2, 2)},
            always=_DEEP,
        ),
        "monai_segresnet": Kind(target=_NETS + "SegResNet", needs=_blocks_down, defaults={"init_filters": 32}),
        "monai_segresnet_ds": Kind(
            target=_NETS + "SegResNetDS", needs=_blocks_down, defaults={"norm": "instance"}, always={"dsdepth": 1}
        ),
        "monai_unetr": Kind(target=_NETS + "UNETR", needs=_image, defaults={"img_size": 96}, sized="img_size"),
        "monai_attention_unet": Kind(target=_NETS + "AttentionUnet", needs=_strides, defaults=_FIVE),
        "monai_vnet": Kind(target=_NETS + "VNet", needs=_halvings(4), follows=("dropout_dim",)),
        "monai_basic_unet": Kind(target=_NETS + "BasicUNet", needs=_halvings(4)),
        "monai_unet_plus_plus": Kind(target=_NETS + "BasicUNetPlusPlus", needs=_halvings(4), always=_DEEP),
        # Its pretrained weights would be fetched from elsewhere.
        "monai_flexible_unet": Kind(
            target=_NETS + "FlexibleUNet",
            needs=_halvings(5),
            defaults={"backbone": "efficientnet-b0"},
            always={"pretrained": False},
        ),
        "monai_mednext": Kind(target=_NETS + "MedNeXt", needs=_mednext, always=_DEEP),
        "monai_highresnet": Kind(target=_NETS + "HighResNet", needs=_halvings(0), defaults={"norm_type": "instance"}),
    },
)
