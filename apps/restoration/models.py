"""Which network restores: one of a checkpoint file, or one that comes with the package."""

import logging
import os
from dataclasses import replace
from pathlib import Path

from safetensors import safe_open

from ...core.engines import EngineName, is_exported
from ...core.weights.checkpoint import read_checkpoint
from .foreign import foreign_restorer
from .weights import ARCHITECTURES, Restorer, UnknownArchitectureError, load_restorer, restorer_from

logger = logging.getLogger(__name__)

PRETRAINED = Path(__file__).parent / "pretrained"


def packaged_models(folder: Path = PRETRAINED) -> dict[str, Path]:
    """The models that come with the package: file by name, in alphabetical order."""
    return {file.stem: file for file in sorted(folder.glob("*.safetensors"))}


def open_restorer(
    weights: str | os.PathLike[str] | None = None,
    model: str | None = None,
    scale: int | None = None,
    engine: EngineName | None = None,
) -> Restorer:
    """Load a network with its weights.

    Args:
        weights: a published checkpoint of one of our architectures, or of any that spandrel knows if that is installed, or a file
            of `geovit export`.
        model: name of a packaged model. With neither, the packaged model of that scale; of the smallest if none is asked for.
        scale: that it must have.
        engine: that runs a file of `geovit export`: "onnx" or "openvino". Default: the one that the file is made for.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no checkpoint or does not fit, there is no such model, or it has another scale.
        ImportError: if the architecture is none of ours and spandrel is missing.
    """
    if weights is not None and model is not None:
        raise ValueError("both weights and a model were given: weights are a file of yours, a model comes with the package")
    if scale is not None and scale < 1:
        raise ValueError(f"scale is {scale}, expected 1 or more")
    if weights is not None:
        restorer = _from_file(weights, engine)
        if scale not in (None, restorer.network.scale):
            raise ValueError(f"{weights} has scale {restorer.network.scale}, not {scale}")
    else:
        if engine is not None:
            raise ValueError(f"engine {engine} runs files of `geovit export`: export the model, and give the file as weights")
        restorer = _packaged(model, scale)
    logger.info("%s, scale %d: %s", restorer.architecture.official, restorer.network.scale, restorer.coverage)
    if licence := restorer.metadata.get("licence") or restorer.metadata.get("license"):
        logger.info("licence of the weights: %s", licence)
    return restorer


def _from_file(path: str | os.PathLike[str], engine: EngineName | None) -> Restorer:
    if engine is not None or is_exported(path):
        from .exporting import exported_restorer

        return exported_restorer(Path(path), engine)
    state, metadata = read_checkpoint(path)
    try:
        restorer = restorer_from(state, metadata, name=str(path))
    except UnknownArchitectureError:
        known = ", ".join(architecture.official for architecture in ARCHITECTURES)
        restorer = foreign_restorer(state, metadata, name=str(path), known=known)
    return replace(restorer, file=Path(path))


def _packaged(model: str | None, scale: int | None) -> Restorer:
    found = packaged_models(PRETRAINED)
    scales = {name: _scale_of(file) for name, file in found.items()}
    listed = ", ".join(f"{name} (scale {scales[name]})" for name in found) or "none in this installation"
    if model is not None:
        if model not in found:
            raise ValueError(f"no model {model!r}: there are {listed}; for others, give a checkpoint as weights")
        if scale not in (None, scales[model]):
            raise ValueError(f"model {model} has scale {scales[model]}, not {scale}: there are {listed}")
        return load_restorer(found[model])
    fitting = [name for name in found if scale in (None, scales[name])]
    if not fitting:
        wanted = "" if scale is None else f" of scale {scale}"
        raise ValueError(f"no packaged model{wanted}: there are {listed}; for others, give a checkpoint as weights")
    return load_restorer(found[min(fitting, key=lambda name: scales[name])])


def _scale_of(file: Path) -> int:
    """What the file says, which is quick, else what its tensors tell."""
    with safe_open(file, framework="pt") as opened:
        told = (opened.metadata() or {}).get("scale", "")
    return int(told) if told.isdecimal() else load_restorer(file).network.scale
