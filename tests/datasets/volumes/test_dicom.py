"""DICOM series: order, spacing and values from the files, and series that are no volume."""

import shutil
import tracemalloc

import numpy as np
import pytest

from geovit.datasets.volumes import open_volume

pydicom = pytest.importorskip("pydicom")

LOCALIZER = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def seen(stored, intercept=-1024, slope=1):
    """(i, j, k) of (slice, row, column)."""
    return stored.astype(np.int64).T * slope + intercept


def refused(path, told, kind=ValueError):
    with pytest.raises(kind, match=told) as raised:
        open_volume(path)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(str(path))


def test_a_series_is_ordered_and_spaced_by_positions(write_series, stored, place):
    volume = open_volume(write_series(stored))
    np.testing.assert_array_equal(volume.voxels[0], seen(stored))
    np.testing.assert_allclose(volume.affine, place)  # SliceThickness says 3
    assert (volume.voxels.dtype, volume.stored, volume.format) == (np.int16, np.uint16, "DICOM")
    assert volume.size == (9, 7, 5)


def test_a_file_stands_for_its_series(write_series, stored, place):
    folder = write_series(stored)
    write_series(stored[:2], prefix="other", SeriesInstanceUID="1.2.9")
    volume = open_volume(folder / "IM010")
    np.testing.assert_array_equal(volume.voxels[0], seen(stored))
    np.testing.assert_allclose(volume.affine, place)


def test_several_series_are_listed_and_can_be_chosen(write_series, stored):
    folder = write_series(stored)
    write_series(stored[:2], prefix="other", SeriesInstanceUID="1.2.9.77", SeriesDescription="Scout", ImageType=LOCALIZER)
    refused(folder, r"2 series, expected one.*1.2.3.2 \(5 slices, CT Thorax\); 1.2.9.77 \(2 slices, CT Scout, localizer\)")
    assert open_volume(f"{folder}:1.2.9.77").size[2] == open_volume(f"{folder}:77").size[2] == 2
    assert open_volume(f"{folder}:1.2.3.2").size[2] == 5
    with pytest.raises(ValueError, match="0 series are named 5; there are 1.2.3.2"):
        open_volume(f"{folder}:5")


def test_frames_of_reference_are_told_apart(write_series, stored):
    folder = write_series(stored)
    write_series(stored[:2], prefix="other", FrameOfReferenceUID="1.2.9")
    refused(folder, "2 series, expected one")
    assert open_volume(folder / "IM003").size[2] == 5


def test_other_files_are_left_out_and_told(write_series, stored, caplog):
    folder = write_series(stored)
    (folder / "notes.txt").write_text("a note")
    caplog.set_level("INFO")
    assert open_volume(folder).size[2] == 5
    assert "1 files that are not DICOM are left out: notes.txt" in caplog.text


def test_objects_that_are_no_images_are_left_out(write_series, stored, caplog):
    folder = write_series(stored)
    write_series(stored[:1], prefix="seg", storage="1.2.840.10008.5.1.4.1.1.66.4", SeriesInstanceUID="1.2.9")
    caplog.set_level("INFO")
    assert open_volume(folder).size[2] == 5
    assert "seg003 (a segmentation, not an image)" in caplog.text
    refused(folder / "seg003", "a segmentation, not an image")


def test_a_dicomdir_is_ignored(write_series, stored):
    folder = write_series(stored)
    write_series(stored[:1], prefix="DIR", storage="1.2.840.10008.1.3.10", SeriesInstanceUID="1.2.9")
    (folder / "DIR003").rename(folder / "DICOMDIR")
    assert open_volume(folder).size[2] == 5


def test_a_copy_of_an_image_is_left_out(write_series, stored, caplog):
    folder = write_series(stored)
    shutil.copy(folder / "IM003", folder / "copy")
    assert open_volume(folder).size[2] == 5
    assert "1 files repeat an image and are left out: copy (as IM003)" in caplog.text


