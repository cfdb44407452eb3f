"""Which volumes a user means."""

import glob
from collections.abc import Sequence
from pathlib import Path

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr")


def find_volumes(inputs: Sequence[str | Path]) -> list[Path]:
    found: dict[Path, Path] = {}
    for given in inputs:
        path = Path(given)
        if path.is_file():
            matches = [path]
        elif path.is_dir():
            matches = sorted(file for file in path.iterdir() if _is_volume(file))
            if not matches:
                raise FileNotFoundError(f"{path}: no volume in this folder (looked for {', '.join(SUFFIXES)} and DICOM)")
        elif glob.has_magic(str(given)):
            matches = sorted(file for file in map(Path, glob.glob(str(given), recursive=True)) if _is_volume(file))
            if not matches:
                raise FileNotFoundError(f"{given}: no volume matches this pattern (looked for {', '.join(SUFFIXES)})")
        else:
            raise FileNotFoundError(f"{given}: no such file or folder")
        for match in matches:
            found.setdefault(match.resolve(), match)
    return list(found.values())


def _is_volume(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".") and path.is_file()
