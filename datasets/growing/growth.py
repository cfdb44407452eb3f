"""What an unfinished run has done: plain rasters that grow, and the journal that tells which parts are in them."""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .folder import told
from .journal import Journal, UnfinishedRunError, differences
from .layer import Layer
from .plain import GrowingRaster
from .unfinished import PLAIN, unusable

_SYNC_SECONDS = 3.0  # between two: what a loss of power may cost
_SYNC_SHARE = 0.1  # of the time, at the most


class Growth:
    """Plain rasters and their journal.

    The journal begins with a line for what decides the result, has a line for each part after its pixels were written, with a
    checksum of them, and one whenever all of this was handed to the disk.
    """

    def __init__(self, folder: Path, layers: Mapping[str, Layer], journal: Journal) -> None:
        """Take a journal over: ``begin`` or ``go_on`` is to follow."""
        self.journal = journal
        self.rasters: dict[str, GrowingRaster] = {}
        self.finished = [entry for entry in journal.entries if "part" in entry]
        self._folder, self._layers = folder, dict(layers)
        self._synced = time.monotonic()
        self._pause = _SYNC_SECONDS

    @property
    def done(self) -> int:
        """Parts finished, a prefix of all."""
        return len(self.finished)

    def begin(self, head: Mapping[str, Any]) -> None:
        """Make the rasters.

        Raises:
            OSError: one cannot be written, or the disk is too small.
        """
        with told(self.journal.file):
            self.journal.append(head)
        for name, layer in self._layers.items():
            file = self._plain(name)
            with told(layer.path or file):
                file.parent.mkdir(exist_ok=True)
                self.rasters[name] = GrowingRaster.make(file, layer)
        with told(self.journal.file):
            self.journal.append({"ready": {name: raster.head_checksum() for name, raster in self.rasters.items()}})
            self.sync()

    def go_on(self, head: Mapping[str, Any]) -> None:
        """Open the rasters, and forget parts that do not read back as they were written.

        Raises:
            UnfinishedRunError: they are of another job, or damaged.
        """
        before = self.journal.entries[0]
        differing = differences(before, head)
        if differing:
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            raise UnfinishedRunError(
                f"{self._folder}: the unfinished run is of another job ({'; '.join(differing[:3])}{more}): "
                "pass --overwrite and not --resume to begin anew"
            )
        for name, layer in self._layers.items():
            try:
                self.rasters[name] = GrowingRaster(self._plain(name), layer)
            except ValueError as error:
                raise unusable(self._folder, str(error)) from error
            if self.rasters[name].head_checksum() != self.journal.entries[1]["ready"][name]:
                raise unusable(self._folder, f"the head of {self._plain(name).name} is damaged")
        # A loss of power may have kept lines of the journal and lost pixels that were written before them.
        durable = max((entry["synced"] for entry in self.journal.entries if "synced" in entry), default=0)
        whole = durable + min(self._undamaged(self.finished[durable:], name) for name in self._layers)
        if whole < self.done:
            self.journal.cut(self.journal.entries.index(self.finished[whole]))
            del self.finished[whole:]

    def write(self, part: int, area: Any, finished: Any) -> None:
        """Write the arrays of ``finished`` by layer at ``area`` (row, column, height, width), then note part and facts.

        Raises:
            ValueError: not the next part, not an array for each layer, or one of another shape.
            OSError: a file cannot be written, such as on a full disk; the part does not count as finished then.
        """
        if part != self.done or set(finished.arrays) != set(self._layers):
            raise ValueError(f"part {part} with {sorted(finished.arrays)}: expected {self.done} with {sorted(self._layers)}")
        sums = {}
        for name, raster in self.rasters.items():
            values, layer = finished.arrays[name], self._layers[name]
            if values.shape != (layer.bands, area.height, area.width):
                raise ValueError(f"{name}: {values.shape} for {layer.bands} bands of {area.height} x {area.width}")
            with told(layer.path or raster.file):
                sums[name] = raster.write(values, area.row, area.column)
        place = [area.row, area.column, area.height, area.width]
        with told(self.journal.file):
            self.journal.append({"part": part, "area": place, "sums": sums, "facts": dict(finished.facts)})
            self.finished.append(self.journal.entries[-1])
            if time.monotonic() - self._synced > self._pause:
                self.sync()

    def check(self, names: Iterable[str]) -> None:
        """Read all of these layers back.

        Raises:
            UnfinishedRunError: one is not as it was written.
        """
        for name in names:
            if self._undamaged(self.finished, name) < self.done:
                raise unusable(self._folder, f"{self._plain(name).name} is damaged")

    def _undamaged(self, entries: Sequence[Mapping[str, Any]], name: str) -> int:
        """Return how many of these parts read back as they were written, before one that does not."""
        for index, entry in enumerate(entries):
            if self.rasters[name].checksum(*entry["area"]) != entry["sums"][name]:
                return index
        return len(entries)

    def sync(self) -> None:
        """Return when all that is done will survive a loss of power."""
        started = time.monotonic()
        for raster in self.rasters.values():
            raster.sync()
        self.journal.append({"synced": self.done})
        self.journal.sync()
        self._synced = time.monotonic()
        self._pause = max(_SYNC_SECONDS, (self._synced - started) / _SYNC_SHARE)

    def close(self) -> None:
        """Let go of all files."""
        for raster in self.rasters.values():
            raster.close()
        self.journal.close()

    def _plain(self, name: str) -> Path:
        owner = next((one for one, layer in self._layers.items() if layer.mask == name), None)
        return self._folder / PLAIN / (f"{name}.tif" if owner is None else f"{owner}.tif.msk")