def test_localizers_within_a_series_are_left_out(write_series, stored, caplog):
    folder = write_series(stored)
    write_series(stored[:1], prefix="scout", ImageType=LOCALIZER, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    assert open_volume(folder).size[2] == 5
    assert "1 localizers of the series are left out: scout003" in caplog.text


def test_slope_and_intercept_are_those_of_each_slice(write_series, stored):
    each = {k: {"RescaleSlope": 0.5 + k, "RescaleIntercept": -k} for k in range(len(stored))}
    volume = open_volume(write_series(stored, each=each))
    expected = np.stack([plane * (0.5 + k) - k for k, plane in enumerate(stored)])
    np.testing.assert_allclose(volume.voxels[0], expected.T, rtol=1e-6)
    assert volume.voxels.dtype == np.float32


def test_whole_slopes_keep_integers(write_series, stored):
    volume = open_volume(write_series(stored, each={1: {"RescaleSlope": 20, "RescaleIntercept": 7}}))
    assert volume.voxels.dtype == np.int32  # 4095 * 20 does not fit into 16 bits
    np.testing.assert_array_equal(volume.voxels[0, :, :, 1], stored[1].T.astype(int) * 20 + 7)


def test_a_slope_may_be_negative(write_series, stored):
    volume = open_volume(write_series(stored, RescaleSlope=-1, RescaleIntercept=4095))
    np.testing.assert_array_equal(volume.voxels[0], seen(stored, 4095, -1))
    assert volume.voxels.dtype == np.int16


def test_signed_values(write_series, stored):
    signed = stored.astype(np.int16) - 2048
    volume = open_volume(write_series(signed, PixelRepresentation=1, RescaleSlope=None, RescaleIntercept=None))
    np.testing.assert_array_equal(volume.voxels[0], signed.T)
    assert volume.stored == np.int16


def test_bits_that_hold_no_value_are_masked(write_series, stored):
    np.testing.assert_array_equal(open_volume(write_series(stored | 0xF000)).voxels[0], seen(stored))


def test_monochrome1_changes_no_value(write_series, stored, caplog):
    volume = open_volume(write_series(stored, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(volume.voxels[0], seen(stored))
    assert "MONOCHROME1, low values are shown white" in caplog.text


def test_padding_becomes_the_lowest_value_measured(write_series, stored, caplog):
    caplog.set_level("INFO")
    signed = stored.astype(np.int16)
    signed[signed < 100] = 100
    signed[1:3, :2] = -2000
    volume = open_volume(write_series(signed, PixelRepresentation=1, BitsStored=16, HighBit=15, PixelPaddingValue=-2000))
    signed[1:3, :2] = signed[signed != -2000].min()
    np.testing.assert_array_equal(volume.voxels[0], seen(signed))
    assert "36 voxels of padding set to -924" in caplog.text


def test_a_series_of_padding_alone_is_kept(write_series, stored):
    volume = open_volume(write_series(stored * 0 + 7, PixelPaddingValue=7))
    assert (volume.voxels == 7 - 1024).all()


def test_a_range_of_padding(write_series, stored):
    padded = np.maximum(stored, 50)
    padded[0, 0, :3] = 0, 5, 9
    volume = open_volume(write_series(padded, PixelPaddingValue=0, PixelPaddingRangeLimit=9))
    assert (volume.voxels[0, :3, 0, 0] == padded[padded >= 50].min().astype(int) - 1024).all()


def test_a_single_slice_has_its_thickness(write_series, stored, caplog):
    assert open_volume(write_series(stored[:1])).spacing == (0.75, 0.5, 3)
    assert open_volume(write_series(stored[:1], "none", SliceThickness=None)).spacing[2] == 1
    assert "a single slice without a thickness" in caplog.text


def test_oblique_slices(write_series, stored):
    turned = np.array([[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]])
    across, down, normal = turned[0], turned[1], np.cross(turned[0], turned[1])
    volume = open_volume(write_series(stored, normal=normal, ImageOrientationPatient=[*across, *down]))
    np.testing.assert_array_equal(volume.voxels[0], seen(stored))
    np.testing.assert_allclose(np.diag([-1, -1, 1]) @ volume.affine[:3, 2], 2 * normal, atol=1e-12)


def test_rounded_positions_are_no_unequal_spacing(write_series, stored):
    many = np.concatenate([stored] * 8)
    positions = np.round(0.625 * np.arange(len(many)), 1)
    assert open_volume(write_series(many, positions=positions)).spacing[2] == pytest.approx(0.625, abs=2e-3)


@pytest.mark.parametrize(
    ("positions", "told"),
    [
        ([0, 2, 4, 8, 10], "1 slices missing among 5, the first at 106 mm: a gap of 4 mm where others are 2 mm"),
        ([0, 2, 4, 12, 14], "3 slices missing among 5"),
        ([0, 2, 4, 4, 6], "5 slices at 4 places, such as IM017 and IM024 at 104 mm"),
        ([0, 2, 4.5, 6, 8], "slices unequally spaced, 1.5 to 2.5 mm apart; IM017 lies 0.4 mm from"),
    ],
)
def test_gaps_and_repeats_are_refused(write_series, stored, positions, told):
    refused(write_series(stored, positions=positions), told)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "slices of different orientations: IM003 .* IM017"),
        ({"PixelSpacing": [0.5, 0.5]}, "different pixel spacings: IM003 .* IM017"),
        ({"Rows": 9, "Columns": 7}, r"slices of different sizes: IM003 \(7, 9\), IM017 \(9, 7\)"),
    ],
)
def test_slices_that_are_unlike_are_refused(write_series, stored, changes, told):
    refused(write_series(stored, each={2: changes}), told)


