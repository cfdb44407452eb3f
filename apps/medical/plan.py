"""What a segmentation network is given and what it answers: grid, intensities, classes.

A plan follows from the fingerprint of the training cases and is written into every model file, so that a model prepares new
images as those that it was trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Scheme = Literal["zscore", "clip_zscore", "range"]


@dataclass(frozen=True, kw_only=True)
class Channel:
    """An input channel and how its intensities are normalised.

    Args:
        name: such as "CT", "T1" or "FLAIR".
        scheme: "zscore": by mean and standard deviation of the image itself; "clip_zscore": clipped to ``low`` and ``high``, then
            by ``mean`` and ``std`` of the training cases, as for CT; "range": from ``low``..``high`` to 0..1, clipped.
        low, high: in the image's unit.
        mean, std: in the image's unit.
        nonzero: whether voxels of exactly zero are background: left out of the statistics of "zscore" and left zero.
        percentiles: of the image itself, in percent, to which "zscore" clips before it takes the statistics; None: it does not.
    """

    name: str
    scheme: Scheme = "zscore"
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    std: float | None = None
    nonzero: bool = False
    percentiles: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Target:
    """A class, or a region made of several label values.

    Args:
        name: for users.
        values: label values in the files that belong to it; of a class exactly one.
        output: value in written label maps.
        weight: in the loss.
    """

    name: str
    values: tuple[int, ...]
    output: int
    weight: float = 1.0


def painted(region: Target, targets: Sequence[Target]) -> tuple[int, ...]:
    """Return the values of a written label map that are in a region: its own, and those of the regions inside it."""
    return tuple({region.output, *(other.output for other in targets if set(other.values) <= set(region.values))})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything between files and the network.

    Args:
        channels: the network's inputs, in order.
        targets: the classes without background, in the order of the network's outputs; or regions, in the order in which a label
            map is painted: later ones over earlier ones.
        regions: whether targets may overlap: one sigmoid for each, and no background output. Else one softmax over background
            (output 0) and classes.
        orientation: axis codes that images are turned to, as in nibabel.
        spacing: millimetres between voxels on each axis after that, 0 where every image keeps its own; None: on all axes.
        roi: voxels on each axis of what the network sees at once; two for networks on slices across the last axis.
        antialias: whether images are smoothed along axes on which they are made coarser; MONAI's transforms do not.
    """

    channels: tuple[Channel, ...]
    targets: tuple[Target, ...]
    regions: bool = False
    orientation: str = "RAS"
    spacing: tuple[float, float, float] | None = None
    roi: tuple[int, ...] = (96, 96, 96)
    antialias: bool = True

    def __post_init__(self) -> None:
        """Check what would fail only later.

        Raises:
            ValueError: if there are no channels or targets, or two share a name or an output.
        """
        if not self.channels or not self.targets:
            raise ValueError(
                f"a plan of {len(self.channels)} channels and {len(self.targets)} targets: expected one of each at least"
            )
        if not self.regions:
            for target in self.targets:
                if len(target.values) != 1:
                    raise ValueError(f"class {target.name} has {len(target.values)} label values, expected one, or regions")
        for what in ("name", "output"):
            found = [getattr(target, what) for target in self.targets]
            if len(set(found)) < len(found):
                raise ValueError(f"two targets have the same {what}: {', '.join(map(str, found))}")
        if len(self.roi) not in (2, 3):
            raise ValueError(f"a ROI of {len(self.roi)} numbers: expected 3, or 2 for slices")

    @property
    def outputs(self) -> int:
        """Channels of the network's output."""
        return len(self.targets) + (not self.regions)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``plan_from_dict`` reads: numbers, words and lists."""
        return asdict(self)


def plan_from_dict(given: Mapping[str, Any]) -> Plan:
    """Read what ``Plan.to_dict`` returned, also after a way through JSON.

    Raises:
        ValueError: if it is none.
    """
    try:
        channels = tuple(_channel(channel) for channel in given["channels"])
        targets = tuple(Target(**{**target, "values": tuple(target["values"])}) for target in given["targets"])
        rest = {key: given[key] for key in ("regions", "orientation", "antialias") if key in given}
        spacing = None if given["spacing"] is None else tuple(given["spacing"])
        return Plan(channels=channels, targets=targets, spacing=spacing, roi=tuple(given["roi"]), **rest)
    except (KeyError, TypeError) as error:
        raise ValueError(f"this is no plan of a segmentation ({type(error).__name__}: {error})") from error


def _channel(given: Mapping[str, Any]) -> Channel:
    percentiles = given.get("percentiles")
    return Channel(**{**given, "percentiles": None if percentiles is None else tuple(percentiles)})
