"""`geovit bundle`: a MONAI bundle of Swin UNETR in a folder of one's own."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

_NAME = "swin_unetr"


@dataclass(frozen=True)
class Bundle:
    """What was written."""

    folder: Path

    def __rich__(self) -> str:
        """Say it, and how to go on."""
        train = f"python -m monai.bundle run --config_file {self.folder}/configs/train.json --bundle_root {self.folder}"
        return f"{self.folder}: see docs/README.md there\n{train} --dataset_dir DATA"


def write_bundle(out: Path) -> Bundle:
    """Write a MONAI bundle of Swin UNETR: configurations for training, evaluation and inference, to be edited and run by MONAI.

    Args:
        out: folder to make.

    Raises:
        FileExistsError: if there is something of that name.
        OSError: if it cannot be written.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists: expected the name of a folder to make")
    out.parent.mkdir(parents=True, exist_ok=True)
    with as_file(files("geovit.configs") / "medical" / _NAME) as source, tempfile.TemporaryDirectory(dir=out.parent) as made:
        whole = Path(made) / out.name
        shutil.copytree(source, whole, copy_function=shutil.copyfile)
        (whole / "models").mkdir()
        os.replace(whole, out)  # whole or not at all
    return Bundle(out)
