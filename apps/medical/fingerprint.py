"""The fingerprint of training cases: what a plan follows from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.cases import Case
from .facts import PERCENTS, CaseFacts, Intensities, Progress, examine_cases, facts_from_dict

TAIL = 1.0  # beyond which an image has intensity outliers: farther outside its percentiles than these are apart
SCALE = 10.0  # by which contrast differs from the median of the cases, before it counts as another unit


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Grids, intensities and labels of training cases; JSON by ``to_dict``.

    Args:
        cases: each of them.
        pooled: of each channel, the labelled voxels of all cases together, the same number of each case at most.
    """

    cases: tuple[CaseFacts, ...]
    pooled: tuple[Intensities, ...]

    @property
    def spacings(self) -> NDArray[np.float64]:
        """(cases, 3), right, front, top."""
        return np.array([case.spacing for case in self.cases])

    @property
    def sizes(self) -> NDArray[np.float64]:
        """(cases, 3), right, front, top."""
        return np.array([case.size for case in self.cases], dtype=np.float64)

    @property
    def labels(self) -> dict[int, int]:
        """Voxels of each label value."""
        found: dict[int, int] = {}
        for case in self.cases:
            for value, count in case.labels.items():
                found[value] = found.get(value, 0) + count
        return dict(sorted(found.items()))

    def with_tails(self, channel: int) -> list[str]:
        """Names of the cases with intensity outliers in a channel."""
        return [case.name for case in self.cases if case.channels[channel].image.tail > TAIL]

    def with_other_units(self, channel: int) -> list[str]:
        """Names of the cases whose contrast is ten times, or a tenth of, the usual one."""
        return other_units(self.cases, channel)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON would hold it."""
        return {
            "cases": [case.to_dict() for case in self.cases],
            "pooled": [asdict(channel) for channel in self.pooled],
            "labels": {str(value): count for value, count in self.labels.items()},
            "median_spacing": np.median(self.spacings, axis=0).tolist(),
            "median_size": np.median(self.sizes, axis=0).tolist(),
        }


def fingerprint_from_dict(given: Mapping[str, Any]) -> Fingerprint:
    """Read what ``Fingerprint.to_dict`` returned, also after a way through JSON.

    Raises:
        ValueError: if it is none.
    """
    try:
        pooled = tuple(Intensities(**channel) for channel in given["pooled"])
        return Fingerprint(cases=tuple(facts_from_dict(case) for case in given["cases"]), pooled=pooled)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is no fingerprint of cases ({type(error).__name__}: {error})") from error


def fingerprint_of(
    cases: Sequence[Case], *, examined: Mapping[str, CaseFacts] | None = None, progress: Progress | None = None
) -> Fingerprint:
    """Take the fingerprint of training cases; give it no others, lest validation be seen.

    Args:
        cases: with label maps.
        examined: what ``examine_cases`` found of these and maybe others, so that they are not read again.
        progress: called with the numbers of cases done and in all.

    Raises:
        ValueError: if there are no cases, one cannot be read, or their numbers of channels differ.
    """
    if not cases:
        raise ValueError("no cases to take a fingerprint of")
    known = examined if examined is not None else examine_cases(cases, progress=progress)
    facts = tuple(known[case.name] for case in cases)
    if problems := [case.problem for case in facts if case.problem]:
        raise ValueError(problems[0] + (f" ({len(problems) - 1} more cases cannot be used)" if len(problems) > 1 else ""))
    counts = [len(case.channels) for case in facts]
    for case, count in zip(facts, counts, strict=True):
        if count != counts[0]:
            raise ValueError(f"{case.name} has {count} channels, but {facts[0].name} {counts[0]}")
    return Fingerprint(cases=facts, pooled=tuple(_pooled(facts, channel) for channel in range(counts[0])))


def other_units(cases: Sequence[CaseFacts], channel: int) -> list[str]:
    """Names of the cases whose contrast is ten times, or a tenth of, the median one."""
    contrast = np.array([case.channels[channel].image.high - case.channels[channel].image.low for case in cases])
    ratio = contrast / max(float(np.median(contrast)), 1e-12)
    return [case.name for case, r in zip(cases, ratio, strict=True) if r > SCALE or r * SCALE < 1]


def _pooled(cases: Sequence[CaseFacts], channel: int) -> Intensities:
    samples = np.concatenate([case.channels[channel].samples for case in cases]).astype(np.float64)
    if not samples.size:
        whole = [case.channels[channel].image for case in cases]  # no labels at all: the checks tell
        return whole[0]
    low, median, high = np.percentile(samples, PERCENTS).tolist()
    found = [facts for case in cases if (facts := case.channels[channel].foreground) is not None]
    return Intensities(
        minimum=min(facts.minimum for facts in found),
        low=low,
        median=median,
        high=high,
        maximum=max(facts.maximum for facts in found),
        mean=float(samples.mean()),
        std=float(samples.std()),
    )
