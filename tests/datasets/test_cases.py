"""Cases of folders and lists, their label maps, and folds."""

import json
import re

import nibabel as nib
import numpy as np
import pytest

from geovit.datasets.cases import Case, LabelTarget, make_folds, open_cases, read_case, read_folds, write_folds

SIZE = (5, 6, 4)


def write(path, voxels=None, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.arange(np.prod(SIZE), dtype=np.int16).reshape(SIZE) if voxels is None else voxels
    nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine).to_filename(path)
    return path


def labels(value=1):
    found = np.zeros(SIZE, np.uint8)
    found[1:3, 2:4, 1:3] = value
    return found


def write_json(folder, **content):
    (folder / "dataset.json").write_text(json.dumps(content))


def folder_of(root, names=("a", "b"), images="images", maps="labels"):
    for name in names:
        write(root / images / f"{name}.nii.gz")
        write(root / maps / f"{name}.nii.gz", labels())
    return root


@pytest.mark.parametrize(("images", "maps"), [("images", "labels"), ("imagesTr", "labelsTr")])
def test_files_of_equal_names_are_cases(tmp_path, images, maps):
    found = open_cases(folder_of(tmp_path, images=images, maps=maps))
    assert [case.name for case in found.cases] == ["a", "b"]
    assert found.cases[0].images == (tmp_path / images / "a.nii.gz",)
    assert found.cases[0].label == tmp_path / maps / "a.nii.gz"
    assert (found.channels, found.targets, found.test) == (("0",), None, ())


def test_classes_are_named_by_a_table(tmp_path):
    folder_of(tmp_path)
    (tmp_path / "labels.csv").write_text("value,name\n0,background\n2,posterior\n1,anterior\n")
    targets = open_cases(tmp_path).targets
    assert targets == (LabelTarget(name="anterior", values=(1,), output=1), LabelTarget(name="posterior", values=(2,), output=2))


@pytest.mark.parametrize("text", ["1,liver\n1,spleen\n", "1,liver\ntwo,spleen\n", "1\n", "0,background\n"])
def test_a_table_that_names_no_classes_is_refused(tmp_path, text):
    folder_of(tmp_path)
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match="labels.csv"):
        open_cases(tmp_path)


def test_channel_numbers_are_stacked_in_order(tmp_path):
    for name in ("p1", "p2"):
        for channel in (1, 0):
            write(tmp_path / f"imagesTr/{name}_000{channel}.nii.gz", np.full(SIZE, channel, np.float32))
        write(tmp_path / f"labelsTr/{name}.nii.gz", labels())
        write(tmp_path / f"imagesTs/{name}t_0000.nii.gz")
        write(tmp_path / f"imagesTs/{name}t_0001.nii.gz")
    write_json(
        tmp_path,
        channel_names={"0": "T1", "1": "T2"},
        labels={"background": 0, "tumour": 1},
        numTraining=2,
        file_ending=".nii.gz",
    )
    found = open_cases(tmp_path)
    assert found.channels == ("T1", "T2")
    assert [case.name for case in found.cases] == ["p1", "p2"]
    assert [len(case.images) for case in found.test] == [2, 2]
    volume, _ = read_case(found.cases[0])
    assert volume.voxels.shape == (2, *SIZE)
    assert volume.voxels[:, 0, 0, 0].tolist() == [0, 1]


def test_numbers_that_labels_have_too_are_names(tmp_path):
    found = open_cases(folder_of(tmp_path, names=("scan_0001", "scan_0002")))
    assert [case.name for case in found.cases] == ["scan_0001", "scan_0002"]
    assert found.channels == ("0",)


def test_decathlon(tmp_path):
    folder_of(tmp_path, images="imagesTr", maps="labelsTr")
    write(tmp_path / "imagesTs/t.nii.gz")
    entries = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in "ba"]
    write_json(
        tmp_path,
        modality={"0": "MRI"},
        labels={"0": "background", "1": "Anterior"},
        training=entries,
        test=["./imagesTs/t.nii.gz"],
    )
    for found in (open_cases(tmp_path), open_cases(tmp_path / "dataset.json")):
        assert found.channels == ("MRI",)
        assert [case.name for case in found.cases] == ["a", "b"]
        assert found.targets == (LabelTarget(name="Anterior", values=(1,), output=1),)
        assert [(case.name, case.label) for case in found.test] == [("t", None)]
        assert found.folds == ()


