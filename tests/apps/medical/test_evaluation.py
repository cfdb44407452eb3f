"""`geovit evaluate medical`: known figures, the protocol beside them, and what is refused."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from geovit.apps.cli import main
from geovit.apps.medical.evaluation import evaluate
from geovit.apps.medical.files import segment_files
from geovit.apps.medical.model import Segmenter, new_segmenter, save_segmenter
from geovit.apps.medical.networks import NetworkConfig
from geovit.apps.medical.plan import Channel, Plan, Target
from geovit.datasets.cases import Fold, make_folds, split_digest, write_folds

AFFINE = np.array([[-2.0, 0, 0, 20], [0, 1, 0, -5], [0, 0, 1, 3], [0, 0, 0, 1]])
SIZE = (20, 18, 16)


def write(path, labels, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, affine), path)


def box(start, value=1, dtype=np.uint8):
    labels = np.zeros(SIZE, dtype)
    labels[start : start + 6, 4:10, 4:10] = value
    return labels


@pytest.fixture
def maps(tmp_path):
    """Two cases: one found exactly, one six millimetres off; and one that has not been predicted."""
    for name, start in (("a", 5), ("b", 8)):
        write(tmp_path / "predictions" / f"{name}_seg.nii.gz", box(start))
    for name in "abc":
        write(tmp_path / "labels" / f"{name}.nii.gz", box(5))
    return tmp_path / "predictions", tmp_path / "labels"


def test_folders_of_label_maps_have_the_figures_that_they_should(maps, tmp_path, capsys):
    out = tmp_path / "scores.json"
    assert main(["evaluate", "medical", *map(str, maps), f"--out={out}", "--tolerance=2"]) == 0
    report = json.loads(out.read_text())
    assert [case["name"] for case in report["cases"]] == ["a", "b"]
    assert report["cases"][1]["spacing"] == [2, 1, 1]
    one, two = (case["targets"]["1"] for case in report["cases"])
    assert (one["dice"], one["hd95"], one["surface_dice"]) == (1, 0, 1)
    assert (two["dice"], two["hd95"]) == (0.5, 6)
    assert two["truth_ml"] == two["predicted_ml"] == 0.432
    assert report["summary"]["1"]["dice"]["mean"] == report["summary"]["mean"]["dice"]["mean"] == 0.75
    assert report["summary"]["1"]["dice"]["low"] == 0.5
    assert report["summary"]["1"]["dice"]["high"] == 1.0
    protocol = report["protocol"]
    assert (protocol["cases"], protocol["tolerance_mm"], protocol["empty"]["rule"]) == (2, 2, "nan")
    assert protocol["labels_without_prediction"] == ["c"]
    told = capsys.readouterr()
    assert "1 of 3 labels have no prediction and are left out, such as c" in told.err
    lines = told.out.splitlines()
    assert lines[0].startswith("2 cases")
    assert any("empty masks (nan)" in line for line in lines)
    assert [line.split()[0] for line in lines[-2:]] == ["1", "mean"]


def test_a_line_for_each_case_and_target(maps, tmp_path):
    out = tmp_path / "scores.csv"
    evaluate([str(path) for path in maps], out=out)
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [(row["case"], row["target"], float(row["dice"]), float(row["hd95_mm"])) for row in rows] == [
        ("a", "1", 1.0, 0.0),
        ("b", "1", 0.5, 6.0),
    ]
    assert {row["empty"] for row in rows} == {""}


def test_two_files_are_compared(maps):
    predictions, labels = maps
    report = evaluate([str(predictions / "b_seg.nii.gz"), str(labels / "a.nii.gz")]).report
    assert report["summary"]["1"]["dice"] == {"mean": 0.5, "low": None, "high": None, "std": None, "cases": 1}


def test_results_beside_their_images_are_found(maps):
    predictions, labels = maps
    write(predictions / "a.nii.gz", np.zeros(SIZE, np.float32) + 0.5)  # an image
    write(predictions / "b_prob.nii.gz", np.zeros(SIZE, np.float32) + 0.5)
    assert [case["name"] for case in evaluate([str(predictions), str(labels)]).report["cases"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("rule", "dice", "hd95", "cases"), [("nan", 0.5, 0, 3), ("one", 0.625, 0, 4), ("brats", 0.625, 17.08, 4)]
)
def test_empty_masks_are_counted_and_told(maps, capsys, rule, dice, hd95, cases):
    predictions, labels = maps
    write(predictions / "b_seg.nii.gz", box(5))
    write(predictions / "d_seg.nii.gz", box(5))
    write(labels / "d.nii.gz", box(5, 0))
    write(predictions / "e_seg.nii.gz", box(5, 0))
    write(labels / "e.nii.gz", box(5, 0))
    (predictions / "a_seg.nii.gz").unlink()
    write(predictions / "c_seg.nii.gz", box(8))
    report = evaluate([str(predictions), str(labels)], empty=rule).report
    row = report["summary"]["1"]
    assert row["missing"] == {"both": 1, "truth": 1, "prediction": 0}
    assert row["dice"]["mean"] == pytest.approx(dice)
    assert row["dice"]["cases"] == cases
    assert report["protocol"]["empty"]["figures"] == 2
    assert any(f"empty masks ({rule})" in line and "2 of 4 figures" in line for line in report["protocol"]["text"])
    diagonal = np.linalg.norm(np.multiply(SIZE, (2, 1, 1)))
    present = [0.0, 6.0] + {"nan": [], "one": [0.0], "brats": [0.0, diagonal]}[rule]
    assert row["hd95"]["mean"] == pytest.approx(np.mean(present))


def test_classes_and_regions_are_named_by_a_dataset_json(tmp_path):
    names = {
        "labels": {"background": 0, "whole": [1, 2], "core": [1]},
        "regions_class_order": [2, 1],
        "channel_names": {"0": "MR"},
    }
    labels = box(5, 2)
    labels[6:8, 5:8, 5:8] = 1
    for folder in ("imagesTr", "labelsTr", "predictions"):
        write(tmp_path / folder / "a.nii.gz", labels)
    wrong = labels.copy()
    wrong[wrong == 1] = 2
    write(tmp_path / "predictions" / "a.nii.gz", wrong)
    listing = tmp_path / "dataset.json"
    listing.write_text(json.dumps(names))
    given = evaluate([str(tmp_path / "predictions"), str(tmp_path / "labelsTr")], targets=listing).report
    assert given["summary"]["whole"]["dice"]["mean"] == 1
    assert given["summary"]["core"]["dice"]["mean"] == 0
    assert given["protocol"]["regions"] is True
    found = evaluate([str(tmp_path / "predictions"), str(tmp_path / "labelsTr")]).report
    assert found["summary"] == given["summary"]
    assert found["protocol"]["targets_from"].endswith("dataset.json")


def test_another_report_is_compared_case_by_case(maps, tmp_path, capsys):
    predictions, labels = maps
    first = tmp_path / "first.json"
    evaluate([str(predictions), str(labels)], out=first)
    write(predictions / "b_seg.nii.gz", box(6))
    arguments = ["evaluate", "medical", str(predictions), str(labels), f"--compared={first}"]
    assert main(arguments) == 0
    assert "+0.1667" in capsys.readouterr().out
    report = evaluate([str(predictions), str(labels)], compared=first).report
    assert report["difference"]["1"]["dice"]["mean"] == pytest.approx((5 / 6 - 3 / 6) / 2)
    assert report["difference"]["1"]["hd95"]["mean"] == pytest.approx(-2)
    with pytest.raises(ValueError, match=r"measured with tolerance 1 mm and empty nan, not 2 mm and nan"):
        evaluate([str(predictions), str(labels)], compared=first, tolerance=2)
    write(predictions / "c_seg.nii.gz", box(6))
    with pytest.raises(ValueError, match="1 cases are in one of both reports only, such as c"):
        evaluate([str(predictions), str(labels)], compared=first)
    with pytest.raises(ValueError, match="is no report of geovit evaluate medical"):
        evaluate([str(predictions), str(labels)], compared=_text(tmp_path / "x.json", "{}"))


def _text(path, text):
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained network that finds something, and five labelled cases."""
    folder = tmp_path_factory.mktemp("model")
    plan = Plan(
        channels=(Channel(name="CT"),),
        targets=(Target(name="liver", values=(1,), output=1), Target(name="spleen", values=(2,), output=2)),
        roi=(16, 16, 16),
        spacing=(1.5, 1.5, 1.5),
    )
    config = NetworkConfig(name="monai_unet", arguments={"channels": (4, 8), "strides": (2,)})
    made = new_segmenter(config, plan)
    facts = {"training": {"fold": 1, "folds": 5}, "split": split_digest(make_folds("abcde"))}
    file = folder / "best.safetensors"
    save_segmenter(file, Segmenter(network=made.network, config=config, plan=plan, facts=facts))
    rng = np.random.default_rng(0)
    for name in "abcde":
        labels = box(5)
        labels[14:18, 4:10, 4:10] = 2
        write(folder / "data" / "images" / f"{name}.nii.gz", (labels + rng.normal(size=SIZE)).astype(np.float32))
        write(folder / "data" / "labels" / f"{name}.nii.gz", labels)
    return file, folder / "data"


