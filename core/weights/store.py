"""Weights and metadata as a safetensors file."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def save_module(path: str | os.PathLike[str], module: nn.Module | Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a module's state dict, or a mapping of tensors, and text metadata to a safetensors file.

    The file appears whole or not at all: it is written under a temporary name beside it and then renamed. The same weights and
    metadata give the same bytes.

    Raises:
        FileNotFoundError: if there is no such folder.
        OSError: if the file cannot be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {path.parent}")
    state = module.state_dict() if isinstance(module, nn.Module) else module
    # Clones: the format refuses tensors that share memory or are not contiguous.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # of an ordinary new file: the library makes one that nobody else may read
        save_file(tensors, temporary, metadata=dict(metadata))
        temporary.chmod(mode)
        _sort_metadata(temporary)
        temporary.replace(path)
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _sort_metadata(path: Path) -> None:
    """Put the metadata of a safetensors file in order: the library writes them in another one each time.

    The header is JSON, filled up with spaces, after its length as eight bytes (github.com/huggingface/safetensors, "Format").
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= length:  # so it is, unless the library came to write JSON in another way
            file.seek(8)
            file.write(text.ljust(length))


def load_state(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: tensors (on the CPU) and metadata. Nothing in the file is executed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a whole safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
