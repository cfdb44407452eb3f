"""All rasters of one run, its journal, and the other files that appear with them."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..writing import check_writable
from .cog import make_cog, small_cache
from .folder import empty, locked, move, remove, sidecars_of, told
from .growth import Growth
from .journal import DamagedJournalError, Journal
from .layer import Layer
from .unfinished import JOURNAL, KEPT, MAKING, RESULTS, begun, earlier, published

logger = logging.getLogger(__name__)

_FORMAT = 1


class GrowingRasters:
    """Rasters that grow part by part in the hidden folder ``.NAME.unfinished`` beside the results, with a journal.

    It is the sink of ``geovit.core.streaming.run``: ``done`` and ``write``. Use:

        with GrowingRasters.open(folder, layers, job=..., parts=len(plan), resume=..., overwrite=...) as rasters:
            run(plan, worker, rasters)
            rasters.translate()
            rasters.other("report").write_text(...)  # any further file of the result
            rasters.publish()

    Left by an error, an interrupt or a kill before ``publish`` the folder stays, if a part was finished or a file was kept; else
    it goes. A run that was cut off while its files appeared goes on with that: what is called again in between does nothing, or
    the same again.
    """

    def __init__(
        self, folder: Path, layers: Mapping[str, Layer], others: Mapping[str, Path], journal: Journal, parts: int
    ) -> None:
        """Take a folder over; ``open`` does."""
        self._folder = folder
        self._layers = dict(layers)
        named = {name: layer.path for name, layer in layers.items() if layer.path is not None}
        self._paths = {**others, **dict(reversed(named.items()))}  # in order of appearance
        self._growth = Growth(folder, layers, journal)
        self._published = published(journal)  # all was made, and some of it may have appeared
        self._parts = parts

    @classmethod
    @contextmanager
    def open(
        cls,
        folder: Path,
        layers: Mapping[str, Layer],
        *,
        others: Mapping[str, Path] | None = None,
        job: Mapping[str, Any],
        parts: int,
        resume: bool = False,
        overwrite: bool = False,
    ) -> Iterator["GrowingRasters"]:
        """Begin, or go on with what an earlier run left. Meanwhile GDAL keeps few pixels, see ``small_cache``.

        Args:
            folder: that the work is kept in.
            layers: the rasters, by name.
            others: further files of the result, by name, which the caller writes before ``publish``.
            job: what decides the result (digests of inputs and model, parameters); JSON. A run goes on
                with its own only.
            parts: of the plan.
            resume: go on with an unfinished run; if there is none, begin.
            overwrite: replace results, and throw an unfinished run away, unless ``resume``.

        Raises:
            UnfinishedRunError: an unfinished run is there, and neither ``resume`` nor ``overwrite`` was said; or it is of another
                job, and the error says what differs; or it is damaged.
            FileExistsError: a result is there and may not be replaced.
            OSError: the folder cannot be written, the disk is too small, another process is at it; or on Windows.
        """
        if not hasattr(os, "pwrite"):
            raise OSError(f"cannot write {folder}: results that grow part by part need a Unix system; on Windows, use WSL")
        others = others or {}
        paths = [*(layer.path for layer in layers.values() if layer.path is not None), *others.values()]
        if len(set(paths)) < len(paths) or set(layers) & set(others):
            raise ValueError(f"{', '.join(map(str, paths))}: expected a path and a name of its own for each result")
        head = {
            "format": _FORMAT, "geovit": version("geovit"), "job": job, "parts": parts,
            "layers": {name: layer.described() for name, layer in layers.items()},
        }  # fmt: skip
        with ExitStack() as stack:
            stack.enter_context(small_cache())
            if not folder.exists():
                check_writable(paths, overwrite)
            stack.enter_context(locked(folder))
            journal = earlier(folder, resume=resume, overwrite=overwrite)
            if journal is None or not published(journal):
                try:
                    check_writable(paths, overwrite)
                except OSError:
                    if journal is None and not overwrite:  # what is left there, if anything, nobody needs
                        remove(folder, last=JOURNAL)
                    raise
            rasters = cls(folder, layers, others, journal or begun(folder), parts)
            try:
                if journal is None:
                    rasters._growth.begin(head)
                else:
                    rasters._growth.go_on(head)
            except BaseException:
                rasters._growth.close()
                if journal is None:
                    remove(folder, last=JOURNAL)
                raise
            try:
                yield rasters
            finally:
                rasters._leave()

    @staticmethod
    def unfinished(folder: Path) -> Mapping[str, Any] | None:
        """Return the job of an unfinished run, so that the next can be like it; None if there is none that can go on."""
        with suppress(OSError, DamagedJournalError):
            if (folder / JOURNAL).is_file():
                entries = Journal.read(folder / JOURNAL)
                if any("ready" in entry for entry in entries):
                    job: Mapping[str, Any] = entries[0]["job"]
                    return job
        return None

    @property
    def done(self) -> int:
        """Parts finished, a prefix of all."""
        return self._growth.done

    def write(self, part: int, area: Any, finished: Any) -> None:
        """Write the arrays of ``finished`` by layer at ``area`` (row, column, height, width), then note part and facts.

        Raises:
            ValueError: not the next part, not an array for each layer, or one of another shape.
            OSError: a file cannot be written, such as on a full disk; the part does not count as finished then.
        """
        self._growth.write(part, area, finished)

    @property
    def facts(self) -> Sequence[Mapping[str, Any]]:
        """Facts of all finished parts, in order."""
        return [entry["facts"] for entry in self._growth.finished]

    def keep(self, name: str) -> Path:
        """Return a path in the folder for what an unfinished run needs to go on, such as a fitted model."""
        return self._in(KEPT, name)

    def other(self, name: str) -> Path:
        """Return where to write one of the other files; it has its final name there."""
        return self._in(RESULTS, name, self._paths[name].name)

    def raster(self, name: str) -> Path:
        """Return the translated file of a layer, to look at it before it is published."""
        made = self._made(name)
        return made if made.exists() or not self._published else self._paths[name]

    def read(self, name: str, row: int, column: int, height: int, width: int) -> NDArray[Any]:
        """Read what is written of a layer, (bands, height, width) as it is stored."""
        return self._growth.rasters[name].read(row, column, height, width)

    def give_up(self) -> None:
        """Let nothing be left of the run, because it can have no result."""
        self._growth.finished.clear()

    def translate(self, tick: Callable[[int, int], None] | None = None) -> None:
        """Make a validated Cloud Optimized GeoTIFF of each layer, in the folder.

        Args:
            tick: told how much is done, and of how much.

        Raises:
            UnfinishedRunError: what was written of a part is no longer there.
            OSError: a file cannot be written.
        """
        if self.done < self._parts:
            raise ValueError(f"{self.done} of {self._parts} parts are finished: expected all")
        named = [name for name in self._layers if name in self._paths]
        missing = [] if self._published else [name for name in named if not self._made(name).exists()]
        if missing:
            self._growth.check({*self._layers} - ({*named} - {*missing}))
        whole, steps = 1000, 1000 * len(named)
        for before, name in enumerate(named):
            if name in missing:
                self._make(name, _steps(tick, before * whole, steps))
            if tick is not None:
                tick((before + 1) * whole, steps)

    def _make(self, name: str, tick: Callable[[float], None]) -> None:
        path, mask, making = self._paths[name], self._layers[name].mask, self._folder / MAKING / name
        made = self._in(RESULTS, name, path.name)
        empty(making)
        with told(path):
            make_cog(self._growth.rasters[name], making / made.name, tick, None if mask is None else self._growth.rasters[mask])
            for file in sorted(making.iterdir(), key=lambda file: file.name == made.name):
                file.replace(made.with_name(file.name))

    def publish(self) -> None:
        """Let all results appear under their names, and remove the folder.

        Raises:
            ValueError: a file is missing that should have been written.
            OSError: a file cannot be moved; those that were moved stay.
        """
        made = {name: self._made(name) for name in self._paths}
        for name, file in made.items():
            if not file.is_file() and not self._published:
                raise ValueError(f"{self._paths[name]} was not written")
            if file.is_file():
                with file.open("rb") as whole:
                    os.fsync(whole.fileno())
        if not self._published:
            sidecars = {name: sidecars_of(file) for name, file in made.items()}
            with told(self._growth.journal.file):
                self._growth.journal.append({"publish": sidecars})
                self._growth.sync()
            self._published = True
        sidecars = next(entry["publish"] for entry in reversed(self._growth.journal.entries) if "publish" in entry)
        for name, file in made.items():
            if file.is_file():
                with told(self._paths[name]):
                    move(file, self._paths[name], sidecars[name])
        with suppress(OSError):  # on a full disk; then what is left of the folder is known for an unfinished run
            self._growth.journal.append({"over": True})
        self._growth.close()
        remove(self._folder, last=JOURNAL)

    def _made(self, name: str) -> Path:
        return self._folder / RESULTS / name / self._paths[name].name

    def _in(self, *names: str) -> Path:
        path = self._folder.joinpath(*names)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _leave(self) -> None:
        """Let go; nothing is left of a run that had done nothing."""
        if not self._folder.exists():
            return
        with suppress(OSError):  # whoever leaves because of an error has one to tell
            self._growth.sync()
        self._growth.close()
        if self.done or any((self._folder / KEPT).glob("*")):
            logger.warning(
                "%s: %d of %d parts are done and kept: the same command with --resume goes on, with --overwrite it begins anew",
                self._folder,
                self.done,
                self._parts,
            )
        else:
            remove(self._folder, last=JOURNAL)


def _steps(tick: Callable[[int, int], None] | None, before: int, steps: int) -> Callable[[float], None]:
    def told(done: float) -> None:
        if tick is not None:
            tick(before + int(done * 1000), steps)

    return told
