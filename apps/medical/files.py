"""`geovit segment`: images in, label maps out."""

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ... import __version__
from ...core.engines import EngineName
from ...core.memory import keep_no_freed_memory, peak_bytes
from ...core.precision import Precision
from ...datasets import atomic, check_writable, write_text_atomic
from ...datasets.cases import Case, read_case
from ...datasets.cases.grouping import group_cases
from ...datasets.volumes import Volume, check_format, find_volumes, write_labels, write_volume
from ..cards import RunFacts, write_run_card
from .models import model_file, open_segmenter
from .plan import Plan, painted_values
from .progress import Bar, progress_bar
from .quicklook import write_quicklook
from .report import Report, Row
from .segmentation import Segmentation, label_names
from .swin_encoder import MergingOrder

logger = logging.getLogger(__name__)

Format = Literal["auto", "nifti", "nrrd", "dicom-seg"]

_SUFFIXES = {"nifti": ".nii.gz", "nrrd": ".nrrd", "dicom-seg": ".dcm"}
_LABELS, _PROBABILITIES = "_seg", "_prob"


def segment_files(
    inputs: Sequence[str],
    *,
    model: Path,
    plan: str | None = None,
    merging_order: MergingOrder | None = None,
    engine: EngineName | None = None,
    out: Path | None = None,
    format: Format = "auto",  # noqa: A002 - the word that users know
    channels: str | None = None,
    probabilities: bool = False,
    quicklook: bool = True,
    report: Path | None = None,
    overlap: float = 0.5,
    mirror: bool = False,
    max_memory: float | None = None,
    precision: Precision = "auto",
    device: str = "auto",
    overwrite: bool = False,
    progress: bool = False,
) -> Report:
    """Segment medical images: CT and MR volumes in, label maps on the same grid out.

    NIfTI (.nii, .nii.gz), NRRD and the folder of a DICOM series. Written is NAME_seg.nii.gz for NAME.nii.gz, with the image's own
    shape, affine and orientation, beside the image or in another folder, each file whole or not at all. A model of several
    channels takes a 4-D file, or a file for each channel: NAME_0000, NAME_0001, ..., or NAME_ and the names of the channels, or
    a folder NAME with files of these names. Of several images, label maps that exist are skipped, so that the same command goes
    on where it was interrupted; those that cannot be segmented are told at the end, the others are done, and the exit code is 2.
    Beside each lies NAME_run.json, a run card of that image alone: --from-card makes its label map again.

    Args:
        inputs: files, folders of them, folders of DICOM series, and patterns such as 'scans/*.nii.gz'; any number of inputs.
        model: the folder or a file that geovit fit medical wrote, or a checkpoint of MONAI's Swin UNETR (.pt), with a plan; or a
            file of `geovit export`, .onnx or .xml.
        plan: of a checkpoint, that is, how images are prepared and what its outputs mean: btcv, brats21, or a YAML or JSON file.
        merging_order: of a checkpoint that does not tell it: legacy if it was trained with MONAI before 1.5, else fixed.
        engine: runtime of a model that `geovit export` wrote: onnx or openvino, on the CPU in fp32. Default: the one of its file.
        out: folder to write to, made if there is none. Default: beside each image.
        format: nifti; nrrd; dicom-seg, for DICOM series; or auto: nrrd for NRRD, else nifti.
        channels: how the names of files end, by channel, as flair,t1ce,t1,t2. Default: 0000,0001,... or the model's names.
        probabilities: also write NAME_prob, the probability of each class (background first) or region, as float32. Memory then
            grows with the number of classes times the volume.
        quicklook: also write NAME_seg.png, three planes with contours.
        report: JSON file to write, with the volume of each class and the time of each stage.
        overlap: share of a window that the next one covers again.
        mirror: also see each window mirrored in every combination of axes: 8 times as long in 3-D.
        max_memory: gigabytes (10^9 bytes) that the process may take at the most, on the device. Default: half of what is free on
            a GPU; on a CPU 4, or half of what is free if that is less, or what it holds and a quarter of what is free if more.
        precision: auto, fp32, bf16 or fp16.
        device: auto, cpu, cuda, cuda:1 or mps.
        overwrite: replace files that exist.
        progress: show progress bars.

    Returns:
        What became of each image.

    Raises:
        ValueError: anything wrong with the input; one line that says what was given and what is allowed.
        OSError: a file is missing, or cannot be written.
    """
    parameters = dict(locals())  # as they were given, for the run cards
    model = model_file(model)
    segmenter = open_segmenter(model, plan, merging_order, engine)
    paths = _without_results(_find(inputs))
    endings = None if channels is None else [ending.strip().lstrip("_-.") for ending in channels.split(",")]
    cases = group_cases(paths, [channel.name for channel in segmenter.plan.channels], endings)
    outputs = _outputs(cases, out, format)
    with _folder(out):
        alone = len(cases) == 1
        done = {path for path in outputs if path.exists() and not overwrite and not alone}
        new = [path for path in outputs if path not in done]
        check_writable([*new, *map(_card, new)], overwrite)
        if report is not None:
            check_writable([report], overwrite)
        # Memory that was asked to be kept to is; without a limit, speed comes first.
        frugal = max_memory is not None and keep_no_freed_memory()
        segmentation = Segmentation(
            segmenter, device=device, precision=precision, overlap=overlap, mirror=mirror, max_memory=max_memory, frugal=frugal
        )
        options = _Options(probabilities=probabilities, quicklook=quicklook, overwrite=overwrite)
        work = _Work(segmentation, options, model, parameters)
        rows = []
        with progress_bar(progress, len(cases)) as bar:
            for case, output in zip(cases, outputs, strict=True):
                bar.start(case.name)
                if output in done:
                    logger.info("%s exists and is skipped: pass --overwrite to make it anew", output)
                    rows.append(Row(case.name, output, "skipped"))
                    continue
                rows.append(work(case, output, bar, alone=alone))
    slider = segmentation.slider
    settings = {
        "geovit": __version__,
        "model": str(model),
        "device": str(slider.device),
        "precision": str(slider.dtype).removeprefix("torch."),
        "overlap": overlap,
        "mirror": mirror,
        "peak_bytes": peak_bytes(slider.device),
    }
    result = Report(tuple(rows), tuple(target.name for target in segmenter.plan.targets), settings)
    if report is not None:
        write_text_atomic(report, json.dumps(result.to_dict(), indent=2) + "\n", overwrite)
    return result


