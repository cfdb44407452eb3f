"""Small DICOM, NIfTI and NRRD files for the tests of ``datasets.volumes``."""

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid  # noqa: E402

ACROSS, DOWN = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
ORIGIN = np.array([-30.0, -40.0, 100.0])


def image(rows, columns, *, storage=CTImageStorage, syntax=ExplicitVRLittleEndian, **changes):
    """A CT image without pixels and place; None as a value removes the element."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.SOPClassUID = storage
    made.SOPInstanceUID = generate_uid()
    made.StudyInstanceUID = "1.2.3.1"
    made.SeriesInstanceUID = "1.2.3.2"
    made.FrameOfReferenceUID = "1.2.3.3"
    made.Modality = "CT"
    made.PatientName, made.PatientID, made.PatientBirthDate, made.PatientSex = "Nobody", "0", "", ""
    made.StudyID, made.AccessionNumber, made.StudyDate, made.StudyTime = "", "", "", ""
    made.ReferringPhysicianName = ""
    made.SeriesDescription = "Thorax"
    made.Rows, made.Columns = rows, columns
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.PixelSpacing = [0.5, 0.75]
    made.ImageOrientationPatient = [*ACROSS, *DOWN]
    made.SliceThickness = 3
    made.RescaleSlope, made.RescaleIntercept = 1, -1024
    made.file_meta.TransferSyntaxUID = syntax
    change(made, changes)
    made.file_meta.MediaStorageSOPClassUID = made.get("SOPClassUID") or CTImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.get("SOPInstanceUID") or "1.2.3.4"
    return made


def change(dataset, changes):
    for name, value in changes.items():
        if value is None:
            if name in dataset:
                delattr(dataset, name)
        else:
            setattr(dataset, name, value)


def save(dataset, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def stored():
    """(slices, rows, columns) of 12-bit values, all planes different."""
    return np.random.default_rng(0).integers(0, 4096, (5, 7, 9)).astype(np.uint16)


@pytest.fixture
def write_series(tmp_path):
    """Write a CT series into a folder, in an order of names that is not that of the slices.

    ``positions`` are millimetres along the normal; ``each`` changes elements of one slice, by index; other keywords of all.
    """

    def write(values, name="series", *, positions=None, each=None, normal=(0.0, 0.0, 1.0), prefix="IM", **changes):
        positions = 2.0 * np.arange(len(values)) if positions is None else positions
        for k, (plane, place) in enumerate(zip(values, positions, strict=True)):
            one = image(*plane.shape, **changes)
            one.ImagePositionPatient = [float(value) for value in ORIGIN + place * np.asarray(normal)]
            one.InstanceNumber = k + 1
            change(one, (each or {}).get(k, {}))
            one.PixelData = plane.tobytes()
            save(one, tmp_path / name / f"{prefix}{(7 * k + 3) % 101:03d}")
        return tmp_path / name

    return write


@pytest.fixture
def write_enhanced(tmp_path):
    """Write an enhanced multi-frame CT, whose frames lie in ``order``."""

    def write(values, name="enhanced.dcm", *, order=None, slopes=None, **changes):
        elsewhere = ("RescaleSlope", "RescaleIntercept", "PixelSpacing", "ImageOrientationPatient", "SliceThickness")
        one = image(*values.shape[1:], storage=EnhancedCTImageStorage, **dict.fromkeys(elsewhere), **changes)
        shared, measures, orientation = Dataset(), Dataset(), Dataset()
        measures.PixelSpacing, measures.SliceThickness = [0.5, 0.75], 3
        orientation.ImageOrientationPatient = [*ACROSS, *DOWN]
        shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([orientation])
        one.SharedFunctionalGroupsSequence = Sequence([shared])
        order = range(len(values)) if order is None else order
        frames = []
        for number, k in enumerate(order):
            frame, position, transform = Dataset(), Dataset(), Dataset()
            position.ImagePositionPatient = [*ORIGIN[:2], ORIGIN[2] + 2.0 * k]
            transform.RescaleSlope, transform.RescaleIntercept = 1 if slopes is None else slopes[number], -1024
            transform.RescaleType = "HU"
            frame.PlanePositionSequence, frame.PixelValueTransformationSequence = Sequence([position]), Sequence([transform])
            frames.append(frame)
        one.PerFrameFunctionalGroupsSequence = Sequence(frames)
        one.NumberOfFrames = len(values)
        one.PixelData = np.ascontiguousarray(values[list(order)]).tobytes()
        return save(one, tmp_path / name)

    return write


@pytest.fixture
def place():
    """The affine, RAS+ mm, of what ``write_series`` and ``write_enhanced`` write."""
    return np.array([[-0.75, 0, 0, 30.0], [0, -0.5, 0, 40.0], [0, 0, 2, 100.0], [0, 0, 0, 1]])