def test_a_model_is_measured_on_what_it_would_write(model, tmp_path):
    file, data = model
    report = evaluate([str(data)], model=file, device="cpu").report
    segment_files([str(data / "images")], model=file, out=tmp_path / "maps", quicklook=False, device="cpu")
    written = evaluate([str(tmp_path / "maps"), str(data / "labels")], model=file).report
    assert report["cases"] == written["cases"]
    assert len(report["cases"]) == 5
    assert report["summary"].keys() == {"liver", "spleen", "mean"}
    assert report["protocol"]["model"]["file"] == "best.safetensors"
    assert report["protocol"]["device"] == "cpu"


def test_cases_that_the_model_was_trained_on_are_told(model, tmp_path, capsys):
    file, data = model
    own = tmp_path / "best.safetensors"
    own.write_bytes(file.read_bytes())
    folds = make_folds("abcde")
    write_folds(tmp_path / "splits.json", folds)
    assert main(["evaluate", "medical", str(data), f"--model={own}", "--device=cpu"]) == 0
    told = "the model was trained on 4 of these 5 cases, by their names: their figures flatter it"
    assert told in capsys.readouterr().err
    report = evaluate([str(data)], model=own, fold=1, device="cpu").report
    assert tuple(case["name"] for case in report["cases"]) == folds[1].validation
    assert (report["protocol"]["fold"], report["protocol"]["cases_trained_on"]) == (1, 0)
    elsewhere = evaluate([str(data)], model=file, fold=1, device="cpu").report
    assert elsewhere["cases"] == report["cases"], "the same folds follow from the names"
    assert elsewhere["protocol"]["cases_trained_on"] == 0
    for folder in ("images", "labels"):
        (tmp_path / "other" / folder).mkdir(parents=True)
        for name in "abcdf":
            (tmp_path / "other" / folder / f"{name}.nii.gz").write_bytes((data / folder / "a.nii.gz").read_bytes())
    with pytest.raises(ValueError, match="fold is 1: nothing tells how cases were split"):
        evaluate([str(tmp_path / "other")], model=file, fold=1, device="cpu")
    with pytest.raises(ValueError, match="fold is 5: allowed are 0 to 4"):
        evaluate([str(data)], model=own, fold=5, device="cpu")
    write_folds(tmp_path / "splits.json", [Fold(train=tuple("abcx"), validation=("y",))], overwrite=True)
    assert len(evaluate([str(data)], model=own, device="cpu").report["cases"]) == 5, "other data than it was trained on"
    with pytest.raises(ValueError, match="fold 0 has cases that are not in the data, such as y"):
        evaluate([str(data)], model=own, fold=0, device="cpu")


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ((), {}, "0 inputs: expected PREDICTIONS and LABELS, or DATA and --model"),
        (("predictions",), {}, "1 inputs: expected PREDICTIONS and LABELS, or DATA and --model"),
        (("predictions", "labels"), {"fold": 0}, "a fold is of DATA"),
        (("predictions", "labels"), {"tolerance": -1.0}, "tolerance is -1.0: expected 0 mm or more"),
        (("predictions", "labels/a.nii.gz"), {}, "expected two folders or two files"),
        (("nothing", "labels"), {}, "no folder or file nothing"),
        (("labels", "predictions"), {}, "1 of 3 label maps in labels without one in predictions: c.nii.gz"),
    ],
)
def test_what_cannot_be_measured_is_told(maps, monkeypatch, inputs, options, message):
    monkeypatch.chdir(maps[0].parent)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        evaluate(list(inputs), **options)


