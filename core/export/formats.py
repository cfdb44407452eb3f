"""Programs as files of three formats."""

import json
import logging
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import torch
from torch.export import ExportedProgram

from ..engines.engine import KEY

Format = Literal["pt2", "onnx", "openvino"]

FILES: dict[str, tuple[str, ...]] = {
    "pt2": (".pt2",),
    "onnx": (".onnx",),
    "openvino": (".xml", ".bin"),
}  # endings, the model first
_NEEDED: dict[str, tuple[str, ...]] = {
    "pt2": (),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
}  # packages that write a format, and that run what was written
_OPSET = 18  # of ONNX: the first with all operations that are needed
_LARGEST = 2 * 10**9  # bytes of an ONNX file, which is one message of a format that ends there


def check_installed(format_: Format) -> None:
    """Raise an ImportError, with what to install, unless all is there that writes and checks a format: tracing takes long."""
    missing = next((name for name in _NEEDED[format_] if not _is_there(name)), None)
    if missing is not None:
        extras = "onnx" if format_ == "onnx" else "onnx,openvino"
        raise ImportError(f"format {format_} needs {missing}: pip install 'geovit[{extras}]'")


def write_program(path: Path, program: ExportedProgram, format_: Format, metadata: Mapping[str, Any]) -> None:
    """Write a program with what it tells of itself: in pt2 the extra file "geovit", in ONNX metadata, in OpenVINO rt_info.

    Args:
        path: of the file, or of the first of two.
        program: as ``trace`` makes it.
        format_: pt2, onnx, or openvino, which writes a .bin beside its .xml.
        metadata: JSON.

    Raises:
        ValueError: if the format cannot hold the program.
    """
    text = json.dumps(dict(metadata))
    if format_ == "pt2":
        # Each in memory of its own and in its plain order: torch writes views of a common memory as they come.
        for name, tensor in program.state_dict.items():
            alone = tensor.detach().clone(memory_format=torch.contiguous_format)
            whole = isinstance(tensor, torch.nn.Parameter)
            program.state_dict[name] = torch.nn.Parameter(alone, requires_grad=False) if whole else alone
        torch.export.save(program, path, extra_files={KEY: text})
        return
    onnx_path = path if format_ == "onnx" else path.with_suffix(".onnx")
    _write_onnx(onnx_path, program, text)
    if format_ == "openvino":
        import openvino

        try:
            model = openvino.convert_model(onnx_path)
            model.set_rt_info(text, [KEY])
            openvino.save_model(model, path, compress_to_fp16=False)
        except RuntimeError as error:
            raise ValueError(f"OpenVINO cannot hold this model: {' '.join(str(error).split())[:240]}") from error
        finally:
            onnx_path.unlink(missing_ok=True)


def _is_there(name: str) -> bool:
    try:
        import_module(name)
    except ModuleNotFoundError:
        return False
    return True


def _write_onnx(path: Path, program: ExportedProgram, text: str) -> None:
    weights = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    if weights > _LARGEST:
        raise ValueError(f"{weights / 1e9:.1f} GB of weights: ONNX holds {_LARGEST / 1e9:.0f} GB in a file, pt2 has no limit")
    talkative = logging.getLogger("torch.onnx")
    level = talkative.level
    talkative.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")  # of the converter to its own developers
            made = torch.onnx.export(
                program, dynamo=True, opset_version=_OPSET, external_data=False, verbose=False, input_names=["input"],
                output_names=["output"],
            )  # fmt: skip
    except Exception as error:
        told = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"ONNX cannot hold this model: {told[:240]}") from error
    finally:
        talkative.setLevel(level)
    assert made is not None
    made.model.metadata_props[KEY] = text
    made.save(path)
