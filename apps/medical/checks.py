"""Checks of cases before training: what cannot be learned from, and what looks wrong."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...datasets.cases import CaseSet
from .facts import CaseFacts, Progress, examine_cases
from .fingerprint import TAIL, other_units

_FAR_SPACING = 3.0  # times the median
_FAR_VOLUME = 8.0  # times the median volume of a class
_FAR_PLACE = 0.2  # of the image, at least, and
_FAR_SPREADS = 6.0  # times the usual distance from the median place
_USUAL = 0.9  # share of cases that have a class from which one without is told
_FEW = 5  # cases below which there is no "usual"
_APART = 0.05  # of the image, between classes whose places may tell that they are swapped
_SHOWN = 5

Severity = Literal["error", "warning"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something wrong with a case, or with the set.

    Args:
        severity: "error": not to be learned from; "warning": may be meant so.
        kind: such as "grid" or "intensity outliers", the same for all findings of one sort; see ``check_cases``.
        case: its name; empty if it is about the set.
        text: what was found, in one line that names the case.
    """

    severity: Severity
    kind: str
    case: str
    text: str


def check_cases(
    case_set: CaseSet,
    *,
    examined: Mapping[str, CaseFacts] | None = None,
    allow: Collection[str] = (),
    progress: Progress | None = None,
) -> list[Finding]:
    """Look for errors and oddities in all cases with label maps: errors first, in the order of the cases.

    Errors are of the kinds "unreadable" (files, grids, values that are no labels), "channels", "swapped files", "non-finite",
    "constant", "unknown labels", "empty" (a case without foreground) and "missing target" (in the whole set). Warnings are
    "duplicate", "intensity outliers", "other units", "spacing", "volume", "missing class", "place" and "swapped labels".

    Args:
        case_set: whose cases are checked, those for validation included: nothing is learned from them here.
        examined: what ``examine_cases`` found, so that files are not read again.
        allow: kinds of errors that are meant so, and become warnings, such as "empty" for healthy subjects.
        progress: called with the numbers of cases done and in all.
    """
    known = examined if examined is not None else examine_cases(case_set.cases, progress=progress)
    all_facts = [known[case.name] for case in case_set.cases]
    findings = [finding for facts in all_facts for finding in _of_case(facts, case_set)]
    # What is unusual is judged by cases that can be read.
    usable = [facts for facts in all_facts if not facts.problem and len(facts.channels) == len(case_set.channels)]
    if usable:
        findings += [*_of_targets(usable, case_set), *_duplicates(usable), *_intensities(usable, case_set)]
        findings += [*_spacings(usable), *_classes(usable), *_swapped(usable)]
    findings = [replace(f, severity="warning") if f.kind in allow else f for f in findings]
    return sorted(findings, key=lambda finding: finding.severity)