def test_label_maps_that_do_not_fit_are_told_and_nothing_is_written(maps, tmp_path, capsys):
    predictions, labels = maps
    out = tmp_path / "scores.json"

    def told():
        assert main(["evaluate", "medical", str(predictions), str(labels), f"--out={out}"]) == 2
        assert not out.exists()
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("geovit:")]
        return line

    write(predictions / "b_seg.nii.gz", box(5)[1:])
    assert "b_seg.nii.gz is on another grid than" in told()
    write(predictions / "b_seg.nii.gz", box(5), AFFINE + np.diag([5, 0, 0, 0])[:, ::-1])
    assert "is on another grid" in told()
    write(predictions / "b_seg.nii.gz", box(5, 7))
    assert "b: the prediction has the values 7; allowed are 0, 1" in told()
    write(predictions / "b_seg.nii.gz", box(5).astype(np.float32) / 2)
    assert "has values such as 0.5; labels are whole numbers" in told()
    write(predictions / "b_seg.nii.gz", np.stack([box(5)] * 2, -1))
    assert "has 2 channels; a label map has one" in told()
    write(predictions / "b_seg.nii.gz", box(5))
    write(predictions / "b_label.nii.gz", box(5))
    write(predictions / "b_seg.nii", box(5))
    assert "are both of a case b" in told()


def test_files_are_replaced_only_if_told_to(maps, tmp_path):
    out = _text(tmp_path / "scores.json", "mine")
    with pytest.raises(FileExistsError, match="exists"):
        evaluate([str(path) for path in maps], out=out)
    assert out.read_text() == "mine"
    with pytest.raises(ValueError, match=r"expected a name that ends in .json or .csv"):
        evaluate([str(path) for path in maps], out=tmp_path / "scores.txt")
