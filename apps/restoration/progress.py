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
        self._steps, self._done = 1, 0

    def start(self, name: str, steps: int) -> None:
        """Begin with an image that goes through the network so many times."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name.rpartition("/")[2].replace("[", r"\["), total=1.0)
        self._steps, self._done = steps, 0

    def tick(self, done: int, tiles: int) -> None:
        """So many tiles of the present step are done."""
        if self._task is not None:
            self._progress.update(self._task, completed=(self._done + done / tiles) / self._steps)

    def step(self) -> None:
        """A step is done."""
        self._done += 1
