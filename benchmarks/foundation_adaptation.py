"""Adapt an encoder that was pretrained on a scene without labels to few labels of it, and compare with training from scratch.

python benchmarks/foundation_adaptation.py --threads 2 [--data DIR] [--seeds 5] [--steps N] [--encoder FILE] [--keep DIR]
    [--only PART ...]

EnMAP Potsdam. The encoder is pretrained by configs/foundation/enmap_scene.yaml on all pixels, those of the test too, whose
labels it does not see (as in a map of a scene that is at hand). Else all is as in `geovit evaluate hyperspectral`: the same
splits for all models, the end of training decided on validation blocks of the training labels alone. With --keep, the encoder
and the figures of each model are kept in that folder, and found there when the same is measured again.
"""

import argparse
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import page
import torch

from geovit.apps.bench import machine
from geovit.apps.hyperspectral import evaluate

MODELS = ("svm", "logistic", "spectral_swin", "encoder_scratch", "encoder_freeze", "encoder", "encoder_full")
CPU = torch.device("cpu")
# Blocks and buffer as on the page of hyperspectral classification: the reach of both networks is 5 pixels.
BLOCKS: dict[str, Any] = {"protocol": "blocks", "block": 20, "buffer": 5}
PARTS: dict[str, dict[str, Any]] = {
    "blocks-10": {**BLOCKS, "per_class": 10},
    "blocks-50": {**BLOCKS, "per_class": 50},
    "random-50": {"protocol": "random", "per_class": 50},
    "blocks-all": BLOCKS,
}


def pretrained(scene: Path, folder: Path, steps: int | None) -> float:
    """Run `geovit pretrain`; return the seconds it took."""
    command = [sys.executable, "-m", "geovit", "pretrain", str(scene), "--config", "enmap_scene", "--out", str(folder)]
    command += [] if steps is None else ["--steps", str(steps)]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=sys.stderr)
    return time.perf_counter() - started


def measured(folder: Path, part: str, models: Sequence[str], encoder: Path, seeds: int, kept: Path) -> dict[str, Any]:
    """Return the report of a part, with the figures of models that were measured before taken from their files."""
    report: dict[str, Any] = {}
    for name in models:
        file = kept / f"{part}-{name}.json"
        if not file.exists():
            of_encoder = {"encoder": encoder} if name.startswith("encoder") else {}
            options = {**PARTS[part], **of_encoder, "models": [name], "seeds": seeds, "out": file, "device": "cpu"}
            evaluate(str(folder / "scene.tif"), str(folder / "labels.tif"), **options)
        found = json.loads(file.read_text(encoding="utf-8"))
        if len(found["protocol"]["seeds"]) != seeds:
            raise SystemExit(f"{file} has {len(found['protocol']['seeds'])} seeds, not {seeds}: keep them in another folder")
        report = found | {"models": report.get("models", {}) | found["models"]}
    return report


def difference(report: dict[str, Any], one: str, other: str) -> tuple[float, float]:
    """Return mean and standard error, over the splits, of the accuracy of one model less that of another."""
    found = [np.array([row["oa"] for row in report["models"][name]["splits"]]) for name in (one, other)]
    gain = found[0] - found[1]
    return float(gain.mean()), float(gain.std(ddof=1) / math.sqrt(len(gain))) if len(gain) > 1 else math.nan


def bars(part: str, report: dict[str, Any]) -> list[tuple[str, str, bool | None]]:
    """Return what was compared, the figure, and whether the bar was taken; None where there is none."""
    models = report["models"]
    found: list[tuple[str, str, bool | None]] = []
    for one, other, least in (
        ("encoder", "encoder_scratch", 0.0 if part == "blocks-10" else None),
        ("encoder", "spectral_swin", None),
        ("encoder", "logistic", None),
        ("encoder", "svm", 0.02 if part == "blocks-all" else None),
    ):
        if one in models and other in models:
            mean, error = difference(report, one, other)
            bar = "" if least is None else f" (bar: >= {least:+.2f})"
            found.append(
                (f"OA of {one} minus OA of {other}{bar}", f"{mean:+.3f} ± {error:.3f}", None if least is None else mean >= least)
            )
    if part == "random-50" and "encoder" in models:
        oa = models["encoder"]["oa"]["mean"]
        found.append(("OA of encoder (bar: >= 0.75)", f"{oa:.3f}", oa >= 0.75))
    return found


def table(part: str, report: dict[str, Any]) -> bool:
    """Print the tables of a part; return whether its bars were taken."""
    protocol = report["protocol"]
    print(
        f"\n## {part}\n\n{protocol['text']}: {protocol['training_pixels']:.0f} pixels train, {protocol['test_pixels']:.0f} test."
    )
    page.heading(["model", "OA", "AA", "kappa", "trained parameters", "leakage", "seconds a split"])
    for name, row in report["models"].items():
        spread = [f"{row[key]['mean']:.3f} ± {row[key]['std']:.3f}" for key in ("oa", "aa", "kappa")]
        trained = "" if row["trained"] is None else f"{row['trained']:,}"
        page.show([name, *spread, trained, f"{row['leakage']['mean']:.0%}", f"{row['seconds']['mean']:.0f}"])
    marks = {True: "yes", False: "**no**", None: ""}
    found = bars(part, report)
    if found:
        page.heading(["split by split: mean ± standard error", "figure", "met"])
        for what, figure, met in found:
            page.show([what, figure, marks[met]])
    return all(met is not False for _, _, met in found)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; 1 if a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("GEOVIT_TEST_DATA", page.HERE.parents[1] / "shared" / "data")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data", type=Path, default=Path(default), help="folder that holds hyperspectral/enmap_potsdam")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="of pretraining; default: the configuration's")
    parser.add_argument("--encoder", type=Path, help="take this one instead of pretraining")
    parser.add_argument("--keep", type=Path, help="folder for the encoder and the figures, made if it is not there")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    folder = args.data / "hyperspectral" / "enmap_potsdam"
    print(f"{machine(CPU)}; {page.versions(['geovit', 'lightning', 'scikit-learn', 'numpy'])}.", flush=True)
    met = True
    with tempfile.TemporaryDirectory() as scratch:
        kept = args.keep or Path(scratch)
        kept.mkdir(parents=True, exist_ok=True)
        encoder = args.encoder or kept / "encoder" / "last.safetensors"
        if not encoder.exists():
            seconds = pretrained(folder / "scene.tif", encoder.parent, args.steps)
            print(f"\nPretraining on the scene, without labels: {seconds:.0f} s.", flush=True)
        for part in args.only:
            met &= table(part, measured(folder, part, args.models, encoder, args.seeds, kept))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