def test_list_of_monai_with_folds_and_several_images(tmp_path):
    folder_of(tmp_path)
    entries = [{"image": [f"images/{n}.nii.gz"] * 2, "label": f"labels/{n}.nii.gz", "fold": f} for n, f in (("a", 1), ("b", 0))]
    write_json(tmp_path, training=entries, labels={"0": "background", "1": "x"})
    found = open_cases(tmp_path)
    assert found.channels == ("0", "1")
    assert found.folds == (("b",), ("a",))


def test_regions_are_painted_in_their_order(tmp_path):
    folder_of(tmp_path, images="imagesTr", maps="labelsTr")
    regions = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    write_json(tmp_path, channel_names={"0": "T1"}, labels=regions, regions_class_order=[1, 2, 3])
    found = open_cases(tmp_path)
    assert found.regions
    assert found.targets == (
        LabelTarget(name="whole", values=(1, 2, 3), output=1),
        LabelTarget(name="core", values=(2, 3), output=2),
        LabelTarget(name="enhancing", values=(3,), output=3),
    )


def test_a_folder_for_each_case(tmp_path):
    for case in ("BraTS-GLI-00001-000", "BraTS-GLI-00002-000"):
        for ending in ("t1n", "t2f"):
            write(tmp_path / case / f"{case}-{ending}.nii.gz")
        write(tmp_path / case / f"{case}-seg.nii.gz", labels())
    found = open_cases(tmp_path)
    assert found.channels == ("t1n", "t2f")
    assert [image.name for image in found.cases[0].images] == ["BraTS-GLI-00001-000-t1n.nii.gz", "BraTS-GLI-00001-000-t2f.nii.gz"]
    assert read_case(found.cases[1])[0].voxels.shape == (2, *SIZE)


def test_each_mismatch_is_told(tmp_path):
    def refused(pattern, kind=ValueError):
        with pytest.raises(kind, match=pattern) as caught:
            open_cases(tmp_path)
        assert "\n" not in str(caught.value)

    refused("has no cases", FileNotFoundError)
    folder_of(tmp_path)
    extra = write(tmp_path / "images/c.nii.gz")
    refused("1 of 3 images in .* without label: c")
    extra.unlink()
    extra = write(tmp_path / "labels/c.nii.gz", labels())
    refused("1 of 3 labels in .* without image: c")
    extra.unlink()
    extra = write(tmp_path / "labels/a.nii", labels())
    refused("a.nii and a.nii.gz differ in their suffix only")
    extra.unlink()
    (tmp_path / "labels/a.nii.gz").rename(tmp_path / "labels/a_seg.nii.gz")
    refused("without label: a .*a is not a_seg")
    with pytest.raises(FileNotFoundError, match="no folder or file"):
        open_cases(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected a folder or a dataset.json"):
        open_cases(extra.with_name("a_seg.nii.gz"))


def test_a_missing_channel_is_told(tmp_path):
    for name in ("p1_0000", "p1_0001", "p2_0000"):
        write(tmp_path / f"images/{name}.nii.gz")
    for name in ("p1", "p2"):
        write(tmp_path / f"labels/{name}.nii.gz", labels())
    with pytest.raises(ValueError, match="p2 has no channel 0001"):
        open_cases(tmp_path)


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        ("[]", "expected an object"),
        ("{", "is no JSON"),
        ('{"training": []}', "training has to be a list"),
        ('{"training": [{"image": "images/a.nii.gz"}]}', "expected one label"),
        ('{"training": [{"image": "images/a.nii.gz", "label": ["x", "y"]}]}', "expected one label"),
        ('{"training": [{"image": "images/z.nii.gz", "label": "labels/a.nii.gz"}]}', "1 of 2 files of .* are missing: z.nii.gz"),
        ('{"labels": {"background": 0, "whole": [1, 2]}}', "need regions_class_order"),
        ('{"labels": {"whole": [1, 2], "core": 2}, "regions_class_order": [1]}', "regions_class_order has to list"),
        ('{"labels": {"background": 0, "x": 1, "y": 1}}', "two labels have one value"),
        ('{"labels": {"background": 0, "x": 1, "ignore": 2}}', "a label to ignore"),
        ('{"labels": {"background": 0, "x": 1.5}}', "neither a name, a value"),
    ],
)
def test_a_list_that_is_not_understood_is_refused(tmp_path, content, pattern):
    folder_of(tmp_path)
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=pattern) as caught:
        open_cases(tmp_path)
    assert "\n" not in str(caught.value)


