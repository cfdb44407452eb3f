"""A progress bar over the tiles of images."""

from types import TracebackType

from rich.console import Console
from rich.progress import Progress, TaskID


class Bar:
    """On standard error, because standard output is for results; shows nothing unless asked to."""

    def __init__(self, shown: bool) -> None:
        self._progress = Progress(console=Console(stderr=True), transient=True, disable=not shown)
        self._task: TaskID | None = None
        self._steps, self._done = 1, 0

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

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
