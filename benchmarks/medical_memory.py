"""Measure the memory and the stages of `geovit segment` on a large CT with many classes: a Markdown table.

python benchmarks/medical_memory.py
python benchmarks/medical_memory.py --classes 41 --network swin_unetr --max-memory 6

The volume is made up: 512 x 512 x 300 voxels of 0.8 x 0.8 x 1.5 mm, int16, in a compressed NIfTI; the model has random weights
and sees it at 1.5 mm. Each row is a whole command in a process of its own: reading, preparing, network, back-mapping, writing.
The peak is what the system says of that process (ru_maxrss). "All logits" is what the logits of the prepared volume alone would
take in float32, which sliding windows without online arg-max hold; "expected" is what the command predicts for its windows.
Labels of random weights are noise all over the volume, for which mapping back and compressing take longest.

Exits with 1 if the peak of 41 classes is above 6 GiB.
"""

import argparse
import itertools
import json
import math
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from geovit.apps.bench import machine
from geovit.apps.medical.model import new_segmenter, save_segmenter
from geovit.apps.medical.networks import NetworkConfig
from geovit.apps.medical.plan import Channel, Plan, Target

CPU = torch.device("cpu")
SPACING = (0.8, 0.8, 1.5)
PLANNED = (1.5, 1.5, 1.5)
BAR_CLASSES, BAR_BYTES = 41, 6 * 2**30
NETWORKS: dict[str, dict[str, Any]] = {
    "monai_unet": {"channels": [8, 16, 16], "strides": [2, 2]},
    "swin_unetr": {"feature_size": 24},
}
STAGES = ("read", "prepare", "network", "back", "write", "quicklook")


@dataclass(frozen=True)
class Measured:
    """One command: its peak in bytes, what it told, and seconds by stage."""

    peak: int
    told: str
    seconds: dict[str, float]


def write_volume(path: Path, size: tuple[int, int, int]) -> None:
    """Write a body of ellipsoids with noise."""
    rng = np.random.default_rng(0)
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in size]
    voxels = np.full(size, -1000, np.int16)
    x, y = axes[0][:, None], axes[1][None]
    organs = [(rng.uniform(-0.5, 0.5, 3), rng.uniform(0.1, 0.3, 3), rng.integers(-100, 200)) for _ in range(30)]
    for k, z in enumerate(axes[2]):
        plane = np.where((x / 0.85) ** 2 + (y / 0.65) ** 2 < 1, 40, -1000).astype(np.int16)
        for centre, radii, value in organs:
            depth = ((z - centre[2]) / radii[2]) ** 2
            if depth < 1:
                plane[((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 < 1 - depth] = value
        voxels[:, :, k] = plane + rng.integers(-20, 20, plane.shape, dtype=np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])), path)


def write_model(path: Path, classes: int, network: str) -> None:
    """Write a model of that many outputs, background included, with random weights."""
    torch.manual_seed(0)
    channel = Channel(name="CT", scheme="range", low=-175.0, high=250.0)
    targets = tuple(Target(name=f"organ {value}", values=(value,), output=value) for value in range(1, classes))
    plan = Plan(channels=(channel,), targets=targets, spacing=PLANNED, roi=(96, 96, 96))
    save_segmenter(path, new_segmenter(NetworkConfig(name=network, arguments=NETWORKS[network]), plan))


def measure(volume: Path, model: Path, out: Path, options: list[str], threads: int) -> Measured:
    """Run the command."""
    report, log = out / "report.json", out / "log.txt"
    command = [sys.executable, "-m", "geovit", "segment", str(volume), f"--model={model}", f"--out={out}", f"--report={report}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    with log.open("wb") as file:
        # What wait4 tells is of this one process.
        actions = [(os.POSIX_SPAWN_DUP2, file.fileno(), 1), (os.POSIX_SPAWN_DUP2, file.fileno(), 2)]
        process = os.posix_spawn(
            sys.executable, [*command, "--overwrite", "--debug", *options], environment, file_actions=actions
        )
        _, status, usage = os.wait4(process, 0)
    text = log.read_text(encoding="utf-8")
    if status != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{text}")
    told = re.search(r"debug: (\d+ windows .*)", text)
    assert told is not None
    (case,) = json.loads(report.read_text(encoding="utf-8"))["cases"]
    return Measured(usage.ru_maxrss * 1024, told[1], case["seconds"])


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 14, 41, 104], help="outputs, background included")
    parser.add_argument("--size", type=int, nargs=3, default=[512, 512, 300])
    parser.add_argument("--overlap", type=float, default=0.5, help="of windows; 0.5 is the default of the command")
    parser.add_argument("--network", choices=list(NETWORKS), default="monai_unet")
    parser.add_argument("--max-memory", type=float, nargs="+", default=[0.0, 3.0], help="GB; 0: the default of the command")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    size = (given.size[0], given.size[1], given.size[2])
    prepared = [round((n - 1) * s / p + 1) for n, s, p in zip(size, SPACING, PLANNED, strict=True)]
    print(f"{machine(CPU)}; {given.threads} threads; {given.network}, windows of 96 x 96 x 96, overlap {given.overlap:g}")
    print(f"{' x '.join(map(str, size))} voxels, prepared {' x '.join(map(str, prepared))}\n")
    print(f"| classes | limit GB | all logits GB | expected GB | peak GB | windows | {' | '.join(f'{s} s' for s in STAGES)} |")
    print(f"|{'---|' * (6 + len(STAGES))}")
    worst = 0
    with tempfile.TemporaryDirectory() as folder:
        volume = Path(folder) / "ct.nii.gz"
        write_volume(volume, size)
        for limit, classes in itertools.product(given.max_memory, given.classes):
            model = Path(folder) / "model.safetensors"
            write_model(model, classes, given.network)
            options = [f"--overlap={given.overlap}", *([f"--max_memory={limit}"] if limit else [])]
            found = measure(volume, model, Path(folder), options, given.threads)
            told = re.search(r"^(\d+) windows of [\dx ]+?( in \d+ pieces)?, (\d+) at once; ([\d.]+) GB", found.told)
            assert told is not None
            cells = [
                str(classes),
                f"{limit:g}" if limit else "default",
                f"{4e-9 * classes * math.prod(prepared):.2f}",
                told[4],
                f"{found.peak / 1e9:.2f}",
                told[1] + (told[2] or ""),
                *(f"{found.seconds[stage]:.1f}" for stage in STAGES),
            ]
            print(f"| {' | '.join(cells)} |", flush=True)
            if classes == BAR_CLASSES and not limit:
                worst = max(worst, found.peak)
    if worst:
        print(f"\n{BAR_CLASSES} classes: {worst / 2**30:.2f} GiB, bar {BAR_BYTES / 2**30:.0f} GiB")
    return int(worst > BAR_BYTES)


if __name__ == "__main__":
    sys.exit(main())
