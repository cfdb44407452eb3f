"""Train Swin UNETR on real cases and measure it on others: ours, then MONAI's own network for the same time and the same steps.

python benchmarks/medical_training.py --threads 2 [--data DIR] [--runs DIR] [--minutes 36] [--only ours same_minutes same_steps]

200 MR volumes of the hippocampus (Medical Segmentation Decathlon, task 4), split by a fixed seed: 160 to train, 40 to test. Of
the 160, a tenth validates: it picks the weights, and the 40 are seen once, at the end. Everything goes through the commands that
users have, `geovit fit medical` with configs/medical/hippocampus.yaml and `geovit evaluate medical`; only the network's name
differs for MONAI's. Bar: a mean Dice of 0.85 over the two classes for ours, in 40 minutes of training and validation.

A run that is stopped goes on where it was: give the same --runs. What the commands tell, such as each validation, is on standard
error. `same_steps` gives MONAI's network as many steps as ours took, however long that lasts.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geovit.apps.bench import machine

HERE = Path(__file__).parent
CONFIG = HERE.parent / "configs" / "medical" / "hippocampus.yaml"
TESTS, SEED = 40, 0
BAR = 0.85  # mean Dice of the two classes on the test cases
LIMIT = 40.0  # minutes
PARTS = ("ours", "same_minutes", "same_steps")
NAMES = {"ours": "geovit", "same_minutes": "MONAI, same minutes", "same_steps": "MONAI, same steps"}
CLASSES = {"anterior": 1, "posterior": 2}


@dataclass(frozen=True)
class Result:
    """Steps and minutes of a training, and the report of its evaluation."""

    steps: int
    minutes: float
    validation: float
    report: dict[str, Any]


def split(data: Path, out: Path) -> tuple[Path, Path]:
    """Write the lists of training and test cases, whose files stay where they are; return both."""
    names = sorted(path.name for path in (data / "images").iterdir() if path.name.endswith((".nii", ".nii.gz")))
    order = np.random.default_rng(SEED).permutation(len(names))
    chosen = {"test": sorted(order[:TESTS]), "train": sorted(order[TESTS:])}
    for part, numbers in chosen.items():
        listed = [
            {"image": str((data / "images" / names[n]).resolve()), "label": str((data / "labels" / names[n]).resolve())}
            for n in numbers
        ]
        content = {"channel_names": {"0": "MR"}, "labels": {"background": 0, **CLASSES}, "training": listed}
        (out / part).mkdir(parents=True, exist_ok=True)
        (out / part / "dataset.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return out / "train" / "dataset.json", out / "test" / "dataset.json"


def geovit(arguments: Sequence[str], threads: int) -> None:
    """Run a command; what it prints goes to standard error."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "geovit", *arguments]
    subprocess.run(command, stdout=sys.stderr, env=environment, cwd=tempfile.gettempdir(), check=True)


def trained(name: str, train: Path, test: Path, run: Path, options: Sequence[str], threads: int) -> Result:
    """Train, or go on, and evaluate once on the test cases."""
    resume = ["--resume"] if (run / "last.ckpt").is_file() else []
    print(f"{name}: {'going on' if resume else 'begun'} in {run}", file=sys.stderr, flush=True)
    geovit(["fit", "medical", str(train), "--config", str(CONFIG), "--out", str(run), *options, *resume], threads)
    scores = run / "test.json"
    model = ["--model", str(run / "best.safetensors"), "--device", "cpu", "--precision", "fp32"]
    geovit(["evaluate", "medical", str(test), *model, "--out", str(scores), "--overwrite"], threads)
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    best = max(row["dice"] for row in history)
    return Result(history[-1]["step"], history[-1]["minutes"], best, json.loads(scores.read_text(encoding="utf-8")))


def row(name: str, result: Result) -> str:
    """Return the row of the table."""
    summary = result.report["summary"]
    figures = [f"{summary[target]['dice']['mean']:.3f}" for target in (*CLASSES, "mean")]
    other = [f"{summary['mean'][metric]['mean']:.2f}" for metric in ("hd95", "surface_dice")]
    cells = [NAMES[name], str(result.steps), f"{result.minutes:.1f}", f"{result.validation:.3f}", *figures, *other]
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 1 if the bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    default = Path(os.environ.get("GEOVIT_TEST_DATA", HERE.parents[1] / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default, help="folder of the test data")
    parser.add_argument("--runs", type=Path, default=Path(tempfile.gettempdir()) / "geovit_medical_training", help="of trainings")
    parser.add_argument("--minutes", type=float, default=36.0, help="of each training")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    data = args.data / "medical" / "hippocampus"
    if not (data / "images").is_dir():
        parser.error(f"no test data at {data}")

    train, test = split(data, args.runs)
    given = ["--minutes", str(args.minutes)]
    monai = ["--network.name=monai_swin_unetr"]
    results = {"ours": trained("ours", train, test, args.runs / "ours", given, args.threads)}
    if "same_minutes" in args.only:
        results["same_minutes"] = trained("same_minutes", train, test, args.runs / "same_minutes", [*monai, *given], args.threads)
    if "same_steps" in args.only:
        steps = [f"--steps={results['ours'].steps}", "--minutes=null"]
        results["same_steps"] = trained("same_steps", train, test, args.runs / "same_steps", [*monai, *steps], args.threads)

    print(f"{machine(torch.device('cpu'))}, {args.threads} threads, float32. Minutes are those of training and validation.")
    protocol = results["ours"].report["protocol"]["text"]
    print(f"{'. '.join(line[0].upper() + line[1:] for line in protocol)}.")
    print("\n| network | steps | minutes | Dice, validation | anterior | posterior | mean | HD95 (mm) | surface Dice |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, result in results.items():
        print(row(name, result))
    ours = results["ours"]
    mean = ours.report["summary"]["mean"]["dice"]["mean"]
    met = mean >= BAR and ours.minutes <= LIMIT
    print(
        f"\nBar: a mean Dice of {BAR} on the test cases in {LIMIT:g} minutes, "
        f"{'met' if met else 'missed'}: {mean:.3f} in {ours.minutes:.1f}."
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
