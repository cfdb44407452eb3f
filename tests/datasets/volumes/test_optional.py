"""The package works without the libraries of the medical extra, and tells what it lacks."""

import subprocess
import sys

CODE = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"nibabel", "nrrd", "pydicom", "highdicom", "gdcm", "monai"}:
            raise ImportError(name)
sys.meta_path.insert(0, Missing())
import geovit.datasets
from geovit.datasets.volumes import open_volume
for path in sys.argv[1:]:
    try:
        open_volume(path)
    except ImportError as error:
        print(error)
"""


def test_without_the_extra(tmp_path):
    (tmp_path / "a.nii").write_bytes(bytes([92, 1, 0, 0]) + bytes(340) + b"n+1\0" + bytes(10))
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\n\n")
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM")
    paths = [str(tmp_path / name) for name in ("a.nii", "a.nrrd", "a.dcm")]
    run = subprocess.run([sys.executable, "-c", CODE, *paths], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    told = run.stdout.splitlines()
    assert [line.split(" needs ")[0] for line in told] == ["NIfTI", "NRRD", "DICOM"]
    assert all(line.endswith("pip install 'geovit[medical]'") for line in told)
