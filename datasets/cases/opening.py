"""Finding the cases of a folder or of a ``dataset.json``."""

from pathlib import Path

from .case import CaseSet
from .folders import cases_of_folder
from .listing import cases_of_json


def open_cases(path: str | Path) -> CaseSet:
    """List the cases of a folder or a file, and what names their channels and classes.

    These are read: a ``dataset.json`` of the Medical Segmentation Decathlon, of nnU-Net or of MONAI, or the folder that has one;
    a folder with ``images`` and ``labels`` (or ``imagesTr``, ``labelsTr`` and ``imagesTs``), whose files have equal names, but
    for the channel numbers ``_0000``, ``_0001``, ... of images; a folder of folders, one for each case, as of BraTS:
    ``NAME/NAME-t1n.nii.gz``, ..., ``NAME/NAME-seg.nii.gz``. Classes are named by the ``dataset.json``, or by a ``labels.csv``
    with lines of value and name.

    Raises:
        FileNotFoundError: if there is no such thing, or files that are listed are missing.
        ValueError: if images and labels do not go together, or a file is not understood.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix != ".json":
            raise ValueError(f"{path} is no list of cases: expected a folder or a dataset.json")
        return cases_of_json(path)
    if not path.is_dir():
        raise FileNotFoundError(f"no folder or file {path}")
    listing = path / "dataset.json"
    return cases_of_json(listing) if listing.is_file() else cases_of_folder(path)
