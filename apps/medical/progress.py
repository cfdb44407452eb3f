"""Progress bars: of the volumes, and of the windows of the present one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID


@contextmanager
def progress_bar(shown: bool, volumes: int = 1) -> Iterator["Bar"]:
    """Bars on standard error, because standard output is for results; they show nothing unless asked to."""
    with Progress(console=Console(stderr=True), transient=True, disable=not shown) as progress:
        yield Bar(progress, volumes)


class Bar:
    """Bars of one volume after the other."""

    def __init__(self, progress: Progress, volumes: int) -> None:
        self._progress = progress
        self._all = progress.add_task("volumes", total=volumes) if volumes > 1 else None
        self._task: TaskID | None = None

    def start(self, name: str) -> None:
        """Begin with a volume, which is to be read and prepared first."""
        self.stop()
        self._task = self._progress.add_task(escape(name.rpartition("/")[2]), total=None)

    def tick(self, done: int, windows: int) -> None:
        """So many windows of the present volume are done."""
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=windows)

    def stop(self) -> None:
        """End with a volume."""
        if self._task is None:
            return
        self._progress.remove_task(self._task)
        self._task = None
        if self._all is not None:
            self._progress.advance(self._all)


@contextmanager
def case_bar(what: str, shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar of cases on standard error; what it gives is told the cases done and in all. None if it is not shown."""
    if not shown:
        yield None
        return
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"cases {what}", total=None)
        yield lambda done, cases: progress.update(task, completed=done, total=cases)
