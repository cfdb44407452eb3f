"""Measure what hyperspectral classification promises: each figure with its protocol and the bar it has to take.

    python benchmarks/hyperspectral.py [--data DIR] [--out FILE] [--only SECTION ...]

Everything runs on the CPU, in about half an hour on two cores. The page is printed; it is also written if all sections were run,
so that the file holds figures of one run only. The exit code is 1 if a bar was missed.
"""

import argparse
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from geovit.apps.bench import machine, medians
from geovit.apps.hyperspectral import Classifier, evaluate, fit, load_classifier, named_recipe, predict
from geovit.apps.hyperspectral.lola_specvit import LolaSpecViT, LolaSpecViTConfig
from geovit.apps.hyperspectral.model import match_bands
from geovit.apps.hyperspectral.samples import LabelledScene, at_pixels, read_padded
from geovit.apps.hyperspectral.splits import random_split
from geovit.apps.hyperspectral.training import tiling
from geovit.core.layers.attention import WindowAttention
from geovit.core.layers.lora import GatedLoRALinear
from geovit.core.ops.local_attention import local_attention, windows
from geovit.datasets import open_scene, read_labels

HERE = Path(__file__).parent
NETWORK = "spectral_swin"
CPU = torch.device("cpu")


class Row(NamedTuple):
    """A line of a table. ``met`` is None where a figure has no bar to take."""

    what: str
    figure: str
    bar: str = ""
    met: bool | None = None


@dataclass(frozen=True)
class Setup:
    """Where the data are and how much is done. ``quick`` runs everything on a small scale, to see that it runs."""

    data: Path
    scratch: Path
    quick: bool = False

    @property
    def enmap(self) -> tuple[str, str]:
        """Scene and labels."""
        folder = self.data / "hyperspectral" / "enmap_potsdam"
        return str(folder / "scene.tif"), str(folder / "labels.tif")

    @property
    def salinas(self) -> tuple[str, str]:
        """Scene and labels."""
        folder = self.data / "hyperspectral" / "salinas_a"
        return str(folder / "SalinasA_corrected.mat"), str(folder / "SalinasA_gt.mat")

    @cached_property
    def recipe(self) -> str:
        """Name or file of the network's recipe."""
        if not self.quick:
            return NETWORK
        path = self.scratch / f"{NETWORK}.yaml"
        path.write_text(yaml.safe_dump({"training": {"members": 1, "steps": 10}}))
        return str(path)

    @cached_property
    def classified(self) -> dict[str, Any]:
        """Run `geovit classify` on EnMAP, in a process of its own, once; return its report with its seconds and peak memory."""
        scene, labels = self.enmap
        arguments = [
            "classify",
            scene,
            "--labels",
            labels,
            "--recipe",
            self.recipe,
            "--out",
            str(self.scratch),
            "--device",
            "cpu",
        ]
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "geovit", *arguments], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"geovit classify failed with exit code {process.returncode}")
        report: dict[str, Any] = json.loads((self.scratch / "scene_report.json").read_text())
        unit = 1 if sys.platform == "darwin" else 1024
        return report | {"wall": wall, "peak": usage.ru_maxrss * unit}


def classify(setup: Setup) -> Iterator[Row]:
    """EnMAP Potsdam, `geovit classify --labels` with all labelled pixels."""
    report = setup.classified
    wall, parts = report["wall"], f"fit {report['fit_seconds']:.0f}, map {report['map_seconds']:.1f}"
    yield Row("seconds from start to end of the process", f"{wall:.0f} ({parts})", "<= 180", wall <= 180)
    yield Row("peak memory of the process", f"{report['peak'] / 2**30:.2f} GiB")
    with rasterio.open(setup.enmap[0]) as scene, rasterio.open(report["files"]["map"]) as mapped:
        same = (scene.crs, scene.transform, scene.shape) == (mapped.crs, mapped.transform, mapped.shape)
        whole = mapped.read(1)
        agree = all((mapped.read(1, window=w) == whole[w.toslices()]).all() for _, w in mapped.block_windows(1))
    yield Row("the map lies on exactly the scene's grid", "yes" if same else "no", "yes", same)
    yield Row("the map read block by block agrees with the whole", "yes" if agree else "no", "yes", agree)


