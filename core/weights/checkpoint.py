"""Reading a checkpoint file of anybody's: the tensors in it and nothing else."""

import codecs
import os
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .store import load_state

# Where training programs put the state dict, the averaged weights first.
_WRAPPERS = ("params_ema", "params", "state_dict", "model", "net", "network")
_PREFIX = "module."  # left behind by DataParallel
_METADATA = "metadata"  # text by name, as in safetensors
# How NumPy's numbers are pickled, such as a best score beside the weights: data, under the name of either series of NumPy.
_NUMBERS: list[Any] = [
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *{type(np.dtype(code)) for code in "?bhilqBHILQefd"},
    codecs.encode,  # of their bytes, by old protocols
]


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a state dict from a safetensors file or one of ``torch.save``, and text metadata: the latter's under "metadata".

    Taken out of what training programs wrap it in: "params_ema" before "params" (BasicSR), "state_dict", "model", "net",
    "network", and the prefix "module." of all names. Nothing in the file is executed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds something else, code among it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    if path.suffix == ".safetensors":
        return load_state(path)
    try:
        with torch.serialization.safe_globals(_NUMBERS):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(f"{path} holds more than tensors, or is no checkpoint: it was not loaded") from error
    except (RuntimeError, EOFError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a whole checkpoint: expected a file of torch.save or safetensors") from error
    told = found.get(_METADATA) if isinstance(found, Mapping) else None
    metadata = {k: v for k, v in told.items() if isinstance(k, str) and isinstance(v, str)} if isinstance(told, Mapping) else {}
    return unwrap(found, str(path)), metadata


def unwrap(found: Any, name: str) -> dict[str, Tensor]:
    """Find the state dict in what a training program saved; ``name`` tells the source in errors.

    Raises:
        ValueError: if there is none.
    """
    while isinstance(found, Mapping) and (key := next((w for w in _WRAPPERS if isinstance(found.get(w), Mapping)), None)):
        found = found[key]
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        told = type(found).__name__
        if isinstance(found, Mapping):
            told = f"a mapping with {', '.join(map(str, list(found)[:3])) or 'nothing in it'}"
        raise ValueError(
            f"{name} holds no state dict, but {told}: expected tensors by name, perhaps under {', '.join(_WRAPPERS)}"
        )
    prefixed = all(str(key).startswith(_PREFIX) for key in found)
    return {str(key)[len(_PREFIX) if prefixed else 0 :]: value for key, value in found.items()}
