"""What is written beside every result: a run card that can repeat the run, and a STAC item that tells what the result is.

Both are JSON. The card is for machines that run it again, the item for catalogues.
"""

import dataclasses
import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import __version__
from ..datasets.identity import files_of, identify
from .run_facts import RunFacts, Task
from .stac import write_stac_item

__all__ = ["CARD", "RunFacts", "Task", "plain", "versions", "write_run_card", "write_stac_item"]

CARD = "geovit run card 1"

# Those that make results.
_PACKAGES = ("torch", "numpy", "rasterio", "safetensors", "scikit-learn", "onnxruntime", "openvino")
_MODULES = {"scikit-learn": "sklearn"}


def write_run_card(path: Path, facts: RunFacts) -> None:
    """Write NAME_run.json: versions, platform, hashes of inputs, model and results, parameters, timings.

    Raises:
        OSError: a file cannot be read any more, or the card cannot be written.
    """
    used = facts.model is not None and facts.model not in facts.results.values()
    card = {
        "format": CARD,
        "command": facts.command,
        "folder": _seen_from(path.parent if facts.folder is None else facts.folder),
        "parameters": plain(facts.parameters),
        "inputs": {given: [identify(file).as_dict() for file in files_of(given)] for given in map(str, facts.inputs)},
        "model": identify(facts.model).as_dict() if used and facts.model is not None else None,
        "results": {
            kind: {**identify(file).as_dict(), "path": file.name} for kind, file in facts.results.items() if file.is_file()
        },
        "versions": versions(),
        "platform": {
            "system": f"{platform.system()} {platform.release()}",
            "machine": platform.machine(),
            "processors": os.cpu_count(),
        },
        "seconds": {stage: round(seconds, 2) for stage, seconds in facts.seconds.items()},
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
    path.write_text(json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _seen_from(place: Path) -> str:
    """The working folder, which relative paths of parameters begin at, as it is named from where the card is to lie."""
    try:
        return os.path.relpath(Path.cwd(), place.resolve())
    except ValueError:  # another drive
        return str(Path.cwd())


def plain(value: Any) -> Any:
    """Return a parameter as JSON has it: paths as text, dataclasses as objects, tuples as lists.

    Raises:
        ValueError: a value that JSON has no form for, such as a model in memory.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    raise ValueError(f"a parameter is a {type(value).__name__}, which a run card cannot hold")


def versions() -> dict[str, str]:
    """Return the versions of what makes results, as installed here."""
    import rasterio

    installed = (package for package in _PACKAGES if find_spec(_MODULES.get(package, package)) is not None)
    own = {"geovit": __version__, "python": platform.python_version(), "gdal": rasterio.__gdal_version__}
    return own | {package: metadata.version(package) for package in installed}
