"""Label maps and probabilities on the grid of their image."""

from dataclasses import replace

import numpy as np
import pytest

from geovit.datasets.volumes import Volume, label_dtype, open_volume, write_labels, write_volume

nib = pytest.importorskip("nibabel")
nrrd = pytest.importorskip("nrrd")

AFFINE = np.array([[-1.5, 0, 0, 20], [0, 2, 0.3, -10], [0, -0.2, 2.5, 5], [0, 0, 0, 1]])
SIZE = (4, 5, 6)


@pytest.fixture
def labels():
    return np.random.default_rng(0).integers(0, 4, SIZE)


@pytest.fixture
def image(tmp_path):
    """A NIfTI image with a header of its own in every part."""

    def make(dtype=np.int16, *, endian="<", kind=nib.Nifti1Image, shape=SIZE, units="micron"):
        made = kind(np.ones(shape, dtype), None, kind.header_class(endianness=endian))
        made.header.set_data_dtype(dtype)
        made.header.set_qform(np.diag([2.0, 3, 4, 1]) * 1000, 1)
        made.header.set_sform(AFFINE * 1000, 2)
        made.header.set_xyzt_units(units, "sec")
        made.header.set_slope_inter(0.5, 3)
        made.header["descrip"] = b"from a scanner"
        nib.save(made, tmp_path / "image.nii")
        return open_volume(tmp_path / "image.nii")

    return make


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_nifti_keeps_the_grid_of_the_image(tmp_path, image, labels, name, endian, kind):
    like = image(endian=endian, kind=kind)
    write_labels(tmp_path / name, labels, like)
    written, source = nib.load(tmp_path / name), nib.load(like.path)
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels)
    assert type(written) is type(source)
    assert written.header.endianness == endian
    places = ("srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
    for field in (*places, "qform_code", "sform_code", "pixdim", "xyzt_units", "dim", "descrip"):
        np.testing.assert_array_equal(written.header[field], source.header[field], err_msg=field)
    assert written.get_data_dtype() == source.get_data_dtype()
    assert written.header.get_slope_inter() in ((1, 0), (None, None))
    np.testing.assert_array_equal(open_volume(tmp_path / name).affine, like.affine)


def test_equal_labels_give_equal_bytes(tmp_path, image, labels):
    like = image()
    for name in ("a.nii.gz", "a.nrrd"):
        write_labels(tmp_path / name, labels, like)
        first = (tmp_path / name).read_bytes()
        write_labels(tmp_path / name, np.asfortranarray(labels.astype(np.uint8)), like, overwrite=True)
        assert (tmp_path / name).read_bytes() == first


def test_a_2d_image_has_2d_labels(tmp_path, image):
    like = image(shape=(4, 5))
    write_labels(tmp_path / "a.nii", np.ones((4, 5, 1), int), like)
    assert nib.load(tmp_path / "a.nii").shape == (4, 5)


def test_a_4d_image_has_3d_labels(tmp_path, image, labels):
    write_labels(tmp_path / "a.nii", labels, image(shape=(*SIZE, 3)))
    assert nib.load(tmp_path / "a.nii").shape == SIZE


@pytest.mark.parametrize(
    ("stored", "top", "chosen"),
    [
        (np.int16, 4, np.int16),
        (np.int32, 4, np.int32),
        (np.uint8, 255, np.uint8),
        (np.uint8, 256, np.uint16),
        (np.float32, 4, np.uint8),
        (np.float64, 300, np.uint16),
        (np.int8, 70000, np.uint32),
    ],
)
def test_the_dtype_is_that_of_the_image_or_the_smallest(tmp_path, image, labels, stored, top, chosen):
    labels[0, 0, 0] = top
    like = replace(image(), stored=np.dtype(stored))
    assert label_dtype(labels, like) == chosen
    write_labels(tmp_path / "a.nii", labels, like)
    assert nib.load(tmp_path / "a.nii").get_data_dtype() == chosen


def test_a_dtype_can_be_chosen(tmp_path, image, labels):
    write_labels(tmp_path / "a.nii", labels, image(), dtype=np.uint8)
    assert nib.load(tmp_path / "a.nii").get_data_dtype() == np.uint8
    with pytest.raises(ValueError, match="b.nii: uint8 does not hold labels from 0 to 300"):
        write_labels(tmp_path / "b.nii", labels * 100, image(), dtype=np.uint8)


def test_nrrd_keeps_the_grid_of_the_image(tmp_path, labels):
    head = {"space": "right-anterior-superior", "space directions": AFFINE[:3, :3].T / 3, "space origin": [1 / 3, 2, 3]}
    head |= {"space units": ["mm", "mm", "mm"]}
    nrrd.write(str(tmp_path / "image.nrrd"), np.ones(SIZE, np.int16), dict(head))
    like = open_volume(tmp_path / "image.nrrd")
    write_labels(tmp_path / "a.nrrd", labels, like, names={1: "liver", 3: "spleen"})
    data, found = nrrd.read(str(tmp_path / "a.nrrd"))
    np.testing.assert_array_equal(data, labels)
    assert data.dtype == np.int16
    assert found["space"] == head["space"]
    assert found["space units"] == head["space units"]
    np.testing.assert_array_equal(found["space directions"], head["space directions"])
    np.testing.assert_array_equal(found["space origin"], head["space origin"])
    assert (found["Segment0_LabelValue"], found["Segment0_Name"]) == ("1", "liver")
    assert (found["Segment1_LabelValue"], found["Segment1_Name"]) == ("3", "spleen")


@pytest.mark.parametrize(
    ("shape", "header"),
    [
        (SIZE, {"spacings": [1.0, 2.0, 3.0]}),
        ((4, 5), {"space": "LPS", "space directions": [[1.0, 0, 0], [0, 0, 2.0]], "space origin": [1.0, 2, 3]}),
        ((4, 5), {"space dimension": 2, "space directions": [[1.0, 0], [0, 2.0]], "space origin": [1.0, 2]}),
    ],
)
def test_nrrd_of_other_kinds_keep_their_grid(tmp_path, shape, header):
    nrrd.write(str(tmp_path / "image.nrrd"), np.ones(shape, np.float32), header)
    like = open_volume(tmp_path / "image.nrrd")
    write_labels(tmp_path / "a.nrrd", np.ones(like.size, int), like)
    assert nrrd.read_header(str(tmp_path / "a.nrrd"))["sizes"].tolist() == list(shape)
    np.testing.assert_array_equal(open_volume(tmp_path / "a.nrrd").affine, like.affine)


@pytest.mark.parametrize("out", ["a.nii.gz", "a.nrrd"])
def test_a_format_other_than_the_image_s(tmp_path, write_series, stored, place, image, labels, out):
    series = open_volume(write_series(stored))
    write_labels(tmp_path / out, np.ones(series.size, int), series)
    np.testing.assert_allclose(open_volume(tmp_path / out).affine, place, atol=1e-6)
    like = image()
    write_labels(tmp_path / out, labels, like, overwrite=True)
    np.testing.assert_allclose(open_volume(tmp_path / out).affine, like.affine, atol=1e-6)
    bare = Volume(voxels=np.zeros((1, *SIZE), np.float32), affine=AFFINE)
    write_labels(tmp_path / out, labels, bare, overwrite=True)
    np.testing.assert_allclose(open_volume(tmp_path / out).affine, AFFINE, rtol=1e-6)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd"])
def test_probabilities(tmp_path, image, name):
    like = image()
    values = np.random.default_rng(0).random((3, *SIZE))
    write_volume(tmp_path / name, values, like)
    found = open_volume(tmp_path / name)
    np.testing.assert_array_equal(found.voxels, values.astype(np.float32))
    np.testing.assert_allclose(found.affine, like.affine, rtol=1e-6)
    write_volume(tmp_path / name, values[:1], like, overwrite=True)
    assert open_volume(tmp_path / name, channels=1).voxels.shape == (1, *SIZE)


def test_mistakes_are_told_and_nothing_is_written(tmp_path, image, labels):
    like = image()
    before = sorted(tmp_path.iterdir())
    for path, given, told in [
        ("a.nii", labels[1:], r"a.nii: labels of shape \(3, 5, 6\) for a volume of \(4, 5, 6\)"),
        ("a.nii", labels.astype(float), "a.nii: labels of float64, expected integers"),
        ("a.mha", labels, "a.mha: unknown suffix '.mha', expected one of .nii.gz, .nii, .nrrd, .dcm"),
        ("a.dcm", labels, "a.dcm: a DICOM-SEG refers to a DICOM series, but .*image.nii is NIfTI; use .nii.gz or .nrrd"),
    ]:
        with pytest.raises(ValueError, match=told):
            write_labels(tmp_path / path, given, like)
    with pytest.raises(ValueError, match="a.dcm: DICOM-SEG holds labels only|a DICOM-SEG refers"):
        write_volume(tmp_path / "a.dcm", labels[None], like)
    with pytest.raises(ValueError, match="a.nii: values of shape"):
        write_volume(tmp_path / "a.nii", labels, like)
    with pytest.raises(OSError, match="cannot write .*is not a folder"):
        write_labels(tmp_path / "none" / "a.nii", labels, like)
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_is_replaced_unless_asked(tmp_path, image, labels):
    like = image()
    write_labels(tmp_path / "a.nii", labels, like)
    before = (tmp_path / "a.nii").read_bytes()
    with pytest.raises(FileExistsError, match="a.nii exists"):
        write_labels(tmp_path / "a.nii", labels * 0, like)
    assert (tmp_path / "a.nii").read_bytes() == before


def test_a_failure_leaves_nothing_behind(tmp_path, image, labels, monkeypatch):
    like = image()
    write_labels(tmp_path / "a.nii", labels, like)
    before = (tmp_path / "a.nii").read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("geovit.datasets.volumes.nifti._write", fail)
    with pytest.raises(OSError, match="cannot write .*a.nii: No space left on device"):
        write_labels(tmp_path / "a.nii", labels * 0, like, overwrite=True)
    assert (tmp_path / "a.nii").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii", "image.nii"]


def test_real_images(tmp_path, data_dir):
    folder = data_dir / "medical"
    for path in [*(folder / "nibabel_samples").iterdir(), *(folder / "totalsegmentator").iterdir()]:
        like, source = open_volume(path), nib.load(path)
        labels = (like.voxels[0] > like.voxels[0].mean()).astype(np.uint8)
        write_labels(tmp_path / "a.nii.gz", labels, like, overwrite=True)
        written = nib.load(tmp_path / "a.nii.gz")
        np.testing.assert_array_equal(np.asarray(written.dataobj), labels)
        np.testing.assert_array_equal(written.affine, source.affine)
        assert written.shape == source.shape[:3]
        for field in ("qform_code", "sform_code", "xyzt_units"):
            assert written.header[field] == source.header[field]
