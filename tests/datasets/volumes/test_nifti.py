"""NIfTI: values and places as nibabel reads them, and files that are refused."""

import gzip
import pickle
import tracemalloc

import numpy as np
import pytest

from geovit.datasets.volumes import check_finite, open_volume

nib = pytest.importorskip("nibabel")

AFFINE = np.array([[-1.5, 0, 0, 20], [0, 2, 0.3, -10], [0, -0.2, 2.5, 5], [0, 0, 0, 1]])


def values(*shape, dtype=np.int16):
    return np.random.default_rng(0).integers(-100, 100, shape).astype(dtype)


def save(path, voxels, affine=AFFINE, *, kind=nib.Nifti1Image, endian="<", units="mm", **fields):
    made = kind(voxels, affine, kind.header_class(endianness=endian))
    made.header.set_data_dtype(voxels.dtype.newbyteorder("="))
    made.header.set_xyzt_units(units)
    for name, value in fields.items():
        made.header[name] = value
    nib.save(made, path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.img"])
@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_voxels_and_place_are_those_of_the_file(tmp_path, name, endian, dtype):
    voxels = values(4, 5, 6, dtype=np.int8).astype(dtype)
    path = save(tmp_path / name, voxels, kind=nib.Nifti1Pair if name == "a.img" else nib.Nifti1Image, endian=endian)
    volume = open_volume(path)
    np.testing.assert_array_equal(volume.voxels, voxels[None])
    np.testing.assert_allclose(volume.affine, AFFINE, rtol=1e-6)
    assert volume.voxels.dtype == volume.stored == dtype
    assert volume.voxels.dtype.isnative
    assert (volume.format, volume.size) == ("NIfTI", (4, 5, 6))


def test_either_file_of_a_pair_is_the_pair(tmp_path):
    save(tmp_path / "a.img", values(4, 5, 6), kind=nib.Nifti1Pair)
    np.testing.assert_array_equal(open_volume(tmp_path / "a.hdr").voxels, open_volume(tmp_path / "a.img").voxels)
    (tmp_path / "a.img").unlink()
    with pytest.raises(FileNotFoundError, match="a.hdr: one of a pair .* a.img is not beside it"):
        open_volume(tmp_path / "a.hdr")


def test_nifti2(tmp_path):
    voxels = values(4, 5, 6)
    np.testing.assert_array_equal(open_volume(save(tmp_path / "a.nii", voxels, kind=nib.Nifti2Image)).voxels[0], voxels)


def test_slope_and_intercept_are_applied(tmp_path):
    made = nib.Nifti1Image(values(4, 5, 6), AFFINE)
    made.header.set_slope_inter(0.5, -3)
    nib.save(made, tmp_path / "a.nii")
    volume = open_volume(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.voxels[0], nib.load(tmp_path / "a.nii").get_fdata(), rtol=1e-6)
    assert volume.voxels.dtype == np.float32
    assert volume.stored == np.int16


def test_axes(tmp_path):
    flat, volume, several, vector = values(4, 5), values(4, 5, 6), values(4, 5, 6, 3), values(4, 5, 6, 1, 2)
    assert open_volume(save(tmp_path / "2.nii", flat)).voxels.shape == (1, 4, 5, 1)
    assert open_volume(save(tmp_path / "3.nii", volume[..., None])).voxels.shape == (1, 4, 5, 6)
    four = open_volume(save(tmp_path / "4.nii", several))
    np.testing.assert_array_equal(four.voxels, np.moveaxis(several, -1, 0))
    np.testing.assert_array_equal(open_volume(save(tmp_path / "5.nii", vector)).voxels, np.moveaxis(vector[:, :, :, 0], -1, 0))
    with pytest.raises(ValueError, match="5b.nii: 4 x 5 x 6 x 2 x 3 voxels, expected"):
        open_volume(save(tmp_path / "5b.nii", values(4, 5, 6, 2, 3)))


def test_a_wrong_number_of_channels_is_refused_before_reading(tmp_path):
    path = save(tmp_path / "4.nii", values(4, 5, 6, 3))
    assert len(open_volume(path, channels=3).voxels) == 3
    with pytest.raises(ValueError, match=r"4.nii: 4 x 5 x 6 x 3 voxels have 3 channels, expected 1 \(3-D\)"):
        open_volume(path, channels=1)


@pytest.mark.parametrize(("unit", "millimetres"), [("meter", 1000), ("micron", 0.001), ("unknown", 1)])
def test_lengths_become_millimetres(tmp_path, unit, millimetres):
    path = save(tmp_path / "a.nii", values(4, 5, 6), np.diag([1.5 / millimetres] * 3 + [1]), units=unit)
    np.testing.assert_allclose(open_volume(path).spacing, 1.5, rtol=1e-6)


def test_sform_before_qform_before_nothing(tmp_path, caplog):
    made = nib.Nifti1Image(values(4, 5, 6), None)
    made.header.set_sform(AFFINE, 1)
    made.header.set_qform(np.diag([2, 2, 2, 1]), 1)
    nib.save(made, tmp_path / "both.nii")
    np.testing.assert_allclose(open_volume(tmp_path / "both.nii").affine, AFFINE, rtol=1e-6)
    assert "qform and sform disagree by up to" in caplog.text
    caplog.clear()
    made.header["sform_code"] = 0
    made.header["dim"][0] = 3
    path = tmp_path / "q.nii"
    path.write_bytes(made.header.binaryblock + bytes(4) + np.asarray(made.dataobj).tobytes(order="F"))
    np.testing.assert_allclose(open_volume(path).affine, np.diag([2, 2, 2, 1]))
    assert not caplog.text
    made.header["qform_code"] = 0
    path.write_bytes(made.header.binaryblock + bytes(4) + np.asarray(made.dataobj).tobytes(order="F"))
    np.testing.assert_allclose(open_volume(path).affine, made.header.get_base_affine())
    assert "states no orientation" in caplog.text


def test_agreeing_forms_are_not_told(tmp_path, caplog):
    made = nib.Nifti1Image(values(4, 5, 6), np.diag([2, 2, 3, 1]))
    made.header.set_qform(np.diag([2, 2, 3, 1]), 1)
    nib.save(made, tmp_path / "a.nii")
    open_volume(tmp_path / "a.nii")
    assert not caplog.text


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_truncated_anywhere(tmp_path, name):
    path = save(tmp_path / name, values(8, 9, 10))
    whole = path.read_bytes()
    for count in [*range(1, 400, 37), len(whole) // 2, len(whole) - 9]:
        path.write_bytes(whole[:count])
        with pytest.raises(ValueError, match=f"^{path}: ") as raised:
            open_volume(path)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty, 0 bytes"),
        (pickle.dumps({"a": 1}), "a pickle"),
        (b"some words\n", "text"),
        (gzip.compress(b""), "empty, 0 bytes"),
        (gzip.compress(b"some words"), "text"),
        (bytes([92, 1, 0, 0]) + bytes(344), "a truncated NIfTI header"),
        (bytes([92, 1, 0, 0]) + bytes(500), "an Analyze 7.5 file, which states no orientation"),
    ],
)
def test_what_is_no_volume_is_told(tmp_path, content, told):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path}: {told}.*expected NIfTI, NRRD or DICOM"):
        open_volume(path)