def random(setup: Setup) -> Iterator[Row]:
    """EnMAP Potsdam, few pixels per class at random."""
    return _accuracy(setup, setup.enmap, protocol="random", per_class=50, least=0.75)


def blocks(setup: Setup) -> Iterator[Row]:
    """EnMAP Potsdam, spatial blocks."""
    return _accuracy(setup, setup.enmap, protocol="blocks", above_svm=0.02)


def salinas(setup: Setup) -> Iterator[Row]:
    """Salinas-A, few pixels per class at random."""
    return _accuracy(setup, setup.salinas, protocol="random", per_class=10, least=0.985)


def _accuracy(
    setup: Setup, files: tuple[str, str], *, least: float | None = None, above_svm: float | None = None, **protocol: Any
) -> Iterator[Row]:
    models = (setup.recipe, "svm", "forest")
    report = evaluate(*files, models=models, seeds=1 if setup.quick else 5, device="cpu", **protocol).report
    used = report["protocol"]
    yield Row(
        "protocol", f"{used['text']}: {used['training_pixels']:.0f} pixels train, {used['test_pixels']:.0f} test on average"
    )
    for model, figures in report["models"].items():
        bar = least if model == setup.recipe else None
        text = ", ".join(f"{k} {figures[k.lower()]['mean']:.3f} ± {figures[k.lower()]['std']:.3f}" for k in ("OA", "AA", "kappa"))
        yield Row(
            NETWORK if model == setup.recipe else model,
            f"{text}; leakage {figures['leakage']['mean']:.0%}; {figures['seconds']['mean']:.0f} s a split",
            f"OA >= {bar}" if bar else "",
            figures["oa"]["mean"] >= bar if bar else None,
        )
    network, svm = ([split["oa"] for split in report["models"][model]["splits"]] for model in models[:2])
    gain = np.subtract(network, svm)
    error = f" ± {gain.std(ddof=1) / len(gain) ** 0.5:.3f}" if len(gain) > 1 else ""
    yield Row(
        f"OA of {NETWORK} minus OA of svm, split by split: mean ± standard error",
        f"{gain.mean():+.3f}{error}",
        f">= {above_svm:+}" if above_svm else "",
        bool(gain.mean() >= above_svm) if above_svm else None,
    )


