"""`geovit export`: a model of any application as a file for other programs, compared with PyTorch before it is kept."""

import logging
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from rich.console import Group

from .. import __version__
from ..core.engines import open_exported
from ..core.engines.engine import FORMAT
from ..core.export import FILES, Checked, Exportable, bytes_per_position, check, check_installed, trace, write_program
from ..core.weights.store import load_state
from ..datasets import check_writable
from ..datasets.identity import sha256

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4  # of the largest value: float32 keeps 6e-8 of each number, and deep networks lose some digits of it
_FOLDERS = {"last.safetensors": "foundation", "best.safetensors": "medical"}  # of trainings: the file that counts, and the app
_FORMATS = {  # what our own files call themselves, from the start
    "geovit hyperspectral": "hyperspectral",
    "geovit medical": "medical",
    "geovit foundation": "foundation",
    "swin_unetr": "medical",
}


@dataclass(frozen=True, eq=False)
class ExportReport:
    """A file that was written."""

    files: tuple[Path, ...]
    metadata: dict[str, Any]
    checked: Checked
    seconds: float

    def __rich__(self) -> Group:
        sizes = ", ".join(" x ".join(map(str, size)) for size in self.checked.sizes)
        mebibytes = sum(file.stat().st_size for file in self.files) / 2**20
        return Group(
            f"{self.metadata['model']} -> {', '.join(map(str, self.files))} ({mebibytes:.1f} MiB)",
            f"input: {self.metadata['input']['means']}; {_sizes(self.metadata['input'])}",
            f"largest difference from PyTorch on batch x size {sizes}: {self.checked.error:.1e}"
            f" ({self.checked.share:.1e} of the largest value)",
            f"{self.seconds:.1f} seconds",
        )


def _sizes(told: dict[str, Any]) -> str:
    rules = {
        f"{least}" if m == 0 else f"from {least} on" + (f", multiples of {m}" if m > 1 else "")
        for m, least in zip(told["multiple"], told["smallest"], strict=True)
    }
    number = ", one image at a time" if told["single"] else ""
    return f"{told['channels']} channels, sizes {' and '.join(sorted(rules))}{number}"


def export(
    model: str,
    *,
    format: Literal["pt2", "onnx", "openvino"] = "onnx",  # noqa: A002 - the word that users know
    out: Path | None = None,
    encoder: Path | None = None,
    plan: str | None = None,
    merging_order: Literal["legacy", "fixed"] | None = None,
    sensor: str | None = None,
    gsd: float | None = None,
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
) -> ExportReport:
    """Write a model as a file that other programs run, for images of any size.

    The program is compared with PyTorch on three sizes that it was not made with, and is kept if it is right. The file tells what
    its input and output mean: in ONNX as metadata "geovit", in OpenVINO as rt_info, in pt2 as the extra file "geovit", JSON each.
    ONNX and OpenVINO files are models of `geovit classify --model`, `segment --model` and `restore --weights`, where --engine
    chooses the runtime; pt2 is for other programs.

    Args:
        model: file or folder of a model of any application, a published checkpoint, or the name of a model of the package.
        format: pt2 (torch.export), onnx or openvino (.xml, with a .bin beside it).
        out: file to write. Default: the model's name with the ending of the format, in the current folder.
        encoder: that a file of adapters of `geovit classify` belongs to.
        plan: of a segmentation checkpoint, as in `geovit segment`.
        merging_order: of such a checkpoint, as in `geovit segment`.
        sensor: whose bands an encoder is exported for, such as sentinel-2-l2a. Default: the only one that it was trained on.
        gsd: metres on the ground from a pixel to the next, of an encoder. Default: the sensor's.
        tolerance: the largest difference from PyTorch that is allowed, as a share of the largest value of the output.
        overwrite: replace files that exist.

    Returns:
        What was written, and how far it is from PyTorch.

    Raises:
        ValueError: the model cannot be exported, or is not right when it is; one line that says why.
        OSError: a file is missing, or cannot be written.
        ImportError: what writes or runs the format is not installed.
    """
    started = time.perf_counter()
    check_installed(format)
    path = _file_of(model)
    target = Path(f"{(path or Path(model)).stem}{FILES[format][0]}") if out is None else out
    if target.suffix.lower() != FILES[format][0]:
        raise ValueError(f"{target}: files of format {format} end in {FILES[format][0]}")
    files = tuple(target.with_suffix(ending) for ending in FILES[format])
    check_writable(files, overwrite)
    exportable = _exportable(model, path, encoder=encoder, plan=plan, merging_order=merging_order, sensor=sensor, gsd=gsd)
    logger.info("writing down %s", exportable.model)
    program = trace(exportable)
    metadata: dict[str, Any] = {
        "format": FORMAT,
        "geovit": __version__,
        **exportable.described(),
        "source": {"name": (path or Path(model)).name, "sha256": None if path is None else sha256(path)},
        "bytes_per_position": bytes_per_position(exportable, program),
        "tolerance": tolerance,
    }
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}.", dir=target.parent) as folder:
        made = Path(folder) / target.name
        write_program(made, program, format, metadata)
        if format == "pt2":
            run = program.module(check_guards=False)
            import torch

            checked = check(exportable, lambda values: run(torch.from_numpy(values)).numpy(), tolerance=tolerance)
        else:
            checked = check(exportable, open_exported(made).engine.run, tolerance=tolerance)
        for ending in reversed(FILES[format]):  # the file that names the other one last
            made.with_suffix(ending).replace(target.with_suffix(ending))
    return ExportReport(files, metadata, checked, time.perf_counter() - started)


