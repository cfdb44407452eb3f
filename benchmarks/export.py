"""Time exported models in ONNX Runtime and OpenVINO against the kernels of the package, on this machine.

python benchmarks/export.py --threads 1

A small model of each application, with random weights, is exported by `geovit export`, which refuses a program that is not right.
Then the network and both runtimes compute the same input in turn in one process, with the same number of threads in float32;
medians are told, with the largest difference from the network as a share of its largest value. --quick makes models and inputs so
small that the figures mean nothing.
"""

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from page import HERE, medians, versions
from torch import Tensor

from geovit.apps.bench import machine
from geovit.apps.export import export
from geovit.apps.hyperspectral.model import Classifier, ModelInfo, load_classifier
from geovit.apps.hyperspectral.recipe import Recipe, TrainingConfig
from geovit.apps.medical.model import new_segmenter, save_segmenter
from geovit.apps.medical.models import open_segmenter
from geovit.apps.medical.networks import NetworkConfig
from geovit.apps.medical.plan import Channel, Plan, Target
from geovit.apps.restoration.compact import Compact
from geovit.apps.restoration.models import open_restorer
from geovit.apps.restoration.swinir import SwinIR
from geovit.apps.restoration.weights import architecture_of, save_restorer
from geovit.core.engines import open_exported
from geovit.datasets import ClassInfo

HEAD = (
    "| model | input | geovit ms | ONNX Runtime ms | of geovit's | OpenVINO ms | of geovit's | error | error | export s |",
    "|---|---|---|---|---|---|---|---|---|---|",
)
BANDS = 100
Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """A model: its name, what saves and loads it, and the shape of the input, plain and quick."""

    name: str
    save: Callable[[Path, bool], None]
    load: Callable[[Path], Network]
    shape: tuple[int, ...]
    quick: tuple[int, ...]


def _save_classifier(path: Path, quick: bool) -> None:
    bands = 8 if quick else BANDS
    classes = tuple(ClassInfo(value, f"class {value}", (value, 0, 0)) for value in range(1, 10))
    model = Classifier(ModelInfo("0", bands, None, classes, Recipe(training=TrainingConfig(members=1)), {}))
    model.members[0].transform.fit(torch.randn(500, bands))
    model.save(path)


def _save_compact(path: Path, quick: bool) -> None:
    network = Compact(2, width=8, depth=2) if quick else Compact(2)
    save_restorer(path, network.eval(), architecture_of(network), {})


def _save_swinir(path: Path, quick: bool) -> None:
    dim, depths = (8, (1, 1)) if quick else (60, (6, 6, 6, 6))
    heads = [2 if quick else 6] * len(depths)
    network = SwinIR(2, dim, depths=depths, heads=heads, upsampler="pixelshuffledirect")
    save_restorer(path, network.eval(), architecture_of(network), {})


def _save_unet(path: Path, quick: bool) -> None:
    channels, roi = ([4, 8], 16) if quick else ([16, 32, 64, 128], 64)
    plan = Plan(
        channels=(Channel(name="CT", scheme="range", low=-1000.0, high=1000.0),),
        targets=(Target(name="organ", values=(1,), output=1),),
        spacing=None,
        roi=(roi,) * 3,
    )
    config = NetworkConfig(name="monai_unet", arguments={"channels": channels, "strides": [2] * (len(channels) - 1)})
    save_segmenter(path, new_segmenter(config, plan))


CASES = (
    Case("spectral_swin", _save_classifier, lambda p: load_classifier(p).merge().eval(), (1, BANDS, 64, 64), (1, 8, 16, 16)),
    Case("compact x2", _save_compact, lambda p: open_restorer(p).network.folded().eval(), (1, 3, 256, 256), (1, 3, 16, 16)),
    Case("SwinIR x2, light", _save_swinir, lambda p: open_restorer(p).network.folded().eval(), (1, 3, 64, 64), (1, 3, 16, 16)),
    Case("monai_unet, 3-D", _save_unet, lambda p: open_segmenter(p).network.eval(), (1, 1, 64, 64, 64), (1, 1, 16, 16, 16)),
)


def rows(cases: Sequence[Case], *, runs: int, quick: bool = False) -> Iterator[str]:
    """Export and time each model; give its row of the table."""
    for case in cases:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            path = Path(folder) / "model.safetensors"
            case.save(path, quick)
            start = time.perf_counter()
            exported = export(str(path), out=Path(folder) / "model.onnx").files[0]
            taken = time.perf_counter() - start
            network, x = case.load(path), torch.rand(case.quick if quick else case.shape)
            calls: dict[str, Callable[[], Tensor]] = {"own": functools.partial(network, x)}
            for name in ("onnx", "openvino"):
                run = open_exported(exported, engine=name).engine.run
                calls[name] = lambda run=run, x=x: torch.from_numpy(run(x.numpy()))
            yield row(case.name, tuple(x.shape), calls, runs, taken)


def row(name: str, shape: tuple[int, ...], calls: dict[str, Callable[[], Tensor]], runs: int, exporting: float) -> str:
    """Run the network and both runtimes in turn; return the row of the table."""
    want, *others = (call() for call in calls.values())
    errors = [f"{float((made - want).abs().max() / want.abs().max()):.0e}" for made in others]
    times = medians(calls, runs)
    own = times.pop("own")
    compared = [cell for taken in times.values() for cell in (f"{1e3 * taken:.1f}", f"{taken / own:.2f}")]
    size = " x ".join(map(str, shape))
    return f"| {' | '.join([name, size, f'{1e3 * own:.1f}', *compared, *errors, f'{exporting:.0f}'])} |"


def main(arguments: list[str] | None = None) -> int:
    """Print the table, and write the page if all of it was made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for case in CASES]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="tiny models, no page")
    parser.add_argument("--out", type=Path, help="default: results/export.md, beside this file")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    told = versions(["torch", "onnxruntime", "openvino"])
    page = [
        "# Exported models", "",
        f"Made by `python benchmarks/export.py --threads {args.threads}`: {machine(torch.device('cpu'))}, {told}.",
        "Medians of runs in turn in one process. \"of geovit's\" is the time as a multiple of that of the package's own kernels:",
        "above 1 is slower. Errors are of ONNX Runtime and of OpenVINO, as shares of the largest value.", "", *HEAD,
    ]  # fmt: skip
    print("\n".join(page), flush=True)
    for line in rows([case for case in CASES if case.name in args.only], runs=args.runs, quick=args.quick):
        print(line, flush=True)
        page.append(line)
    if not args.quick and args.only == names:
        out = args.out or HERE / "results" / "export.md"
        out.write_text("\n".join(page) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
