# ruff: noqa: T201 - a program
"""Mutate whole files of every format and read them: ``python run.py --cases 2000``.

A case ends well in a result, or in an error of ours: a ValueError or OSError of one line. It fails if it raises anything else,
takes longer than ``--seconds``, ends the process, grows it by more than ``--mib``, unpickles, opens a file that lies beside the
folder of data, or calls the web. Every case has its own seed: ``--only 17`` runs that one and shows where its error came from.
"""

import argparse
import collections
import contextlib
import ctypes
import json
import logging
import os
import resource
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 100
CANARIES = ("secret.tif", "secret.raw", "secret.nii.gz", "secret.h5", "secret.json", "secret.vrt")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20.0, help="that a case may take")
    parser.add_argument("--mib", type=int, default=512, help="that a case may grow the process by")
    parser.add_argument("--no-models", action="store_true", help="leave out what needs torch")
    parser.add_argument("--only", type=int, help="the number of a case")
    parser.add_argument("--child", nargs=3, metavar=("FOLDER", "FIRST", "LAST"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        folder, first, last = given.child
        return _child(Path(folder), int(first), int(last), given)
    with tempfile.TemporaryDirectory() as folder:
        from seeds import write_seeds

        write_seeds(Path(folder) / "seeds", models=not given.no_models)
        _write_canaries(Path(folder))
        numbers = range(given.cases) if given.only is None else range(given.only, given.only + 1)
        return _report(_run(Path(folder), numbers, given), given)


def _run(folder: Path, numbers: range, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Run cases in children, and go on behind one that ends its child or hangs."""
    found: list[dict[str, Any]] = []
    first = numbers.start
    while first < numbers.stop:
        last = min(first + BATCH, numbers.stop)
        command = [
            sys.executable,
            __file__,
            "--seed",
            str(given.seed),
            "--mib",
            str(given.mib),
            *(["--only", "0"] if given.only else []),
        ]
        with (
            (folder / "stderr").open("w+") as errors,
            subprocess.Popen(
                [*command, "--child", str(folder), str(first), str(last)], stdout=subprocess.PIPE, stderr=errors
            ) as child,
        ):
            done = _watch(child, found, given.seconds)
            if done is None:
                errors.seek(0)
                raise RuntimeError(f"the child did not start: {errors.read()[-2000:]}")
            first += done
            if first < last:  # did not get to its end
                code = child.wait()
                errors.seek(0)
                told = "hang" if code == -9 else "memory" if code == 77 else f"crash ({code})"
                found.append({"case": first, "outcome": told, "message": errors.read()[-300:]})
                first += 1
    return found


def _watch(child: "subprocess.Popen[bytes]", found: list[dict[str, Any]], seconds: float) -> int | None:
    """Collect what a child tells until it ends, which it is made to if nothing comes; count the cases."""
    assert child.stdout is not None
    count, buffer, allowed = None, b"", 120.0  # to start
    while True:
        ready, _, _ = select.select([child.stdout], [], [], allowed)
        part = os.read(child.stdout.fileno(), 65536) if ready else b""
        if not ready:
            child.kill()
        if not part:
            return count
        *lines, buffer = (buffer + part).split(b"\n")
        for line in lines:
            if line == b"ready":
                count, allowed = 0, seconds
            elif line.startswith(b"{"):
                found.append(json.loads(line))
                count += 1


def _report(found: list[dict[str, Any]], given: argparse.Namespace) -> int:
    bad = [each for each in found if each["outcome"] not in ("result", "error")]
    for each in bad:
        print(json.dumps(each))
    outcomes = collections.Counter(each["outcome"].split(" ")[0] for each in found)
    by_reader = collections.Counter((each.get("seed", "?"), each["outcome"]) for each in found)
    for (seed, outcome), count in sorted(by_reader.items()) if given.only is None else ():
        print(f"{seed:18} {outcome:8} {count}")
    times = [each["seconds"] for each in found if "seconds" in each]
    rise = max((each["rise"] for each in found if "rise" in each), default=0)
    print(
        json.dumps(
            {"cases": len(found), **outcomes, "slowest_s": round(max(times, default=0), 2), "largest_rise_mib": round(rise)}
        )
    )
    return 1 if bad else 0


def _write_canaries(folder: Path) -> None:
    (folder / "outside").mkdir()
    shutil.copy(folder / "seeds/geotiff/a.tif", folder / "outside/secret.tif")
    shutil.copy(folder / "seeds/netcdf/a.nc", folder / "outside/secret.h5")
    shutil.copy(folder / "seeds/nifti_gz/a.nii.gz", folder / "outside/secret.nii.gz")
    shutil.copy(folder / "seeds/catalogue/item.json", folder / "outside/secret.json")
    shutil.copy(folder / "seeds/vrt/a.vrt", folder / "outside/secret.vrt")
    (folder / "outside/secret.raw").write_bytes(bytes(65536))


class Guard:
    """Tells what a case did beside reading its own files."""

    def __init__(self, outside: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = self._libc.inotify_init1(os.O_NONBLOCK)
        self._libc.inotify_add_watch(
            self._inotify, os.fsencode(outside), 0x20 | 0x2 | 0x100 | 0x200
        )  # open, modify, create, delete
        self.unpickled = False
        sys.addaudithook(self._audit)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._calls = 0
        threading.Thread(target=self._answer, daemon=True).start()

    def _audit(self, event: str, _: tuple[Any, ...]) -> None:
        if event == "pickle.find_class":
            self.unpickled = True

    def _answer(self) -> None:
        while True:
            self._socket.accept()[0].close()
            self._calls += 1

    def seen(self) -> str | None:
        """What happened since it was asked last."""
        opened = b""
        with contextlib.suppress(BlockingIOError):
            opened = os.read(self._inotify, 65536)
        told = "outside" if opened else "web" if self._calls else "pickle" if self.unpickled else None
        self._calls, self.unpickled = 0, False
        return told


def _child(folder: Path, first: int, last: int, given: argparse.Namespace) -> int:
    from mutations import copy_of, mutate
    from reading import READERS

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))
    os.environ |= {"GDAL_HTTP_TIMEOUT": "2", "GDAL_HTTP_MAX_RETRY": "0"}
    seeds = json.loads((folder / "seeds/seeds.json").read_text())
    names, guard = sorted(seeds), Guard(folder / "outside")
    if "model" in names:
        import torch

        torch.set_num_threads(1)
    for name in names:  # once whole, so that what libraries load is not taken for growth
        READERS[seeds[name]["reader"]](folder / "seeds" / name / seeds[name]["entry"])
    guard.seen()
    print("ready", flush=True)
    for case in range(first, last):
        rng = np.random.default_rng([given.seed, case])
        name = names[int(rng.integers(len(names)))]
        work = folder / "work" / name
        copy_of(folder / "seeds" / name, work)
        canaries = [f"../../outside/{each}" for each in CANARIES] + [str(folder / "outside" / each) for each in CANARIES]
        canaries += [
            f"file://{folder}/outside/secret.tif",
            f"/vsizip/{folder}/outside/secret.tif",
            f"../{name}/../../outside/secret.tif",
        ]
        web = f"127.0.0.1:{guard.port}/a.tif"
        canaries += [] if seeds[name]["reader"] == "collection" else [f"/vsicurl/http://{web}", f"http://{web}"]
        files = sorted(path for path in work.rglob("*") if path.is_file())
        mutate(rng, files[int(rng.integers(len(files)))], canaries)
        guard.seen()
        told = _case(READERS[seeds[name]["reader"]], work / seeds[name]["entry"], given)
        # A VRT that the user names may name any files.
        if (seen := guard.seen()) is not None and not (name == "vrt" and seen in ("outside", "web")):
            told["outcome"] = seen
        print(json.dumps({"case": case, "seed": name} | told), flush=True)
    return 0


def _case(read: Any, path: Path, given: argparse.Namespace) -> dict[str, Any]:
    before, start = _resident(), time.perf_counter()
    over = threading.Event()
    peak = [before]

    def watch() -> None:
        while not over.wait(0.01):
            peak[0] = max(peak[0], _resident())
            if peak[0] - before > given.mib:
                print(f"{path.parent.name}: grew by {peak[0] - before:.0f} MiB", file=sys.stderr, flush=True)
                os._exit(77)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        read(path)
        outcome, message = "result", ""
    except (ValueError, OSError) as error:
        message = str(error)
        outcome = "lines" if "\n" in message else "error"
        if isinstance(error, UnicodeError) or len(message) > 2000:
            outcome = "raw"
        if given.only is not None:
            traceback.print_exc()
    except Exception as error:  # noqa: BLE001
        outcome, message = "bug", f"{type(error).__name__}: {error} at {_place(error)}"
        if given.only is not None:
            traceback.print_exc()
    finally:
        over.set()
        watcher.join()
    return {"outcome": outcome, "message": message[:300], "seconds": time.perf_counter() - start, "rise": peak[0] - before}


def _place(error: BaseException) -> str:
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "datasets" in frame.filename or "apps" in frame.filename
    ]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"


def _resident() -> float:
    """MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


if __name__ == "__main__":
    sys.exit(main())