@pytest.mark.parametrize(
    ("voxels", "told"),
    [
        (np.zeros((4, 5, 6), np.complex64), "complex voxels"),
        (np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "RGB voxels"),
    ],
)
def test_voxels_that_are_no_real_numbers_are_refused(tmp_path, voxels, told):
    made = nib.Nifti1Image(voxels, AFFINE)
    nib.save(made, tmp_path / "a.nii")
    with pytest.raises(ValueError, match=f"a.nii: {told}, expected integers or floats"):
        open_volume(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("affine", "told"),
    [
        (np.diag([0.0, 1, 1, 1]), "voxels of 0 x 1 x 1 mm"),
        (np.diag([1e5, 1, 1, 1]), "voxels of 100000 x 1 x 1 mm"),
        (np.array([[1.0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]), "voxels of 1 x 1 x 1 mm|singular"),
        (np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "singular"),
        (np.diag([np.nan, 1, 1, 1]), "not finite"),
    ],
)
def test_an_affine_that_places_nothing_is_refused(tmp_path, affine, told):
    made = nib.Nifti1Image(values(4, 5, 6), np.eye(4))
    made.header["srow_x"], made.header["srow_y"], made.header["srow_z"] = affine[:3]
    path = tmp_path / "a.nii"
    made.header["qform_code"], made.header["sform_code"] = 0, 1
    path.write_bytes(made.header.binaryblock + bytes(4) + np.asarray(made.dataobj).tobytes(order="F"))
    with pytest.raises(ValueError, match=told):
        open_volume(path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_header_that_claims_too_much_takes_no_memory(tmp_path, packed):
    made = nib.Nifti1Image(values(4, 5, 6), AFFINE)
    made.header["dim"][1:4] = 30000
    content = made.header.binaryblock + bytes(1000)
    path = tmp_path / "a.nii"
    path.write_bytes(gzip.compress(content) if packed else content)
    tracemalloc.start()
    with pytest.raises(ValueError, match="a.nii: truncated, or its header is damaged: 30000 x 30000 x 30000 voxels"):
        open_volume(path)
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()


def test_sizes_below_one_are_refused(tmp_path):
    made = nib.Nifti1Image(values(4, 5, 6), AFFINE)
    made.header["dim"][2] = -5
    path = tmp_path / "a.nii"
    path.write_bytes(made.header.binaryblock + bytes(1000))
    with pytest.raises(ValueError, match="a.nii: its header states sizes 4 x -5 x 6"):
        open_volume(path)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("xyzt_units", 5, "lengths in the unknown unit 5"),
        ("vox_offset", np.nan, "voxels from byte nan"),
        ("datatype", 1234, "voxels of the unknown type 1234|damaged header"),
        ("scl_inter", np.inf, "truncated or damaged|damaged header"),
    ],
)
def test_damaged_fields_are_told(tmp_path, field, value, told):
    made = nib.Nifti1Image(values(4, 5, 6), AFFINE)
    made.header["vox_offset"], made.header["scl_slope"], made.header["scl_inter"] = 352, 2, 0
    made.header[field] = value
    path = tmp_path / "a.nii"
    path.write_bytes(made.header.binaryblock + bytes(1000))
    with pytest.raises(ValueError, match=f"a.nii: .*({told})") as raised:
        open_volume(path)
    assert "\n" not in str(raised.value)