def test_a_gantry_tilt_is_refused(write_series, stored):
    tilted = np.array([0.0, np.sin(0.2), np.cos(0.2)])
    refused(write_series(stored, normal=tilted), r"gantry tilt of 11.5 degrees\?\), expected at most 0.5 of a pixel")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ImagePositionPatient": None, "ImageOrientationPatient": None}, "no slices of a volume: .* no place in the patient"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, r"a colour image \(PALETTE COLOR\), expected grey values"),
        ({"storage": "1.2.840.10008.5.1.4.1.1.481.2"}, "an RT dose, not an image"),
        ({"ImageOrientationPatient": [1, 0, 0, 0.5, 1, 0]}, "are not two orthogonal directions"),
        ({"RescaleSlope": 0}, "RescaleSlope 0.*, expected a number other than 0"),
        ({"HighBit": 13}, "12 of 16 bits up to bit 13"),
        ({"PixelSpacing": None}, "PixelSpacing is missing, expected 2 numbers"),
        ({"PixelSpacing": [0, 0]}, "mm on each axis|not finite|damaged"),
        ({"Rows": 60000, "Columns": 60000}, "truncated, or its header is damaged"),
    ],
)
def test_what_is_no_volume_is_refused(write_series, stored, changes, told):
    folder = write_series(stored)
    storage = changes.get("storage")
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        for name, value in changes.items():
            if name == "storage":
                dataset.SOPClassUID = storage
            elif value is None:
                delattr(dataset, name)
            else:
                setattr(dataset, name, value)
        dataset.save_as(file)
    refused(folder, told)


def test_truncated_anywhere(write_series, stored):
    folder = write_series(stored[:1])
    path = folder / "IM003"
    whole = path.read_bytes()
    for count in [*range(1, len(whole) - 4, 61), len(whole) - 1]:
        path.write_bytes(whole[:count])
        refused(path, "truncated|damaged|no image of a known kind|no image|text|no place")


