"""An exported file, the runtime that runs it, and what the file tells of itself."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

EngineName = Literal["onnx", "openvino"]

ENDINGS: dict[str, EngineName] = {
    ".onnx": "onnx",
    ".xml": "openvino",
}  # of exported files, and the runtime that is each one's own
KEY = "geovit"  # under which a file keeps what it tells of itself, as JSON
FORMAT = "geovit export 1"


class Engine(Protocol):
    """A loaded program: float32 in, float32 out, on the CPU."""

    metadata: Mapping[str, Any]

    def run(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the one output of the one input."""
        ...


@dataclass(frozen=True, eq=False)
class Exported:
    """An exported file that is ready to run.

    Args:
        path: of the file.
        name: of the runtime.
        engine: that runs it.
        metadata: see ``core.export``.
    """

    path: Path
    name: EngineName
    engine: Engine
    metadata: Mapping[str, Any]


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether a file is one that a runtime reads, by its ending."""
    return Path(path).suffix.lower() in (*ENDINGS, ".pt2")


def open_exported(
    path: str | os.PathLike[str], *, engine: EngineName | None = None, app: str | None = None, threads: int | None = None
) -> Exported:
    """Load a file of `geovit export` into a runtime; nothing in it is unpickled.

    Args:
        path: .onnx, or .xml of OpenVINO with its .bin beside it.
        engine: that runs it: "onnx" (ONNX Runtime) or "openvino", which reads both. Default: the one that the file is made for.
        app: that the model must be of, such as "restoration".
        threads: that it may use. Default: as many as PyTorch.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no file of `geovit export`, of another app, or that engine does not read it.
        ImportError: if the runtime is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    ending = path.suffix.lower()
    if ending == ".pt2":
        raise ValueError(
            f"{path}: .pt2 is for other programs, as PyTorch may unpickle when it reads one: export to onnx or openvino"
        )
    if ending not in ENDINGS:
        asked = "" if engine is None else f"engine {engine} runs "
        raise ValueError(f"{path} is not exported: {asked}files that `geovit export {path} --format {engine or 'onnx'}` makes")
    own = ENDINGS[ending]
    if engine == "onnx" and own == "openvino":
        raise ValueError(f"{path} is a file of OpenVINO, which engine onnx does not read: export to onnx")
    name = engine or own
    count = torch.get_num_threads() if threads is None else threads
    loaded: Engine
    if name == "onnx":
        from .onnx import OnnxEngine

        loaded = OnnxEngine(path, count)
    else:
        from .openvino import OpenVinoEngine

        loaded = OpenVinoEngine(path, count)
    found = loaded.metadata.get("app")
    if app is not None and found != app:
        raise ValueError(f"{path} holds a model of {found}, expected one of {app}")
    return Exported(path, name, loaded, loaded.metadata)


def read_metadata(text: str | None, path: Path) -> dict[str, Any]:
    """Read what a file tells of itself.

    Raises:
        ValueError: if it is no file of `geovit export`.
    """
    try:
        told = json.loads(text or "")
    except json.JSONDecodeError:
        told = None
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by geovit export, so it does not tell what its numbers mean")
    return told