@contextmanager
def _folder(out: Path | None) -> Iterator[None]:
    """Make the folder for results, and remove what was made of it if none came.

    Raises:
        OSError: if it cannot be made.
    """
    made = [folder for folder in (() if out is None else (out, *out.parents)) if not folder.exists()]
    try:
        for folder in reversed(made):
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the folder {out}: {error.strerror}") from error
    try:
        yield
    finally:
        for folder in made:
            with suppress(OSError):  # there is something in it
                folder.rmdir()


@dataclass(frozen=True, kw_only=True)
class _Options:
    probabilities: bool
    quicklook: bool
    overwrite: bool


class _Work:
    """Segments one case after the other."""

    def __init__(self, segmentation: Segmentation, options: _Options, model: Path, parameters: Mapping[str, Any]) -> None:
        self._segmentation = segmentation
        self._options, self._model, self._parameters = options, model, parameters
        self._plan = segmentation.segmenter.plan
        self._names = label_names(segmentation.segmenter)

    def __call__(self, case: Case, output: Path, bar: Bar, *, alone: bool) -> Row:
        """Segment a case; tell what is wrong with it and go on if there are others."""
        try:
            return self._segmented(case, output, bar)
        except (ValueError, OSError) as error:
            if alone:
                raise
            logger.error("%s: %s", case.name, error)  # noqa: TRY400 - a line for users
            return Row(case.name, output, "failed", " ".join(str(error).split()))

    def _segmented(self, case: Case, output: Path, bar: Bar) -> Row:
        options = self._options
        start = time.perf_counter()
        volume, _ = read_case(case)
        check_format(output, volume)
        seconds = {"read": time.perf_counter() - start}
        found = self._segmentation(volume, probabilities=options.probabilities, tick=bar.tick)
        seconds |= found.seconds
        start = time.perf_counter()
        # The label map last but for its picture: what it stands beside belongs to it.
        if found.probabilities is not None:
            write_volume(_beside(output, _PROBABILITIES), found.probabilities, volume, overwrite=True)
        write_labels(output, found.labels, volume, names=self._names, overwrite=options.overwrite)
        seconds["write"] = time.perf_counter() - start
        if options.quicklook:
            start = time.perf_counter()
            picture = output.with_name(f"{_stem(output)}.png")
            write_quicklook(picture, volume, found.labels, names=self._names, channel=self._plan.channels[0], overwrite=True)
            seconds["quicklook"] = time.perf_counter() - start
        self._write_card(case, output, seconds)
        return Row(case.name, output, "written", "", _millilitres(found.labels, volume, self._plan), seconds)

    def _write_card(self, case: Case, output: Path, seconds: Mapping[str, float]) -> None:
        images, plan = [str(path) for path in case.images], self._parameters["plan"]
        files = {"labels": output}
        if self._options.probabilities:
            files["probabilities"] = _beside(output, _PROBABILITIES)
        if self._options.quicklook:
            files["quicklook"] = output.with_name(f"{_stem(output)}.png")
        facts = RunFacts(
            command="segment",
            parameters={**self._parameters, "inputs": images, "report": None},
            inputs=[*images, *([plan] if plan is not None and Path(plan).is_file() else [])],
            model=self._model,
            results=files,
            grid=None,
            folder=output.parent,
            seconds=seconds,
        )
        with atomic(_card(output), overwrite=True) as file:
            write_run_card(file, facts)