def speed(setup: Setup) -> Iterator[Row]:
    """EnMAP Potsdam, the dense map against the same network run on one patch for each pixel.

    The runs alternate in one process and medians are told. The time of the dense map is that of the whole scene, reading
    included; that of the patches is the model's alone, on random valid pixels, and taken to grow linearly.
    """
    scene = open_scene(setup.classified["scene"])
    model = load_classifier(Path(setup.classified["files"]["model"]))
    bands = match_bands(model.info, scene.wavelengths, scene.num_bands, scene.path)
    reach, window = model.receptive_field, model.window
    rounds, sample = (1, 64) if setup.quick else (7, 512)
    pad = model.halo + window  # room for every patch, in the phase of the window grid
    values = read_padded(scene, -pad, -pad, scene.grid.height + 2 * pad, scene.grid.width + 2 * pad)[bands]
    whole = torch.from_numpy(values)
    index = predict(scene, model, bands, device=CPU).index
    valid = np.argwhere(index >= 0)
    generator = np.random.default_rng(0)
    sides = {True: 2 * reach + window, False: 2 * reach + 1}  # by whether the patch keeps the phase of the window grid
    dense, patches, agree = [], {True: [], False: []}, {True: [], False: []}
    for _ in range(rounds):
        dense.append(_seconds(partial(predict, scene, model, bands, device=CPU))[0] / len(valid))
        pixels = generator.choice(valid, sample, replace=False)
        for aligned, side in sides.items():
            corners = (pixels - reach) // window * window if aligned else pixels - reach
            taken, labels = _seconds(partial(_by_patches, model, whole, pixels + pad, corners + pad, side))
            patches[aligned].append(taken / sample)
            agree[aligned].append((labels == index[tuple(pixels.T)]).mean())
    each = statistics.median(dense)
    yield Row(
        "dense map", f"{1e6 * each:.0f} microseconds for each of {len(valid):,} valid pixels, {each * len(valid):.1f} s in all"
    )
    for aligned, kind in ((True, "in the phase of the window grid"), (False, "centred on the pixel, phase ignored")):
        what = f"patches of {sides[aligned]} x {sides[aligned]}, {kind}, {rounds} x {sample} pixels"
        slow, share = statistics.median(patches[aligned]), float(np.mean(agree[aligned]))
        text = f"{slow / each:.0f} ({1e6 * slow:.0f} microseconds a pixel, {slow * len(valid):.0f} s for the scene)"
        yield Row(f"{what}: time over that of the dense map", text, *((">= 50", slow >= 50 * each) if aligned else ()))
        yield Row(f"{what}: labels that agree", f"{share:.2%}", *((">= 99%", share >= 0.99) if aligned else ()))


def _seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


@torch.inference_mode()
def _by_patches(
    model: Classifier, x: Tensor, pixels: NDArray[np.int64], corners: NDArray[np.int64], side: int, batch: int = 64
) -> NDArray[np.int64]:
    """Classify pixels (N, 2) of a scene, each by the patch that starts at its corner."""
    labels = []
    for i in range(0, len(pixels), batch):
        part = corners[i : i + batch]
        rows, columns = torch.from_numpy(pixels[i : i + batch] - part).T
        patches = torch.stack([x[:, row : row + side, column : column + side] for row, column in part.tolist()])
        labels.append(model(patches)[torch.arange(len(part)), :, rows, columns].argmax(1))
    return torch.cat(labels).numpy()


@torch.inference_mode()
def lola(setup: Setup) -> Iterator[Row]:
    """LoLA-SpecViT as published, its exact fast path, on 8 patches in float32; the runs alternate and medians are told.

    Plain: the image is filled up with zero tokens, which are worked on as any other, and adapters are products of their own.
    Fast: one virtual key stands for the zero tokens, and residual, gate and A are one product with the weight.
    """
    torch.manual_seed(0)
    config = LolaSpecViTConfig(depths=(1, 1, 1)) if setup.quick else LolaSpecViTConfig()
    fast = LolaSpecViT(config).eval()
    for layer in fast.modules():  # as after training: adapters at their initial zeros would hide a mistake
        if isinstance(layer, GatedLoRALinear):
            for parameter in (layer.up, layer.residual):
                if parameter is not None:
                    nn.init.normal_(parameter, std=0.02)
    plain = deepcopy(fast)
    for name, module in list(plain.named_modules()):
        if isinstance(module, WindowAttention):
            plain.set_submodule(name, _FilledUp(module))
    fast.fuse()
    x = torch.randn(8, config.bands, config.patch, config.patch)
    want = plain(x)
    error = float((fast(x) - want).abs().max() / want.abs().max())
    before, after = medians([partial(plain, x), partial(fast, x)], 1 if setup.quick else 60, CPU)
    yield Row("time of plain over fast", f"{before / after:.2f} ({1e3 * before:.0f} and {1e3 * after:.0f} ms)")
    yield Row("largest difference, relative to the largest logit", f"{error:.1e}", "<= 1e-4", error <= 1e-4)