def raise_errors(findings: Sequence[Finding]) -> None:
    """Stop if there are errors.

    Raises:
        ValueError: with the first in one line, and how many more there are.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise ValueError(errors[0].text + (f" (and {len(errors) - 1} more in the cases)" if len(errors) > 1 else ""))


def told(findings: Sequence[Finding]) -> list[str]:
    """Return findings as lines, those of one kind together: how many, the first in full, the names of some others."""
    groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.severity, finding.kind].append(finding)
    lines = []
    for (_, kind), those in groups.items():
        others = [finding.case or finding.text for finding in those[1:]]
        also = ", ".join(others[:_SHOWN]) + (", ..." if len(others) > _SHOWN else "")
        lines.append(f"{kind}: {those[0].text}" + (f"; {len(others)} more: {also}" if others else ""))
    return lines


def _of_case(facts: CaseFacts, case_set: CaseSet) -> Iterator[Finding]:
    def error(kind: str, text: str) -> Finding:
        return Finding(severity="error", kind=kind, case=facts.name, text=f"{facts.name}: {text}")

    if facts.problem:
        yield error("swapped files" if facts.swapped else "unreadable", facts.problem)
        return
    if facts.swapped:
        yield error(
            "swapped files", f"image and label look swapped: the label has more values than the image, {len(facts.labels)}"
        )
        return
    if len(facts.channels) != len(case_set.channels):
        many = "; is the file 4-D where 3-D is meant?" if len(facts.channels) > len(case_set.channels) == 1 else ""
        names = ", ".join(case_set.channels)
        yield error("channels", f"the image has {len(facts.channels)} channels, expected {len(case_set.channels)}: {names}{many}")
    for number, channel in enumerate(facts.channels):
        if channel.nonfinite:
            some = "1 voxel" if channel.nonfinite == 1 else f"{channel.nonfinite} voxels"
            yield error("non-finite", f"channel {number} is NaN or infinite in {some}")
        elif channel.image.minimum == channel.image.maximum:
            yield error("constant", f"all voxels of channel {number} are {channel.image.minimum:g}")
    if not facts.foreground:
        yield error("empty", "the label map has no voxel other than 0")
    if case_set.targets is not None:
        values = {0, *(value for target in case_set.targets for value in target.values)}
        if strange := sorted(set(facts.labels) - values):
            shown = ", ".join(map(str, strange[:_SHOWN]))
            meant = ", ".join(map(str, sorted(values)))
            yield error("unknown labels", f"the label map has the values {shown}, which are none of {meant}")


def _of_targets(cases: Sequence[CaseFacts], case_set: CaseSet) -> Iterator[Finding]:
    present = sorted({value for facts in cases for value in facts.labels})
    shown = ", ".join(map(str, present[:20]))
    for target in case_set.targets or ():
        if not set(target.values) & set(present):
            hint = ""
            if {3, 4} & set(target.values) and {3, 4} & set(present):
                hint = "; BraTS wrote the enhancing tumour as 4 until 2022 and as 3 since 2023"
            values = ", ".join(map(str, target.values))
            text = f"no case has voxels of {target.name} ({values}): the values in the label maps are {shown}{hint}"
            yield Finding(severity="error", kind="missing target", case="", text=text)
    if case_set.targets is None and present == [0]:
        yield Finding(severity="error", kind="missing target", case="", text="no case has labels other than 0")


def _warning(kind: str, facts: CaseFacts, text: str) -> Finding:
    return Finding(severity="warning", kind=kind, case=facts.name, text=f"{facts.name}: {text}")


def _duplicates(cases: Sequence[CaseFacts]) -> Iterator[Finding]:
    seen: dict[str, CaseFacts] = {}
    for facts in cases:
        if (first := seen.setdefault(facts.digest, facts)) is not facts:
            yield _warning("duplicate", facts, f"its image is the same as that of {first.name}")


def _intensities(cases: Sequence[CaseFacts], case_set: CaseSet) -> Iterator[Finding]:
    for number, name in enumerate(case_set.channels):
        contrast = float(np.median([facts.channels[number].image.high - facts.channels[number].image.low for facts in cases]))
        others = set(other_units(cases, number)) if len(cases) >= _FEW else set()
        for facts in cases:
            image = facts.channels[number].image
            between = f"{image.low:.4g} to {image.high:.4g} (percentiles 0.5 and 99.5)"
            if facts.name in others:
                text = f"channel {name} has values of {between}, up to {image.maximum:.4g}; usual is a range of {contrast:.4g}"
                yield _warning("other units", facts, text)
            if image.tail > TAIL:
                text = f"channel {name} has values of {image.minimum:.4g} to {image.maximum:.4g}, but most are {between}"
                yield _warning("intensity outliers", facts, text)


def _spacings(cases: Sequence[CaseFacts]) -> Iterator[Finding]:
    median = np.median([facts.spacing for facts in cases], axis=0)
    for facts in cases:
        ratio = np.array(facts.spacing) / median
        if max(ratio.max(), 1 / ratio.min()) > _FAR_SPACING:
            has, usual = (" x ".join(f"{length:.3g}" for length in lengths) for lengths in (facts.spacing, median))
            yield _warning("spacing", facts, f"spacing {has} mm; usual is {usual} mm")


def _classes(cases: Sequence[CaseFacts]) -> Iterator[Finding]:
    """Classes that a case lacks, or that are far larger, smaller or elsewhere than in the others."""
    if len(cases) < _FEW:
        return
    for value in sorted({value for facts in cases for value in facts.centres}):
        having = [facts for facts in cases if value in facts.centres]
        if len(having) < max(_FEW, _USUAL * len(cases)):
            continue
        for facts in cases:
            if value not in facts.centres and facts.foreground:
                yield _warning(
                    "missing class", facts, f"no voxel of label {value}, which {len(having)} of {len(cases)} cases have"
                )
        volumes = np.array([facts.labels[value] * float(np.prod(facts.spacing)) for facts in having])
        usual = float(np.median(volumes))
        centres = np.array([facts.centres[value] for facts in having])
        middle = np.median(centres, axis=0)
        distances = np.linalg.norm(centres - middle, axis=1)
        far = max(_FAR_PLACE, _FAR_SPREADS * float(np.median(distances)))
        for facts, volume, distance in zip(having, volumes.tolist(), distances.tolist(), strict=True):
            if max(volume / usual, usual / volume) > _FAR_VOLUME:
                yield _warning("volume", facts, f"label {value} fills {volume:.4g} mm3; usual is {usual:.4g}")
            if distance > far:
                where = _place(np.array(facts.centres[value]))
                yield _warning(
                    "place", facts, f"label {value} lies at {where} of the image (right, front, top); usual is {_place(middle)}"
                )


def _swapped(cases: Sequence[CaseFacts]) -> Iterator[Finding]:
    """Pairs of labels of a case each of which lies where the other does in most cases."""
    if len(cases) < _FEW:
        return
    places: dict[int, list[tuple[float, float, float]]] = defaultdict(list)
    for facts in cases:
        for value, centre in facts.centres.items():
            places[value].append(centre)
    middles = {value: np.median(found, axis=0) for value, found in sorted(places.items()) if len(found) >= _FEW}
    for one, two in combinations(middles, 2):
        apart = float(np.linalg.norm(middles[one] - middles[two]))
        if apart < _APART:
            continue
        for facts in cases:
            if one not in facts.centres or two not in facts.centres:
                continue
            # What the pair lies off is the same for both; what counts is which way one lies from the other.
            between = np.array(facts.centres[one]) - np.array(facts.centres[two])
            share = float(between @ (middles[one] - middles[two])) / apart**2
            if share < -0.5:
                yield _warning("swapped labels", facts, f"labels {one} and {two} lie as if they were swapped")


def _place(centre: NDArray[np.float64]) -> str:
    return ", ".join(f"{100 * part:.0f} %" for part in centre.tolist())