def _find(inputs: Sequence[str]) -> list[Path]:
    """Volumes of files, folders and patterns; of a folder without any, those of the folders in it."""
    found: dict[Path, Path] = {}
    for given in inputs:
        try:
            paths = find_volumes([given])
        except FileNotFoundError:
            folder = Path(given)
            below = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
            paths = [path for sub in below for path in _try(sub)]
            if not paths:
                raise
        for path in paths:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _try(folder: Path) -> list[Path]:
    try:
        return find_volumes([folder])
    except FileNotFoundError:
        return []


def _without_results(paths: Sequence[Path]) -> list[Path]:
    """Leave out what an earlier run has written beside its images."""
    names = {path.parent / _stem(path) for path in paths}
    kept = []
    for path in paths:
        stem = _stem(path)
        if any(stem.endswith(end) and path.parent / stem.removesuffix(end) in names for end in (_LABELS, _PROBABILITIES)):
            logger.info("%s is left out: it is a result of another image", path)
        else:
            kept.append(path)
    return kept


def _card(output: Path) -> Path:
    return output.with_name(f"{_stem(output).removesuffix(_LABELS)}_run.json")


def _stem(path: Path) -> str:
    name = path.name.replace(":", "_")  # of a series in a folder of several
    suffix = next((end for end in (".nii.gz", ".nii", ".nrrd", ".nhdr", ".dcm") if name.lower().endswith(end)), "")
    return name[: len(name) - len(suffix)]


def _outputs(cases: Sequence[Case], out: Path | None, format_: Format) -> list[Path]:
    """Label maps of cases.

    Raises:
        ValueError: if two cases have the same.
    """
    results: dict[Path, Case] = {}
    paths = []
    for case in cases:
        first = case.images[0]
        given = ".nrrd" if first.name.lower().endswith((".nrrd", ".nhdr")) else ".nii.gz"
        suffix = given if format_ == "auto" else _SUFFIXES[format_]
        path = (first.parent if out is None else out) / f"{case.name.replace(':', '_')}{_LABELS}{suffix}"
        other = results.setdefault(path.resolve(), case)
        if other is not case:
            raise ValueError(
                f"{other.images[0]} and {first} would both be written to {path}; segment them into different folders"
            )
        paths.append(path)
    return paths


def _beside(output: Path, ending: str) -> Path:
    """Name of another result: of NAME_seg.dcm it is NIfTI."""
    suffix = ".nrrd" if output.name.lower().endswith(".nrrd") else ".nii.gz"
    return output.with_name(_stem(output).removesuffix(_LABELS) + ending + suffix)


def _millilitres(labels: NDArray[np.integer], volume: Volume, plan: Plan) -> dict[str, float]:
    """Volume of each class, or of each region with those painted over it."""
    most = max(target.output for target in plan.targets)
    counts = np.zeros(most + 1, np.int64)
    for plane in labels:  # of the whole it would take 8 bytes a voxel
        counts += np.bincount(plane.ravel(), minlength=most + 1)
    each = abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000
    values = [painted_values(target, plan.targets) if plan.regions else (target.output,) for target in plan.targets]
    return {
        target.name: round(float(counts[list(those)].sum()) * each, 4) for target, those in zip(plan.targets, values, strict=True)
    }