class _FilledUp(nn.Module):
    """Window attention that fills the image up with zero tokens and works on them as on any other."""

    def __init__(self, layer: WindowAttention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer, (height, width) = self.layer, x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -width % layer.window[1], 0, -height % layer.window[0]))
        q, k, v = torch.unflatten(layer.qkv(x), -1, (3, layer.heads, -1)).unbind(-3)
        out = local_attention(q, k, v, windows(layer.window), bias_table=layer.bias_table)
        y: Tensor = layer.proj(out.flatten(-2))
        return y[:, :height, :width]


def calibration(setup: Setup) -> Iterator[Row]:
    """EnMAP Potsdam, 50 pixels per class at random, seed 0: calibration of the probabilities of the test pixels."""
    scene = open_scene(setup.enmap[0])
    recipe = named_recipe(setup.recipe)
    tiles = tiling(recipe)
    labelled = LabelledScene(scene, read_labels(setup.enmap[1], scene.grid), margin=tiles.margin, core=tiles.core)
    split = random_split(labelled, 50, seed=0)
    model = fit(scene, labelled, split.training, recipe, seed=0, device=CPU)
    truth, fitted = labelled.targets[split.test], float(model.temperature)
    for temperature in (1.0, fitted):
        model.temperature.fill_(temperature)
        with torch.inference_mode():
            outputs = at_pixels(model, labelled, split.test, reach=model.receptive_field, window=model.window)
        confidence, predicted = (x.numpy() for x in outputs.max(1))
        error = expected_calibration_error(confidence, predicted == truth)
        yield Row(
            f"temperature {temperature:.2f}: expected calibration error, 15 bins",
            f"{error:.3f} (mean confidence {confidence.mean():.3f}, accuracy {(predicted == truth).mean():.3f})",
        )


def expected_calibration_error(confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = 15) -> float:
    """Mean over the samples of |accuracy - mean confidence| of their bin; bins of equal width (Guo et al. 2017, section 2)."""
    of_sample = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gap_times_size = np.bincount(of_sample, correct - confidence.astype(np.float64), bins)
    return float(np.abs(gap_times_size).sum() / len(confidence))


SECTIONS: dict[str, Callable[[Setup], Iterator[Row]]] = {
    section.__name__: section for section in (classify, random, blocks, salinas, speed, lola, calibration)
}


def page(rows: dict[str, list[Row]]) -> str:
    """Return the results in Markdown, a table for each section."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("geovit", "lightning", "scikit-learn", "numpy"))
    head = (
        "All figures are from one run of `python benchmarks/hyperspectral.py`. Accuracies are mean ± standard deviation over"
        " splits; all models see the same splits. Leakage: share of test pixels with a training pixel within the model's reach."
    )
    lines = ["# Hyperspectral classification", head, f"{machine(CPU)}; Python {platform.python_version()}, {versions}."]
    marks = {True: "yes", False: "**no**", None: ""}
    for name, found in rows.items():
        text = " ".join((SECTIONS[name].__doc__ or "").split())
        table = [f"| {row.what} | {row.figure} | {row.bar} | {marks[row.met]} |" for row in found]
        lines += [f"## {name}", text, "\n".join(["| what | figure | bar | met |", "|---|---|---|---|", *table])]
    return "\n\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen sections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("GEOVIT_TEST_DATA", HERE.parents[1] / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder that holds hyperspectral/enmap_potsdam")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "hyperspectral.md", help="page to write")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if not (options.data / "hyperspectral").is_dir():
        parser.error(f"no test data at {options.data}: set GEOVIT_TEST_DATA or --data")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    rows: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        setup = Setup(options.data, Path(scratch), options.quick)
        for name in options.only or SECTIONS:
            print(f"{name} ...", file=sys.stderr, flush=True)
            rows[name] = list(SECTIONS[name](setup))
    print(page(rows))
    if not (options.only or options.quick):
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(page(rows), encoding="utf-8")
    met = [row.met for found in rows.values() for row in found if row.met is not None]
    print(f"{sum(met)} of {len(met)} bars met", file=sys.stderr)
    return 0 if options.quick or all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