def test_voxels_that_are_not_finite_are_counted(tmp_path):
    voxels = np.zeros((4, 5, 6), np.float32)
    voxels[1, 2, 3:] = np.nan
    voxels[0, 0, 0] = -np.inf
    volume = open_volume(save(tmp_path / "a.nii", voxels))
    with pytest.raises(ValueError, match="a.nii: 3 voxels are NaN and 1 infinite, of 120; expected finite values"):
        check_finite(volume)
    check_finite(open_volume(save(tmp_path / "b.nii", values(4, 5, 6))))


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        open_volume(tmp_path / "a.nii")
    with pytest.raises(FileNotFoundError, match="no DICOM images in this folder"):
        open_volume(tmp_path)


def test_real_files_are_as_nibabel_reads_them(data_dir):
    folder = data_dir / "medical"
    paths = [*(folder / "nibabel_samples").iterdir(), *(folder / "totalsegmentator").iterdir()]
    paths += sorted((folder / "hippocampus" / "images").iterdir())[:3]
    assert len(paths) > 10
    for path in paths:
        volume, image = open_volume(path), nib.load(path)
        np.testing.assert_allclose(volume.affine, image.affine, atol=1e-6)
        expected = image.get_fdata(dtype=np.float32)
        expected = expected[None] if expected.ndim == 3 else np.moveaxis(expected, -1, 0)
        np.testing.assert_allclose(volume.voxels, expected, rtol=3e-7)