def turned(**change):
    affine = np.eye(4)
    for place, value in change.items():
        affine[int(place[1]), int(place[2])] = value
    return affine


@pytest.mark.parametrize(
    ("voxels", "affine", "pattern"),
    [
        (labels()[1:], None, "another grid .* 4 x 6 x 4 and not 5 x 6 x 4 voxels"),
        (labels(), turned(a00=1.5), "another grid .* spacing 1.5 x 1 x 1 and not 1 x 1 x 1 mm"),
        (labels(), turned(a00=-1), "another grid .* orientation LAS and not RAS"),
        (labels(), turned(a03=0.5), "another grid .* 0.5 mm apart"),
        (labels().astype(np.float32) / 2, None, "values such as 0.5; labels are whole numbers"),
        (np.full(SIZE, np.nan, np.float32), None, "values such as nan"),
        (np.stack([labels()] * 2, axis=-1), None, "channel"),
    ],
)
def test_a_label_map_that_does_not_fit_is_refused(tmp_path, voxels, affine, pattern):
    case = Case(name="a", images=(write(tmp_path / "a.nii.gz"),), label=write(tmp_path / "l.nii.gz", voxels, affine))
    with pytest.raises(ValueError, match=pattern) as caught:
        read_case(case)
    assert "\n" not in str(caught.value)


def test_whole_numbers_as_floats_and_rounded_affines_are_read(tmp_path):
    label = write(tmp_path / "l.nii.gz", labels(2).astype(np.float32), turned(a03=0.004))
    _, found = read_case(Case(name="a", images=(write(tmp_path / "a.nii.gz"),), label=label))
    assert found.dtype.kind == "i"
    np.testing.assert_array_equal(found, labels(2))


def test_images_of_one_case_share_a_grid(tmp_path):
    one, two = write(tmp_path / "1.nii.gz"), write(tmp_path / "2.nii.gz", affine=turned(a23=3))
    with pytest.raises(ValueError, match="2.nii.gz is on another grid than 1.nii.gz"):
        read_case(Case(name="a", images=(one, two)))
    assert read_case(Case(name="a", images=(one, one)))[1] is None


def test_folds_part_the_cases_and_follow_from_the_seed():
    names = [f"case{number}" for number in range(13)]
    folds = make_folds(names, 5, seed=3)
    assert sorted(name for fold in folds for name in fold.validation) == sorted(names)
    assert {len(fold.validation) for fold in folds} == {2, 3}
    assert all(sorted(fold.train + fold.validation) == sorted(names) for fold in folds)
    assert folds == make_folds(names[::-1], 5, seed=3)
    assert folds != make_folds(names, 5, seed=4)


def test_images_of_one_subject_stay_together():
    names = [f"sub-{s:02}_ses-{n}" for s in range(6) for n in range(3)]
    for fold in make_folds(names, 3):
        assert not {name[:6] for name in fold.train} & {name[:6] for name in fold.validation}
    names = [f"BraTS-GLI-{s:05}-{n:03}" for s in range(4) for n in range(2)]
    for fold in make_folds(names, 4):
        assert len({name[:15] for name in fold.validation}) == 1


@pytest.mark.parametrize("number", [0, 1, 4])
def test_impossible_numbers_of_folds_are_refused(number):
    with pytest.raises(ValueError, match=f"{number} folds of 3 subjects"):
        make_folds(["a", "b", "c"], number)


def test_folds_are_written_and_read_as_nnunet_does(tmp_path):
    names = ["a", "b", "c", "d"]
    folds = make_folds(names, 2)
    write_folds(tmp_path / "splits.json", folds)
    listed = json.loads((tmp_path / "splits.json").read_text())
    assert set(listed[0]) == {"train", "val"}
    assert read_folds(tmp_path / "splits.json", names) == folds
    with pytest.raises(ValueError, match="names cases that there are not: d"):
        read_folds(tmp_path / "splits.json", names[:3])


@pytest.mark.parametrize("content", ["{}", "[1]", "[]", '[{"train": ["a"], "val": ["a"]}]', '[{"train": ["a"], "val": []}]', "{"])
def test_other_files_than_folds_are_refused(tmp_path, content):
    path = tmp_path / "splits.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        read_folds(path, ["a", "b"])


def test_hippocampus(data_dir):
    found = open_cases(data_dir / "medical/hippocampus")
    assert len(found.cases) == 200
    volume, label = read_case(found.cases[0])
    assert volume.size == label.shape
    assert set(np.unique(label)) == {0, 1, 2}
