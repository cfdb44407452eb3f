"""All rasters of one run, its journal, and the other files that appear with them."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..raster import GDAL_ERRORS
from ..writing import check_writable, os_error
from .cog import make_cog, small_cache
from .folder import empty, locked, move, remove, sidecars_of
from .journal import DamagedJournalError, Journal, UnfinishedRunError, differences
from .layer import Layer
from .plain import GrowingRaster

logger = logging.getLogger(__name__)

_FORMAT = 1
_SYNC_SECONDS = 3.0  # between two: what a loss of power may cost
_SYNC_SHARE = 0.1  # of the time, at the most
_JOURNAL, _PLAIN, _MAKING, _KEPT, _RESULTS = "journal", "plain", "making", "kept", "results"


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

    The journal begins with a line for what decides the result, has a line for each part after its pixels were written, with a
    checksum of them, and one whenever all of this was handed to the disk.
    """

    def __init__(
        self, folder: Path, layers: Mapping[str, Layer], others: Mapping[str, Path], journal: Journal, parts: int
    ) -> None:
        """Take a folder over; ``open`` does."""
        self._folder = folder
        self._layers = dict(layers)
        named = {name: layer.path for name, layer in layers.items() if layer.path is not None}
        self._paths = {**others, **dict(reversed(named.items()))}  # in order of appearance
        self._journal = journal
        self._rasters: dict[str, GrowingRaster] = {}
        self._finished = [entry for entry in journal.entries if "part" in entry]
        self._published = _published(journal)  # all was made, and some of it may have appeared
        self._synced = time.monotonic()
        self._pause = _SYNC_SECONDS
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
            job: what decides the result (inputs with size and time, model hash, parameters); JSON. A run goes on
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
            journal = _earlier(folder, resume=resume, overwrite=overwrite)
            if journal is None or not _published(journal):
                try:
                    check_writable(paths, overwrite)
                except OSError:
                    if journal is None and not overwrite:  # what is left there, if anything, nobody needs
                        remove(folder, last=_JOURNAL)
                    raise
            rasters = cls(folder, layers, others, journal or _begun(folder), parts)
            try:
                if journal is None:
                    rasters._begin(head)
                else:
                    rasters._go_on(head)
            except BaseException:
                rasters._close()
                if journal is None:
                    remove(folder, last=_JOURNAL)
                raise
            try:
                yield rasters
            finally:
                rasters._leave()

    @staticmethod
    def unfinished(folder: Path) -> Mapping[str, Any] | None:
        """Return the job of an unfinished run, so that the next can be like it; None if there is none that can go on."""
        with suppress(OSError, DamagedJournalError):
            if (folder / _JOURNAL).is_file():
                entries = Journal.read(folder / _JOURNAL)
                if any("ready" in entry for entry in entries):
                    job: Mapping[str, Any] = entries[0]["job"]
                    return job
        return None

    @property
    def done(self) -> int:
        """Parts finished, a prefix of all."""
        return len(self._finished)

    def write(self, part: int, area: Any, finished: Any) -> None:
        """Write the arrays of ``finished`` by layer at ``area`` (row, column, height, width), then note part and facts.

        Raises:
            ValueError: not the next part, not an array for each layer, or one of another shape.
            OSError: a file cannot be written, such as on a full disk; the part does not count as finished then.
        """
        if part != self.done or set(finished.arrays) != set(self._layers):
            raise ValueError(f"part {part} with {sorted(finished.arrays)}: expected {self.done} with {sorted(self._layers)}")
        sums = {}
        for name, raster in self._rasters.items():
            values, layer = finished.arrays[name], self._layers[name]
            if values.shape != (layer.bands, area.height, area.width):
                raise ValueError(f"{name}: {values.shape} for {layer.bands} bands of {area.height} x {area.width}")
            with _told(layer.path or raster.file):
                sums[name] = raster.write(values, area.row, area.column)
        place = [area.row, area.column, area.height, area.width]
        with _told(self._journal.file):
            self._note({"part": part, "area": place, "sums": sums, "facts": dict(finished.facts)})
            if time.monotonic() - self._synced > self._pause:
                self._sync()

    @property
    def facts(self) -> Sequence[Mapping[str, Any]]:
        """Facts of all finished parts, in order."""
        return [entry["facts"] for entry in self._finished]

    def keep(self, name: str) -> Path:
        """Return a path in the folder for what an unfinished run needs to go on, such as a fitted model."""
        return self._in(_KEPT, name)

    def other(self, name: str) -> Path:
        """Return where to write one of the other files; it has its final name there."""
        return self._in(_RESULTS, name, self._paths[name].name)

    def raster(self, name: str) -> Path:
        """Return the translated file of a layer, to look at it before it is published."""
        made = self._made(name)
        return made if made.exists() or not self._published else self._paths[name]

    def read(self, name: str, row: int, column: int, height: int, width: int) -> NDArray[Any]:
        """Read what is written of a layer, (bands, height, width) as it is stored."""
        return self._rasters[name].read(row, column, height, width)

    def give_up(self) -> None:
        """Let nothing be left of the run, because it can have no result."""
        self._finished.clear()

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
            for name in {*self._layers} - ({*named} - {*missing}):
                if self._damaged(self._finished, name) < self.done:
                    raise _unusable(self._folder, f"{self._plain(name).name} is damaged")
        whole, steps = 1000, 1000 * len(named)
        for before, name in enumerate(named):
            if name in missing:
                self._make(name, _steps(tick, before * whole, steps))
            if tick is not None:
                tick((before + 1) * whole, steps)

    def _make(self, name: str, tick: Callable[[float], None]) -> None:
        path, mask, making = self._paths[name], self._layers[name].mask, self._folder / _MAKING / name
        made = self._in(_RESULTS, name, path.name)
        empty(making)
        with _told(path):
            make_cog(self._rasters[name], making / made.name, tick, None if mask is None else self._rasters[mask])
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
            with _told(self._journal.file):
                self._journal.append({"publish": sidecars})
                self._sync()
            self._published = True
        sidecars = next(entry["publish"] for entry in reversed(self._journal.entries) if "publish" in entry)
        for name, file in made.items():
            if file.is_file():
                with _told(self._paths[name]):
                    move(file, self._paths[name], sidecars[name])
        with suppress(OSError):  # on a full disk; then what is left of the folder is known for an unfinished run
            self._journal.append({"over": True})
        self._close()
        remove(self._folder, last=_JOURNAL)

    def _made(self, name: str) -> Path:
        return self._folder / _RESULTS / name / self._paths[name].name

    def _plain(self, name: str) -> Path:
        owner = next((one for one, layer in self._layers.items() if layer.mask == name), None)
        return self._folder / _PLAIN / (f"{name}.tif" if owner is None else f"{owner}.tif.msk")

    def _in(self, *names: str) -> Path:
        path = self._folder.joinpath(*names)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _begin(self, head: Mapping[str, Any]) -> None:
        with _told(self._journal.file):
            self._journal.append(head)
        for name, layer in self._layers.items():
            with _told(layer.path or self._plain(name)):
                self._rasters[name] = GrowingRaster.make(self._in(_PLAIN, self._plain(name).name), layer)
        with _told(self._journal.file):
            self._journal.append({"ready": {name: raster.head_checksum() for name, raster in self._rasters.items()}})
            self._sync()

    def _go_on(self, head: Mapping[str, Any]) -> None:
        before = self._journal.entries[0]
        differing = differences(before, head)
        if differing:
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            raise UnfinishedRunError(
                f"{self._folder}: the unfinished run is of another job ({'; '.join(differing[:3])}{more}): "
                "pass --overwrite and not --resume to begin anew"
            )
        for name, layer in self._layers.items():
            try:
                self._rasters[name] = GrowingRaster(self._plain(name), layer)
            except ValueError as error:
                raise _unusable(self._folder, str(error)) from error
            if self._rasters[name].head_checksum() != self._journal.entries[1]["ready"][name]:
                raise _unusable(self._folder, f"the head of {self._plain(name).name} is damaged")
        # A loss of power may have kept lines of the journal and lost pixels that were written before them.
        durable = max((entry["synced"] for entry in self._journal.entries if "synced" in entry), default=0)
        whole = durable + min(self._damaged(self._finished[durable:], name) for name in self._layers)
        if whole < self.done:
            self._journal.cut(self._journal.entries.index(self._finished[whole]))
            del self._finished[whole:]

    def _damaged(self, entries: Sequence[Mapping[str, Any]], name: str) -> int:
        """Return how many of these parts read back as they were written, before one that does not."""
        for index, entry in enumerate(entries):
            if self._rasters[name].checksum(*entry["area"]) != entry["sums"][name]:
                return index
        return len(entries)

    def _note(self, entry: Mapping[str, Any]) -> None:
        self._journal.append(entry)
        self._finished.append(self._journal.entries[-1])

    def _sync(self) -> None:
        started = time.monotonic()
        for raster in self._rasters.values():
            raster.sync()
        self._journal.append({"synced": self.done})
        self._journal.sync()
        self._synced = time.monotonic()
        self._pause = max(_SYNC_SECONDS, (self._synced - started) / _SYNC_SHARE)

    def _leave(self) -> None:
        """Let go; nothing is left of a run that had done nothing."""
        if not self._folder.exists():
            return
        with suppress(OSError):  # whoever leaves because of an error has one to tell
            self._sync()
        self._close()
        if self.done or any((self._folder / _KEPT).glob("*")):
            logger.warning(
                "%s: %d of %d parts are done and kept: the same command with --resume goes on, with --overwrite it begins anew",
                self._folder,
                self.done,
                self._parts,
            )
        else:
            remove(self._folder, last=_JOURNAL)

    def _close(self) -> None:
        for raster in self._rasters.values():
            raster.close()
        self._journal.close()


