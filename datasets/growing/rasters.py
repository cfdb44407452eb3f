"""All rasters of one run, its journal, and the other files that appear with them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .layer import Layer


class GrowingRasters:
    """Rasters that grow part by part in the hidden folder ``.NAME.unfinished`` beside the results, with a journal.

    It is the sink of ``geovit.core.streaming.run``: ``done`` and ``write``. Use:

        with GrowingRasters.open(folder, layers, job=..., parts=len(plan), resume=..., overwrite=...) as rasters:
            run(plan, worker, rasters)
            rasters.translate()
            rasters.other("report").write_text(...)  # any further file of the result
            rasters.publish()

    Left by an error, an interrupt or a kill before ``publish`` the folder stays, if a part was finished; else it goes.
    """

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
        """Begin, or go on with what an earlier run left.

        Args:
            folder: that the work is kept in.
            layers: the rasters, by name.
            others: further files of the result, by name, which the caller writes before ``publish``.
            job: what decides the result (inputs with size and time, model hash, parameters); JSON. A run goes on only with its own.
            parts: of the plan.
            resume: go on with an unfinished run; if there is none, begin.
            overwrite: replace results, and throw an unfinished run away.

        Raises:
            UnfinishedRunError: an unfinished run is there, and neither ``resume`` nor ``overwrite`` was said; or it is of another
                job, and the error says what differs.
            FileExistsError: a result is there and may not be replaced.
            OSError: the folder cannot be written, the disk is too small, another process is at it.
        """
        raise NotImplementedError

    @property
    def done(self) -> int:
        """Parts finished, a prefix of all."""
        raise NotImplementedError

    def write(self, part: int, area: Any, finished: Any) -> None:
        """Write the arrays of ``finished`` by layer at ``area`` (row, column, height, width), then note part and facts."""
        raise NotImplementedError

    @property
    def facts(self) -> Sequence[Mapping[str, Any]]:
        """Facts of all finished parts, in order."""
        raise NotImplementedError

    def keep(self, name: str) -> Path:
        """Return a path in the folder for what an unfinished run needs to go on, such as a fitted model."""
        raise NotImplementedError

    def other(self, name: str) -> Path:
        """Return where to write one of the other files; it has its final name there."""
        raise NotImplementedError

    def raster(self, name: str) -> Path:
        """Return the translated file of a layer, to look at it before it is published."""
        raise NotImplementedError

    def read(self, name: str, row: int, column: int, height: int, width: int) -> NDArray[Any]:
        """Read what is written of a layer."""
        raise NotImplementedError

    def translate(self, tick: Any = None) -> None:
        """Make a validated Cloud Optimized GeoTIFF of each layer, in the folder."""
        raise NotImplementedError

    def publish(self) -> None:
        """Let all results appear under their names, and remove the folder."""
        raise NotImplementedError
