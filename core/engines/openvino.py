"""OpenVINO."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engine import KEY, read_metadata


class OpenVinoEngine:
    """A program in OpenVINO, in float32; see ``Engine``.

    Raises:
        ValueError: if the file is damaged, or not of `geovit export`.
        ImportError: if OpenVINO is not installed.
    """

    def __init__(self, path: Path, threads: int) -> None:
        try:
            import openvino
        except ModuleNotFoundError as error:
            raise ImportError("engine openvino needs openvino: pip install 'geovit[openvino]'") from error
        core = openvino.Core()
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        try:
            model = core.read_model(path)
            place = [KEY] if path.suffix.lower() == ".xml" else ["framework", KEY]  # of what ONNX files tell
            told = model.get_rt_info(place).astype(str) if model.has_rt_info(place) else None
            self.metadata: Mapping[str, Any] = read_metadata(told, path)
            self._compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise ValueError(f"{path}: OpenVINO cannot load it: {' '.join(str(error).split())[:200]}") from error

    def run(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        made = self._compiled(np.ascontiguousarray(values))
        return np.array(made[0], dtype=np.float32)  # a copy: the memory is used again for the next input