def test_a_damaged_slice_fails_the_series(write_series, stored):
    folder = write_series(stored)
    (folder / "IM010").write_bytes((folder / "IM010").read_bytes()[:-20])
    with pytest.raises(ValueError, match="IM010: truncated or damaged pixels"):
        open_volume(folder)


def test_enhanced_multi_frame(write_enhanced, stored, place):
    volume = open_volume(write_enhanced(stored, order=[3, 0, 4, 1, 2]))
    np.testing.assert_array_equal(volume.voxels[0], seen(stored))
    np.testing.assert_allclose(volume.affine, place)
    assert volume.header.frames == (1, 3, 4, 0, 2)


def test_enhanced_multi_frame_has_slopes_of_its_own(write_enhanced, stored):
    volume = open_volume(write_enhanced(stored, slopes=[1, 2, 3, 4, 5]))
    np.testing.assert_array_equal(
        volume.voxels[0], np.stack([plane.T * (k + 1) - 1024 for k, plane in enumerate(stored.astype(int))], -1)
    )


def test_frames_without_places_are_refused(write_series, stored):
    folder = write_series(stored[:1])
    dataset = pydicom.dcmread(folder / "IM003")
    dataset.NumberOfFrames = 5
    dataset.PixelData = stored.tobytes()
    dataset.save_as(folder / "IM003")
    refused(folder / "IM003", "5 frames without a place for each")


def test_run_length_encoding(write_series, stored, tmp_path):
    folder = write_series(stored)
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.compress(pydicom.uid.RLELossless, encoding_plugin="pydicom")
        dataset.save_as(file)
    np.testing.assert_array_equal(open_volume(folder).voxels[0], seen(stored))


def test_memory_is_that_of_the_voxels(write_series):
    stored = np.zeros((20, 256, 256), np.uint16)
    folder = write_series(stored)
    open_volume(folder)  # what is imported is not counted
    tracemalloc.start()
    volume = open_volume(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.4 * volume.voxels.nbytes


def test_progress_is_told(write_series, stored):
    told = []
    open_volume(write_series(stored), progress=lambda done, count: told.append((done, count)))
    assert told == [(k, 5) for k in range(1, 6)]


def test_every_compression_gives_the_same_image(data_dir, tmp_path):
    folder = data_dir / "medical" / "pydicom_samples"
    plain = pydicom.dcmread(folder / "MR_small.dcm").pixel_array
    names = ["MR_small", "MR_small_RLE", "MR_small_bigendian", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless"]
    for name in names:
        (tmp_path / name).mkdir()
        shutil.copy(folder / f"{name}.dcm", tmp_path / name)
        np.testing.assert_array_equal(open_volume(tmp_path / name).voxels[0, :, :, 0].T, plain)


def test_real_files_that_are_no_volumes_are_refused(data_dir):
    for name, told in {
        "examples_jpeg2k": "a colour image",
        "examples_palette": "a colour image .PALETTE COLOR.",
        "liver_1frame": "a segmentation",
        "rtdose": "an RT dose",
    }.items():
        refused(data_dir / "medical" / "pydicom_samples" / f"{name}.dcm", told)


def test_a_real_series_lies_where_its_labels_lie(data_dir):
    nib = pytest.importorskip("nibabel")
    folder = data_dir / "medical" / "totalsegmentator_dicom_ct"
    volume = open_volume(folder / "series")
    labels = nib.as_closest_canonical(nib.load(folder / "example_seg_dicom.nii.gz"))
    turned = nib.as_closest_canonical(nib.Nifti1Image(volume.voxels[0], volume.affine))
    assert turned.shape == labels.shape
    np.testing.assert_allclose(turned.affine, labels.affine, atol=1e-4)
    assert volume.spacing[2] == pytest.approx(2)
    # What is labelled lies in the body, and not in the air around it.
    assert (
        np.median(turned.dataobj[np.asarray(labels.dataobj) > 0])
        > -200
        > np.median(turned.dataobj[np.asarray(labels.dataobj) == 0])
    )
