"""Fingerprints, the plans that follow from them, and what checks of cases find."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from geovit.apps.medical.checks import check_cases, raise_errors, told
from geovit.apps.medical.facts import examine, examine_cases
from geovit.apps.medical.fingerprint import fingerprint_from_dict, fingerprint_of
from geovit.apps.medical.planning import Wishes, choose, plan_of
from geovit.datasets.cases import Case, CaseSet, LabelTarget, make_folds, open_cases

SIZE = (24, 20, 16)
ONE = LabelTarget(name="one", values=(1,), output=1)
TWO = LabelTarget(name="two", values=(2,), output=2)


def write(path, voxels, spacing=(1.0, 1.0, 1.0), codes="RAS"):
    affine = np.diag([length * (1 if code in "RAS" else -1) for length, code in zip(spacing, codes, strict=True)] + [1.0])
    nib.Nifti1Image(voxels, affine).to_filename(path)
    return path


def image_of(seed=0, size=SIZE):
    return np.random.default_rng(seed).normal(100, 20, size).astype(np.float32)


def labels_of(size=SIZE):
    found = np.zeros(size, np.uint8)
    found[3:9, 4:9, 4:9] = 1
    found[12:19, 11:16, 9:14] = 2
    return found


class Cases:
    """Cases in a folder; each is like the others but for what is given."""

    def __init__(self, folder):
        self.folder, self.cases = folder, []

    def add(self, image=None, labels=None, spacing=(1.0, 1.0, 1.0), codes="RAS", label_spacing=None):
        name = f"c{len(self.cases)}"
        image = image_of(len(self.cases)) if image is None else image
        labels = labels_of() if labels is None else labels
        one = write(self.folder / f"{name}_image.nii.gz", image, spacing, codes)
        two = write(self.folder / f"{name}_label.nii.gz", labels, label_spacing or spacing, codes)
        self.cases.append(Case(name=name, images=(one,), label=two))
        return self

    def set(self, **options):
        return CaseSet(**{"cases": tuple(self.cases), "channels": ("T1",), "targets": (ONE, TWO), **options})


@pytest.fixture
def cases(tmp_path):
    return Cases(tmp_path)


def plan_and_reasons(cases, wishes=None, **options):
    found = choose(fingerprint_of(cases.cases), cases.set(**options), wishes)
    return found.plan, found.to_dict()


def test_facts_are_those_of_the_turned_image(cases):
    image, labels = image_of(), labels_of()
    cases.add(image, labels, (1.0, 2.0, 3.0))
    turned = [np.ascontiguousarray(x.transpose(2, 0, 1)[:, ::-1]) for x in (image, labels)]
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = 3, -1, 2, 1
    paths = [cases.folder / "i.nii", cases.folder / "l.nii"]
    for path, x in zip(paths, turned, strict=True):
        nib.Nifti1Image(x, affine).to_filename(path)
    plain, other = examine(cases.cases[0]), examine(Case(name="t", images=(paths[0],), label=paths[1]))
    assert other.orientation == "SLA"
    assert (other.size, other.spacing) == (SIZE, (1.0, 2.0, 3.0)) == (plain.size, plain.spacing)
    assert plain.labels == other.labels == {0: labels.size - 325, 1: 150, 2: 175}
    for value in (1, 2):
        wanted = np.argwhere(labels == value).mean(axis=0) / (np.array(SIZE) - 1)
        assert plain.centres[value] == pytest.approx(wanted)
        assert other.centres[value] == pytest.approx(wanted)
    facts = plain.channels[0].image
    assert facts.mean == pytest.approx(image.mean(), rel=1e-5)
    assert facts.std == pytest.approx(image.std(), rel=1e-5)
    assert [facts.low, facts.median, facts.high] == pytest.approx(np.percentile(image, (0.5, 50, 99.5)).tolist())
    assert (facts.minimum, facts.maximum) == (image.min(), image.max())
    assert plain.digest != other.digest
    assert plain.channels[0].foreground.mean == pytest.approx(image[labels > 0].mean(), rel=1e-5)


def test_a_fingerprint_survives_json(cases):
    found = fingerprint_of(cases.add().add().cases)
    assert fingerprint_from_dict(json.loads(json.dumps(found.to_dict()))) == found
    with pytest.raises(ValueError, match="no fingerprint"):
        fingerprint_from_dict({"cases": []})


def test_only_the_cases_that_are_given_count(cases):
    cases.add().add().add(spacing=(9.0, 9.0, 9.0), image=image_of() * 1000)
    examined = examine_cases(cases.cases)
    few = fingerprint_of(cases.cases[:2], examined=examined)
    assert few == fingerprint_of(cases.cases[:2])
    assert [case.name for case in few.cases] == ["c0", "c1"]
    assert few.pooled[0].maximum < 1000
    assert plan_of(few, cases.set()).spacing == (1.0, 1.0, 1.0)


def test_progress_is_told(cases):
    steps = []
    examine_cases(cases.add().add().cases, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 2), (2, 2)]


def test_unreadable_cases_and_none_at_all_have_no_fingerprint(cases):
    with pytest.raises(ValueError, match="no cases"):
        fingerprint_of([])
    cases.add().add(labels=labels_of()[1:])
    with pytest.raises(ValueError, match="c1_label.nii.gz is on another grid"):
        fingerprint_of(cases.cases)
    cases.cases.pop()
    cases.add(image=np.stack([image_of()] * 2, axis=-1))
    with pytest.raises(ValueError, match="c1 has 2 channels, but c0 1"):
        fingerprint_of(cases.cases)


def test_every_choice_has_its_reason(cases):
    found = choose(fingerprint_of(cases.add().add().cases), cases.set())
    assert set(found.to_dict()) == {"orientation", "spacing", "roi", "channel T1", "classes", "weights"}
    assert all(reason["because"] for reason in found.to_dict().values())
    console = Console(width=200)
    with console.capture() as text:
        console.print(found)
    assert "one orientation for all" in text.get()


def test_spacing_is_the_median(cases):
    for length in (0.8, 1.0, 1.3):
        cases.add(spacing=(length, 1.0, 1.1))
    assert plan_and_reasons(cases)[0].spacing == (1.0, 1.0, 1.1)
    assert plan_and_reasons(cases, Wishes(spacing=(2, 2, 2)))[0].spacing == (2, 2, 2)


def test_thick_slices_become_thinner(cases):
    for length in (5.0, 6.0, 7.0):
        cases.add(image_of(size=(48, 48, 6)), labels_of((48, 48, 6)), spacing=(1.0, 1.0, length))
    plan, reasons = plan_and_reasons(cases, targets=None)
    assert plan.spacing == (1.0, 1.0, 5.2)
    assert "10th percentile" in reasons["spacing"]["because"]


def test_networks_on_slices_lie_across_the_thick_axis(cases):
    cases.add(image_of(size=(48, 6, 48)), labels_of((48, 6, 48)), spacing=(1.0, 6.0, 1.0))
    plan, _ = plan_and_reasons(cases, Wishes(axes=2, multiple=16), targets=None)
    assert (plan.orientation, plan.spacing, plan.roi) == ("RSA", (1.0, 1.0, 0.0), (48, 48))


@pytest.mark.parametrize(
    ("size", "wishes", "roi"),
    [
        ((35, 50, 36), Wishes(), (32, 64, 32)),
        ((35, 50, 36), Wishes(multiple=16), (48, 64, 48)),
        ((10, 10, 10), Wishes(), (32, 32, 32)),
        ((35, 50, 36), Wishes(multiple=16, voxels=32**3), (32, 32, 32)),
        ((35, 50, 36), Wishes(roi=(64, 64, 32)), (64, 64, 32)),
    ],
)
def test_the_roi_is_about_the_image(cases, size, wishes, roi):
    cases.add(image_of(size=size), labels_of(size))
    targets = None if min(size) < 12 else (ONE, TWO)
    assert plan_and_reasons(cases, wishes, targets=targets)[0].roi == roi


@pytest.mark.parametrize(
    ("wishes", "pattern"),
    [
        (Wishes(roi=(64, 64)), "expected 3 multiples of 32"),
        (Wishes(roi=(40, 64, 64)), "expected 3 multiples of 32"),
        (Wishes(spacing=(1, -1, 1)), "expected three lengths"),
        (Wishes(axes=4), "2 or 3 axes"),
    ],
)
def test_wishes_that_cannot_be_fulfilled_are_refused(cases, wishes, pattern):
    with pytest.raises(ValueError, match=pattern):
        plan_and_reasons(cases.add(), wishes)


@pytest.mark.parametrize("name", ["CT", "ct", "CT (HU)", "abdominal CT"])
def test_ct_is_known_by_its_name(cases, name):
    image, labels = image_of(), labels_of()
    plan, _ = plan_and_reasons(cases.add(image, labels), channels=(name,))
    (channel,) = plan.channels
    inside = image[labels > 0].astype(np.float64)
    assert channel.scheme == "clip_zscore"
    assert [channel.low, channel.high] == pytest.approx(np.percentile(inside, (0.5, 99.5)).tolist())
    assert [channel.mean, channel.std] == pytest.approx([inside.mean(), inside.std()])


@pytest.mark.parametrize("name", ["T1ct", "ACT", "T1", "0"])
def test_all_else_is_normalised_by_itself(cases, name):
    plan, _ = plan_and_reasons(cases.add(), channels=(name,))
    assert plan.channels[0].scheme == "zscore"
    assert not plan.channels[0].nonzero
    assert plan.channels[0].percentiles is None


def test_outliers_and_cut_away_background_change_the_normalisation(cases):
    image = image_of()
    image[:12] = 0
    image[20, 10, 10] = 1e6
    plan, reasons = plan_and_reasons(cases.add(image).add())
    assert plan.channels[0].percentiles == (0.5, 99.5)
    assert "1 of 2 images have outliers" in reasons["channel T1"]["because"]
    assert plan_and_reasons(Cases(cases.folder).add(image))[0].channels[0].nonzero


def test_classes_come_from_the_maps_where_nothing_names_them(cases):
    plan, _ = plan_and_reasons(cases.add(), targets=None)
    assert [(target.name, target.values, target.output) for target in plan.targets] == [("1", (1,), 1), ("2", (2,), 2)]
    with pytest.raises(ValueError, match="no training case has labels other than 0"):
        plan_and_reasons(Cases(cases.folder).add(labels=np.zeros(SIZE, np.uint8)), targets=None)


def test_rare_classes_weigh_more(cases):
    labels = np.zeros(SIZE, np.uint8)
    labels[:10], labels[15, 5:9, 5:9] = 1, 2
    plan, reasons = plan_and_reasons(cases.add(labels=labels))
    assert plan.targets[0].weight < 1 < plan.targets[1].weight <= 3
    assert "has 200 times the voxels" in reasons["weights"]["because"]
    assert {target.weight for target in plan_and_reasons(cases, Wishes(weighted=False))[0].targets} == {1.0}


def test_regions_keep_their_order_and_an_empty_one_is_refused(cases):
    whole = LabelTarget(name="whole", values=(1, 2), output=1)
    plan, _ = plan_and_reasons(cases.add(), targets=(whole, TWO), regions=True)
    assert plan.regions
    assert [target.name for target in plan.targets] == ["whole", "two"]
    enhancing = LabelTarget(name="ET", values=(4,), output=3)
    with pytest.raises(ValueError, match="no training case has voxels of ET: the label values are 0, 1, 2"):
        plan_and_reasons(cases, targets=(whole, enhancing), regions=True)


def test_other_channels_than_named_are_refused(cases):
    with pytest.raises(ValueError, match="images have 1 channels, but 2 are named: T1, T2"):
        plan_and_reasons(cases.add(), channels=("T1", "T2"))


def found_in(cases, **options):
    allow = options.pop("allow", ())
    return [(f.severity, f.kind, f.case) for f in check_cases(cases.set(**options), allow=allow)]


def good(cases, number=6):
    for _ in range(number):
        cases.add()
    return cases


def test_good_cases_have_no_findings(cases):
    assert found_in(good(cases)) == []
    raise_errors([])


def test_errors_of_cases(cases):
    nan = image_of()
    nan[1, 1, 1] = np.nan
    strange = labels_of()
    strange[0, 0, 0] = 9
    good(cases)
    cases.add(nan)
    cases.add(labels=strange)
    cases.add(labels=np.zeros(SIZE, np.uint8))
    cases.add(image=np.full(SIZE, 3, np.int16))
    cases.add(image=np.stack([image_of(77)] * 3, axis=-1))
    cases.add(label_spacing=(1.0, 1.0, 2.0))
    cases.add(image=labels_of(), labels=image_of(50))
    cases.add(image=labels_of(), labels=(image_of(51) * 10).astype(np.int16))
    (cases.folder / "c2_image.nii.gz").write_bytes((cases.folder / "c2_image.nii.gz").read_bytes()[:500])
    errors = [(kind, case) for severity, kind, case in found_in(cases) if severity == "error"]
    assert errors == [
        ("unreadable", "c2"),
        ("non-finite", "c6"),
        ("unknown labels", "c7"),
        ("empty", "c8"),
        ("constant", "c9"),
        ("channels", "c10"),
        ("unreadable", "c11"),
        ("swapped files", "c12"),
        ("swapped files", "c13"),
    ]
    findings = check_cases(cases.set())
    assert all("\n" not in finding.text and finding.case in finding.text for finding in findings)
    with pytest.raises(ValueError, match="c2.* 8 more"):
        raise_errors(findings)
    assert ("warning", "empty", "c8") in found_in(cases, allow=("empty",))


def test_a_target_that_no_case_has_is_an_error(cases):
    enhancing = LabelTarget(name="ET", values=(4,), output=3)
    labels = labels_of()
    labels[labels == 2] = 3
    cases.add(labels=labels)
    (finding,) = [f for f in check_cases(cases.set(targets=(ONE, enhancing), regions=True)) if f.kind == "missing target"]
    assert finding.severity == "error"
    assert "no case has voxels of ET (4): the values in the label maps are 0, 1, 3; BraTS wrote" in finding.text


def test_warnings(cases):
    outlier, small, moved = image_of(80), np.zeros(SIZE, np.uint8), labels_of()
    outlier[0, 0, 0] = 1e6
    small[5, 5, 5], small[12:19, 11:16, 9:14] = 1, 2
    moved[moved == 1] = 0
    moved[20:24, 16:20, 12:16] = 1
    alone = labels_of()
    alone[alone == 1] = 0
    swapped = np.array([0, 2, 1], np.uint8)[labels_of()]
    good(cases, 40)
    cases.add(outlier)
    cases.add(image_of(81) * 1000)
    cases.add(spacing=(1.0, 1.0, 8.0))
    cases.add(labels=small)
    cases.add(labels=moved)
    cases.add(labels=alone)
    cases.add(labels=swapped)
    cases.add(image_of(0))
    found = found_in(cases)
    for wanted in [
        ("intensity outliers", "c40"),
        ("other units", "c41"),
        ("spacing", "c42"),
        ("volume", "c43"),
        ("place", "c44"),
        ("missing class", "c45"),
        ("swapped labels", "c46"),
        ("duplicate", "c47"),
    ]:
        assert ("warning", *wanted) in found
    assert {severity for severity, _, _ in found} == {"warning"}
    assert {case for _, _, case in found} == {f"c{number}" for number in range(40, 48)}


def test_findings_of_one_kind_are_told_together(cases):
    for seed in range(8):
        image = image_of(seed)
        image[0, 0, 0] = 1e6
        cases.add(image)
    (line,) = told(check_cases(cases.set()))
    assert line.startswith("intensity outliers: c0: channel T1 has values of")
    assert line.endswith("; 7 more: c1, c2, c3, c4, c5, ...")


def test_hippocampus(data_dir):
    found = open_cases(data_dir / "medical/hippocampus")
    few = replace(
        found, cases=(*found.cases[:6], *(case for case in found.cases if case.name.endswith(("_044", "_138", "_210"))))
    )
    examined = examine_cases(few.cases)
    findings = check_cases(few, examined=examined)
    raise_errors(findings)
    assert {f.case[-3:] for f in findings if f.kind == "other units"} == {"044", "138", "210"}
    assert "1.704e+06" in next(f.text for f in findings if f.kind == "intensity outliers" and f.case.endswith("_210"))
    fold = make_folds([case.name for case in few.cases], 3)[0]
    fingerprint = fingerprint_of([case for case in few.cases if case.name in fold.train], examined=examined)
    plan = plan_of(fingerprint, few)
    assert (plan.spacing, plan.orientation, plan.roi) == ((1.0, 1.0, 1.0), "RAS", (32, 64, 32))
    assert plan.channels[0].percentiles is not None
    assert [target.values for target in plan.targets] == [(1,), (2,)]
