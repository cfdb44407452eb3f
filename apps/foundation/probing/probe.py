"""`geovit probe`: what simple classifiers make of an encoder's features, beside references in the same harness."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console, Group
from rich.progress import Progress
from rich.table import Table

from .... import __version__
from ....core.precision import Precision
from ....core.sensors.model import model_file
from ....datasets import check_writable, write_text_atomic
from ..models import open_model
from .cells import Cells, Fold, across_places, gather, within_places
from .labelled import read_labelled
from .methods import Extractor, FeatureOptions
from .study import Probe, Study, compare
from .transfer import Moved, measure_transfer

Split = Literal["auto", "places", "blocks"]
_TITLES = {"linear": "linear probe", "knn": "20 nearest neighbours"}


@dataclass(frozen=True, kw_only=True)
class ProbeSplit:
    """Which cells train and which test.

    Args:
        kind: places: one place tests, the others train, in turn; blocks: within each place by itself, blocks test and the others
            train, but for a buffer; auto: places where there are two or more, else blocks.
        cell: pixels on a side of what is classified, a multiple of the encoder's patch. Default: the patch.
        purity: share of its pixels that must have the same label for a cell to count.
        block: cells on a side of the blocks.
        buffer: cells around tested blocks that do not train.
        folds: of blocks.
    """

    kind: Split = "auto"
    cell: int | None = None
    purity: float = 0.75
    block: int = 4
    buffer: int = 1
    folds: int = 5

    def __post_init__(self) -> None:
        if not (0 < self.purity <= 1 and self.block >= 1 and self.buffer >= 0 and self.folds >= 2):
            raise ValueError(
                f"purity {self.purity:g}, block {self.block}, buffer {self.buffer}, folds {self.folds}: expected a share above 0"
                " and up to 1, a cell or more, none or more, two or more"
            )

    def divide(self, cells: Cells, seed: int) -> tuple[str, list[Fold]]:
        """Return in words what was done, and the folds.

        Raises:
            ValueError: there is nothing to train with, or nothing to test.
        """
        kind = self.kind if self.kind != "auto" else "places" if len(cells.places) > 1 else "blocks"
        if kind == "places":
            text, folds = "one place tests, the others train", list(across_places(cells))
        else:
            blocks = f"blocks of {self.block} x {self.block} cells in {self.folds} folds"
            text = f"in each place by itself, {blocks}, buffer {self.buffer}"
            folds = list(within_places(cells, folds=self.folds, block=self.block, buffer=self.buffer, seed=seed))
        if not folds:
            raise ValueError(f"split by {kind}: no classes that are both in training and in test cells")
        return text, folds


@dataclass(frozen=True, eq=False)
class Probed:
    """Figures, as in the JSON file."""

    report: dict[str, Any]

    def __rich__(self) -> Group:
        """The protocol, a table for each probe, and one for the transfer."""
        report = self.report
        tested = "; ".join(
            f"{place}: {', '.join(f'{count} of {name}' for name, count in found.items())}"
            for place, found in report["tested"].items()
        )
        parts: list[Any] = [f"{report['protocol']}; 95 % intervals over {report['unit']}", f"cells that test: {tested}"]
        for place, names in report["unseen"].items():
            parts.append(f"{place}: not in training, so not tested: {', '.join(names)}")
        for probe, methods in report["probes"].items():
            table = Table(box=None, padding=(0, 2, 0, 0))
            for name in (_TITLES[probe], "balanced accuracy", "macro-F1", "encoder's lead"):
                table.add_column(name)
            for name, row in methods.items():
                table.add_row(name, *(_figure(row.get(key)) for key in ("balanced_accuracy", "macro_f1", "lead")))
            parts += ["", table]
        if report["transfer"]:
            table = Table(box=None, padding=(0, 2, 0, 0))
            for name in ("linear probe, asked about", *report["transfer"]):
                table.add_column(name)
            for target in next(iter(report["transfer"].values())):
                rows = [found[target] for found in report["transfer"].values()]
                table.add_row(target, *(f"{_figure(row['balanced_accuracy'])}, drop {row['drop']['value']:.1%}" for row in rows))
            parts += ["", table]
        return Group(*parts)


def _figure(found: dict[str, float] | None) -> str:
    return "" if found is None else f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def probe(
    data: str,
    *,
    model: str | Path | None = None,
    sensor: str | None = None,
    labels: str | None = None,
    probes: Sequence[str] = ("linear", "knn"),
    split: ProbeSplit | None = None,
    features: FeatureOptions | None = None,
    transfer: Sequence[str] = (),
    draws: int = 1000,
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    precision: Precision = "auto",
    progress: bool = False,
) -> Probed:
    """Measure what an encoder's features tell of land cover, by probes: classifiers that are too simple to learn much themselves.

    The encoder stays as it is. The same folds and probes are given to statistics of the bands, to random convolutions, and to the
    same encoder untrained: an encoder that does not beat them has learned nothing of use here. Intervals are by bootstrap over
    blocks of cells, or over places if there are ten or more, because cells beside each other are no independent samples; leads
    are differences on the same samples.

    Args:
        data: folder of co-registered rasters with a folder of labels (LULC or labels), or a labelled scene.
        model: what `geovit pretrain` wrote, a file or its folder, or published weights. Default: the small encoder that comes
            with geovit.
        sensor: whose images are probed. Default: the first one there; a scene needs it, or wavelengths.
        labels: of a scene, as in `geovit classify`.
        probes: linear (logistic regression) and knn (k = 20, weighted).
        split: which cells train and which test.
        features: how features are taken.
        transfer: sensors of the same places that the linear probe is asked about though it was trained on the first one; half
            is half of the bands.
        draws: of the bootstrap.
        seed: of blocks, bootstrap, random convolutions and untrained encoders.
        out: JSON file to write.
        overwrite: replace that file.
        device: auto, cpu, cuda, cuda:1 or mps.
        precision: auto, fp32, bf16 or fp16.
        progress: show a progress bar.

    Returns:
        The figures.

    Raises:
        ValueError: anything wrong with the input, in one line.
    """
    wanted = _checked(probes)
    split, features = split or ProbeSplit(), features or FeatureOptions()
    if draws < 100:
        raise ValueError(f"draws is {draws}, expected 100 or more")
    if out is not None:
        check_writable([out], overwrite)
    loaded = open_model(model)
    patch = loaded.encoder.patch
    cell = patch if split.cell is None else split.cell
    if cell % patch or cell < patch:
        raise ValueError(f"cell is {cell}, expected a multiple of the encoder's patch of {patch} pixels")
    images = read_labelled(data, sensor_name=sensor, labels=labels, transfer=transfer)
    extractor = Extractor(model=loaded, options=features, cell=cell, seed=seed, device=device, precision=precision)
    encoded = extractor.encoder(images.images)
    cells = gather(images.labels, images.places, images.names, cell=cell, purity=split.purity)
    cells = cells.without(np.asarray(~np.isfinite(encoded[-1]).all(axis=1)))
    text, folds = split.divide(cells, seed)
    methods = extractor.methods(images.images, [np.nan_to_num(found) for found in encoded])
    with Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar:
        task = bar.add_task("Probes", total=len(methods))
        study = compare(
            cells, folds, methods, probes=wanted, block=split.block, draws=draws, seed=seed, tick=lambda _: bar.advance(task)
        )
    moved = measure_transfer(cells, folds, {"encoder": extractor.encoder}, images, block=split.block, draws=draws, seed=seed)
    report = {
        "geovit": __version__,
        "data": data,
        "model": str(model_file(model)),
        "sensor": images.sensor,
        "protocol": f"{images.sensor}, cells of {cell} x {cell} pixels with {split.purity:.0%} of one class; {text}",
        **as_report(study, moved),
    }
    if out is not None:
        write_text_atomic(out, json.dumps(report, indent=2, ensure_ascii=False) + "\n", overwrite)
    return Probed(report)


def as_report(study: Study, moved: Mapping[str, Mapping[str, Moved]]) -> dict[str, Any]:
    """Return figures as plain values, as in the JSON file."""
    return {
        "unit": study.unit,
        "trained": study.trained,
        "tested": study.tested,
        "unseen": study.unseen,
        "probes": {
            probe: {
                name: {
                    "balanced_accuracy": asdict(found),
                    "macro_f1": asdict(study.f1[probe][name]),
                    **({"lead": asdict(study.differences[probe][name])} if name in study.differences[probe] else {}),
                    "places": study.places[probe][name],
                }
                for name, found in methods.items()
            }
            for probe, methods in study.accuracy.items()
        },
        "transfer": {
            name: {target: {"balanced_accuracy": asdict(m.accuracy), "drop": asdict(m.drop)} for target, m in rows.items()}
            for name, rows in moved.items()
        },
    }


def _checked(probes: Sequence[str]) -> list[Probe]:
    known: dict[str, Probe] = {"linear": "linear", "knn": "knn"}
    if not probes or set(probes) - known.keys():
        raise ValueError(f"probes {', '.join(probes) or 'none'}: allowed are {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(probes)]
