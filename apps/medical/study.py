"""What a training learns from: cases, which of them validate, and what follows from the others."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...datasets import write_text_atomic
from ...datasets.cases import (
    SPLITS,
    Case,
    CaseSet,
    Fold,
    make_folds,
    open_cases,
    read_folds,
    split_digest,
    write_folds,
)
from .checks import check_cases, raise_errors, told
from .facts import examine_cases
from .fingerprint import fingerprint_of
from .plan import Plan, plan_from_dict
from .planning import Wishes, choose
from .progress import case_bar

logger = logging.getLogger(__name__)

PLAN, FINGERPRINT, FINDINGS = "plan.json", "fingerprint.json", "findings.json"


@dataclass(frozen=True, kw_only=True)
class Study:
    """Cases and what follows from those that train.

    Args:
        train, validation: cases; no validation case has a part in anything else here.
        plan: of the training cases.
        facts: of them, for model files: the fingerprint without single cases, and what the split is known by.
        files: what is written beside the model, by file name.
        folds: all of them; the split of the data.
    """

    train: tuple[Case, ...]
    validation: tuple[Case, ...]
    plan: Plan
    facts: Mapping[str, Any]
    files: Mapping[str, Any]
    folds: tuple[Fold, ...]

    def write(self, out: Path) -> None:
        """Write plan, fingerprint, findings and splits into a folder, over old ones."""
        for name, content in self.files.items():
            write_text_atomic(out / name, json.dumps(content, indent=1) + "\n", overwrite=True)
        if self.validation:  # else there is nothing to tell
            write_folds(out / SPLITS, self.folds, overwrite=True)


def open_study(data: Path, *, fold: int, folds: int, wishes: Wishes, progress: bool = False) -> Study:
    """Read cases, check them, split them, and make a plan of those that train.

    Raises:
        FileNotFoundError: if there are no cases.
        ValueError: if a case cannot be used, there are fewer cases than folds, or no such fold.
    """
    case_set = open_cases(data)
    if not case_set.cases:
        raise ValueError(f"{data} has no cases with label maps")
    split = _split(case_set, fold, folds)
    train, validation = _of(case_set, split[fold], data)
    with case_bar("examined", progress) as tick:
        examined = examine_cases(case_set.cases, progress=tick)
    findings = check_cases(case_set, examined=examined)
    errors = [finding for finding in findings if finding.severity == "error"]
    for line in told(errors) if len(errors) > 1 else ():
        logger.error("%s", line)
    raise_errors(errors)
    for line in told(findings):
        logger.warning("%s", line)
    fingerprint = fingerprint_of(train, examined=examined)
    choice = choose(fingerprint, case_set, wishes)
    for part, chosen, because in choice.reasons:
        logger.info("%s: %s (%s)", part, chosen, because)
    files = {PLAN: choice.plan.to_dict(), FINGERPRINT: fingerprint.to_dict(), FINDINGS: [asdict(finding) for finding in findings]}
    return Study(
        train=train,
        validation=validation,
        plan=choice.plan,
        facts=_facts(fingerprint.to_dict(), split),
        files=files,
        folds=split,
    )


def reopen_study(data: Path, out: Path, *, fold: int) -> Study:
    """Return the study that a folder tells of, as it was; cases are not examined again.

    Raises:
        FileNotFoundError: if the folder tells of none, or cases are gone.
        ValueError: if its files are of something else.
    """
    case_set = open_cases(data)
    files = {name: _read(out / name) for name in (PLAN, FINGERPRINT, FINDINGS)}
    names = [case.name for case in case_set.cases]
    listed = (out / SPLITS).is_file()
    split = tuple(read_folds(out / SPLITS, names)) if listed else (Fold(train=tuple(names), validation=()),)
    train, validation = _of(case_set, split[fold], out / SPLITS)
    plan = plan_from_dict(files[PLAN])
    return Study(train=train, validation=validation, plan=plan, facts=_facts(files[FINGERPRINT], split), files=files, folds=split)


def _split(case_set: CaseSet, fold: int, folds: int) -> tuple[Fold, ...]:
    names = tuple(case.name for case in case_set.cases)
    if case_set.folds and folds > 1:
        split = tuple(Fold(train=tuple(n for n in names if n not in part), validation=part) for part in case_set.folds)
        logger.info("the %d folds are those of %s", len(split), case_set.source)
    elif folds == 1 or len(names) == 1:
        logger.warning("no case validates: all %d train, and the last weights are kept", len(names))
        split = (Fold(train=names, validation=()),)
    else:
        split = tuple(make_folds(names, folds))
    if not 0 <= fold < len(split):
        raise ValueError(f"fold is {fold}: allowed are 0 to {len(split) - 1}")
    return split


def _of(case_set: CaseSet, fold: Fold, source: Path) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    by_name = {case.name: case for case in case_set.cases}
    if gone := [name for name in (*fold.train, *fold.validation) if name not in by_name]:
        raise FileNotFoundError(f"{source} names cases that there are not: {', '.join(gone[:3])}")
    if not fold.train:
        raise ValueError(f"{source}: no case is left to train on")
    return tuple(by_name[name] for name in fold.train), tuple(by_name[name] for name in fold.validation)


def _facts(fingerprint: Mapping[str, Any], split: Sequence[Fold]) -> dict[str, Any]:
    short = {key: value for key, value in fingerprint.items() if key != "cases"}
    return {"fingerprint": {"cases": len(fingerprint["cases"]), **short}, "split": split_digest(split)}


def _read(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"nothing to resume: no file {path}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
