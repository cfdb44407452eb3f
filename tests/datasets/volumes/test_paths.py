"""Which volumes are meant."""

import numpy as np
import pytest

from geovit.datasets.volumes import find_volumes


@pytest.fixture
def folder(tmp_path):
    for name in ("b.nii.gz", "a.nii", "c.nrrd", "d.nhdr", "d.raw", "e.hdr", "e.img", "f.hdr", ".hidden.nii", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_files_folders_and_patterns(folder):
    names = ["a.nii", "b.nii.gz", "c.nrrd", "d.nhdr", "e.hdr"]
    assert find_volumes([folder]) == [folder / name for name in names]
    assert find_volumes([folder / "notes.txt"]) == [folder / "notes.txt"]
    assert find_volumes([str(folder / "*.n*"), folder / "a.nii"]) == [folder / name for name in names[:4]]


def test_a_dicom_folder_is_one_volume(write_series, stored, tmp_path):
    folder = write_series(stored)
    assert find_volumes([folder]) == [folder]
    assert find_volumes([f"{folder}:1.2.3.2"]) == [tmp_path / "series:1.2.3.2"]
    assert find_volumes([str(tmp_path / "*")]) == [folder]


def test_files_of_one_series_are_one_volume(write_series, stored):
    folder = write_series(stored)
    write_series(stored, prefix="other", SeriesInstanceUID="1.2.9")
    files = sorted(folder.iterdir())
    assert find_volumes(files) == [folder / "IM003", folder / "other003"]


def test_what_holds_none_is_told(tmp_path, write_series, stored):
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"empty: no volume in this folder \(looked for .nii.*, not in its 1 folders\)"):
        find_volumes([tmp_path / "empty"])
    with pytest.raises(FileNotFoundError, match="none: no such file or folder"):
        find_volumes([tmp_path / "none"])
    with pytest.raises(FileNotFoundError, match="no volume matches this pattern"):
        find_volumes([str(tmp_path / "*.nii")])
    folder = write_series(stored)
    np.zeros(1).tofile(folder / "a.nii")
    with pytest.raises(ValueError, match="series: holds both DICOM and 1 NIfTI or NRRD files, expected one kind; name the files"):
        find_volumes([folder])