def _earlier(folder: Path, *, resume: bool, overwrite: bool) -> Journal | None:
    """Return the journal of a run to go on with; None to begin."""
    if overwrite and not resume:
        return None
    file = folder / _JOURNAL
    if not file.exists():
        if (folder / _PLAIN).exists():
            raise _unusable(folder, "its journal is missing")
        return None
    try:
        journal = Journal(file)
    except DamagedJournalError as error:
        raise _unusable(folder, "its journal is damaged") from error
    done = sum("part" in entry for entry in journal.entries)
    over = any("over" in entry for entry in journal.entries)
    if over or not (done or any((folder / _KEPT).glob("*"))):
        journal.close()
        if not journal.entries and (folder / _PLAIN).exists():
            raise _unusable(folder, "its journal is damaged")
        return None  # nothing is lost
    if not resume:
        journal.close()
        raise UnfinishedRunError(
            f"{folder}: an unfinished run is there, {done} of {journal.entries[0]['parts']} parts are done: "
            "pass --resume to go on with it, or --overwrite to begin anew"
        )
    return journal


def _published(journal: Journal) -> bool:
    return any("publish" in entry for entry in journal.entries)


def _begun(folder: Path) -> Journal:
    empty(folder, last=_JOURNAL)  # which tells, if this is cut off, that nothing there is needed
    return Journal(folder / _JOURNAL)


def _unusable(folder: Path, why: str) -> UnfinishedRunError:
    return UnfinishedRunError(
        f"{folder}: cannot go on with the unfinished run, {why}: pass --overwrite and not --resume to begin anew"
    )


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Tell what the file system or GDAL refused in one line that names the file."""
    try:
        yield
    except (OSError, *GDAL_ERRORS) as error:
        raise os_error(path, error) from error


def _steps(tick: Callable[[int, int], None] | None, before: int, steps: int) -> Callable[[float], None]:
    def told(done: float) -> None:
        if tick is not None:
            tick(before + int(done * 1000), steps)

    return told