def _file_of(model: str) -> Path | None:
    """Return the file of a model, None for one of the package.

    Raises:
        FileNotFoundError: if there is neither.
    """
    path = Path(model)
    if path.is_dir():
        found = next((path / name for name in _FOLDERS if (path / name).is_file()), None)
        if found is None:
            raise FileNotFoundError(f"{path} has none of {', '.join(_FOLDERS)}: expected the folder of a training, or a file")
        return found
    if path.is_file():
        return path
    packaged = _app("restoration.models").packaged_models()
    if model in packaged:
        return None
    raise FileNotFoundError(f"no such file: {path}; models of the package are {', '.join(packaged)}")


def _app(module: str) -> Any:
    return import_module(f".{module}", __package__)


def _exportable(
    model: str, path: Path | None, *, encoder: Path | None, plan: str | None, merging_order: str | None,
    sensor: str | None, gsd: float | None,
) -> Exportable:  # fmt: skip
    app = "restoration" if path is None else _app_of(path, segments=plan is not None or merging_order is not None)
    beside = {"encoder": encoder, "plan": plan, "merging_order": merging_order, "sensor": sensor, "gsd": gsd}
    allowed = {"hyperspectral": ("encoder",), "medical": ("plan", "merging_order"), "foundation": ("sensor", "gsd")}.get(app, ())
    for name, value in beside.items():
        if value is not None and name not in allowed:
            raise ValueError(f"{name} was given, but {model} is a model of {app}, which has none")
    made: Exportable
    if app == "hyperspectral":
        source = None if encoder is None else _app("hyperspectral.adaptation").read_encoder(encoder)
        made = _app("hyperspectral.exporting").exportable(path, source)
    elif app == "medical":
        made = _app("medical.exporting").exportable(path, plan, merging_order)
    elif app == "foundation":
        made = _app("foundation.exporting").exportable(path, sensor=sensor, gsd=gsd)
    else:
        made = _app("restoration.exporting").exportable(weights=path, model=model if path is None else None)
    return made


def _app_of(path: Path, *, segments: bool) -> str:
    """Tell the application of a model by what its file says, else by its tensors."""
    if path.suffix == ".safetensors":
        told = load_state(path)[1].get("format", "")
        known = next((app for start, app in _FORMATS.items() if told.startswith(start)), None)
        if known is not None:
            return known
    if segments:
        return "medical"
    from ..core.weights.checkpoint import read_checkpoint

    with suppress(ValueError):
        state, _ = read_checkpoint(path)
        if any(key.endswith("swinViT.patch_embed.proj.weight") for key in state):
            return "medical"
        systems = _app("foundation.weights").SYSTEMS
        restorers = _app("restoration.weights").ARCHITECTURES
        for app, kinds in (("restoration", restorers), ("foundation", systems)):
            for kind in kinds:
                with suppress(KeyError, IndexError, TypeError, ZeroDivisionError, ValueError):
                    if kind.infer(state) is not None:
                        return app
    return "restoration"  # which says best what is wrong with a file
