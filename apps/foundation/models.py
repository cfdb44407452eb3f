"""Any encoder from its file: one of `geovit pretrain`, or a published one."""

import os
from pathlib import Path

from ...core.sensors.model import FoundationModel, load_model, model_file
from ...core.weights.store import load_state
from .weights import load_published


def open_model(path: str | os.PathLike[str] | None) -> FoundationModel:
    """Read an encoder with what its input must be, in evaluation mode.

    Among its ``facts`` is "size": pixels on a side of the images that it was trained on. A published one has no ``config``, and
    its other facts are the system and the licence of the weights.

    Args:
        path: a file of `geovit pretrain` or its folder, or a published checkpoint, which is told by its tensors; None or
            "default" for the encoder that comes with the package.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: it is neither, its weights do not fit, or it is not known how images become its input.
    """
    path = model_file(path)
    if _is_ours(path):
        return load_model(path)
    published = load_published(path)
    try:
        normalization = published.normalization()
    except ValueError as error:
        raise ValueError(f"{path} is {published.system.name}, but {error}") from error
    facts = {"system": published.system.name, "licence": published.system.licence, "size": published.size}
    return FoundationModel(
        encoder=published.encoder, config=None, normalization=normalization.eval(), facts=facts, make=published.untrained
    )


def _is_ours(path: Path) -> bool:
    return path.suffix == ".safetensors" and load_state(path)[1].get("format", "").startswith("geovit ")
