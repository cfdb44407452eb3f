"""A progress bar over the tiles of images."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, TaskID


@contextmanager
def progress_bar(shown: bool) -> Iterator["Bar"]:
    """A bar on standard error, because standard output is for results; it shows nothing unless asked to."""
    with Progress(console=Console(stderr=True), transient=True, disable=not shown) as progress:
        yield Bar(progress)


class Bar:
    """The bar of one image after the other."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def start(self, name: str) -> None:
        """Begin with an image."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name.rpartition("/")[2].replace("[", r"\["), total=1.0)

    def tick(self, done: int, tiles: int) -> None:
        """So many tiles are done."""
        if self._task is not None:
            self._progress.update(self._task, completed=done / tiles)
