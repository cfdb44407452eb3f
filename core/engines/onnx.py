"""ONNX Runtime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engine import KEY, read_metadata


class OnnxEngine:
    """A program in ONNX Runtime; see ``Engine``.

    Raises:
        ValueError: if the file is damaged, or not of `geovit export`.
        ImportError: if ONNX Runtime is not installed.
    """

    def __init__(self, path: Path, threads: int) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise ImportError("engine onnx needs onnxruntime: pip install 'geovit[onnx]'") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors, which come as exceptions too
        # Threads that wait by spinning slow every other program down.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ValueError(f"{path}: ONNX Runtime cannot load it: {' '.join(str(error).split())[:200]}") from error
        self.metadata: Mapping[str, Any] = read_metadata(self._session.get_modelmeta().custom_metadata_map.get(KEY), path)
        self._input = self._session.get_inputs()[0].name

    def run(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        (made,) = self._session.run(None, {self._input: np.ascontiguousarray(values)})
        return np.asarray(made, dtype=np.float32)
