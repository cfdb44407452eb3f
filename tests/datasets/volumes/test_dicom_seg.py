"""DICOM-SEG, read back by highdicom and pydicom."""

import numpy as np
import pytest

from geovit.datasets.volumes import open_volume, write_labels

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read(path, like):
    """Labels (i, j, k) on the grid of ``like``, by the geometry in the file alone."""
    made = highdicom.seg.segread(path)
    volume = made.get_volume(combine_segments=True, dtype=np.uint16)
    labels = np.zeros(like.size, np.uint16)
    to_like = np.linalg.inv(like.affine) @ TO_RAS @ volume.affine
    for place in np.argwhere(volume.array):
        i, j, k, _ = np.rint(to_like @ [*place, 1]).astype(int)
        labels[i, j, k] = volume.array[tuple(place)]
    return made, labels


def check_references(made, like):
    used = {item.ReferencedSOPInstanceUID for item in made.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert used == {header.SOPInstanceUID for header in like.header.headers}
    assert made.ReferencedSeriesSequence[0].SeriesInstanceUID == like.header.headers[0].SeriesInstanceUID
    for word in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName"):
        assert made[word].value == like.header.headers[0][word].value


def test_few_labels_are_binary_segments(tmp_path, write_series, stored, caplog):
    caplog.set_level("INFO", "geovit")
    like = open_volume(write_series(stored))
    labels = np.random.default_rng(0).choice([0, 1, 2, 4], like.size)
    write_labels(tmp_path / "a.dcm", labels, like, names={1: "liver", 2: "kidney", 4: "tumour", 5: "cyst"})
    made, found = read(tmp_path / "a.dcm", like)
    assert made.SegmentationType == "BINARY"
    assert [made.get_segment_description(n).segment_label for n in made.segment_numbers] == ["liver", "kidney", "tumour", "cyst"]
    np.testing.assert_array_equal(np.array([0, 1, 2, 4])[found], labels)
    assert "segments of a DICOM-SEG are counted: label 1 is 1, 2 is 2, 4 is 3, 5 is 4" in caplog.text
    check_references(made, like)


def test_many_labels_are_a_labelmap(tmp_path, write_series, stored):
    like = open_volume(write_series(stored))
    labels = np.random.default_rng(0).integers(0, 41, like.size) * 3
    write_labels(tmp_path / "a.dcm", labels, like, names={3: "liver"})
    made, found = read(tmp_path / "a.dcm", like)
    assert made.SegmentationType == "LABELMAP"
    np.testing.assert_array_equal(found, labels)
    assert made.get_segment_description(3).segment_label == "liver"
    assert made.get_segment_description(6).segment_label == "label 6"
    check_references(made, like)


def test_enhanced_multi_frame(tmp_path, write_enhanced, stored):
    like = open_volume(write_enhanced(stored, order=[3, 0, 4, 1, 2], ContentDate="20260101", ContentTime="120000"))
    labels = np.random.default_rng(0).integers(0, 3, like.size)
    write_labels(tmp_path / "a.dcm", labels, like)
    np.testing.assert_array_equal(read(tmp_path / "a.dcm", like)[1], labels)


def test_an_empty_label_map_keeps_its_segments(tmp_path, write_series, stored):
    like = open_volume(write_series(stored))
    write_labels(tmp_path / "a.dcm", np.zeros(like.size, int), like, names={1: "liver"})
    made, found = read(tmp_path / "a.dcm", like)
    assert not found.any()
    assert made.number_of_segments == 1
    with pytest.raises(ValueError, match="b.dcm: no label and no name of one: a DICOM-SEG needs a segment"):
        write_labels(tmp_path / "b.dcm", np.zeros(like.size, int), like)


def test_what_programs_that_hide_names_remove_is_made_up(tmp_path, write_series, stored, caplog):
    gone = ("StudyInstanceUID", "SeriesInstanceUID", "PatientID", "PatientName", "StudyDate", "AccessionNumber", "SOPClassUID")
    like = open_volume(write_series(stored, **dict.fromkeys(gone)))
    labels = np.random.default_rng(0).integers(0, 3, like.size)
    write_labels(tmp_path / "a.dcm", labels, like)
    np.testing.assert_array_equal(read(tmp_path / "a.dcm", like)[1], labels)
    assert "a.dcm: its images have no SeriesInstanceUID, StudyInstanceUID; new ones are made" in caplog.text


def test_labels_that_it_cannot_hold_are_refused(tmp_path, write_series, stored):
    like = open_volume(write_series(stored))
    for value in (-1, 70000):
        with pytest.raises(ValueError, match="a.dcm: labels from .* expected 0 to 65535"):
            write_labels(tmp_path / "a.dcm", np.arange(np.prod(like.size)).reshape(like.size) * 0 + value, like)
    assert not (tmp_path / "a.dcm").exists()


def test_a_real_series(tmp_path, data_dir):
    like = open_volume(data_dir / "medical" / "totalsegmentator_dicom_ct" / "series")
    labels = np.zeros(like.size, np.uint8)
    labels[100:110, 150:160, 3:9] = 1
    write_labels(tmp_path / "a.dcm", labels, like)
    np.testing.assert_array_equal(read(tmp_path / "a.dcm", like)[1], labels)
