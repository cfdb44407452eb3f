"""What a run has finished, so that another can go on with it."""

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .plain import sync


class UnfinishedRunError(ValueError):
    """An earlier run was not finished, and it was not said whether to go on with it; or it was of another job."""


class DamagedJournalError(ValueError):
    """The journal is not what was written."""


class Journal:
    """Lines of JSON, each after its CRC-32.

    What is appended survives the end of the process at once, and a loss of power after ``sync``. A line that was torn by the end
    of a run is dropped; a line that is damaged before others that are not is an error.
    """

    def __init__(self, file: Path) -> None:
        """Open a journal, or make an empty one.

        Raises:
            DamagedJournalError: a line is not what was written.
        """
        self.file = file
        self._file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self.entries: list[dict[str, Any]] = []
            self._ends = [0]
            for entry, end in _entries(file):
                self.entries.append(entry)
                self._ends.append(end)
            os.ftruncate(self._file, self._ends[-1])
        except BaseException:
            self.close()
            raise

    @staticmethod
    def read(file: Path) -> list[dict[str, Any]]:
        """Return the entries, and change nothing.

        Raises:
            DamagedJournalError: a line is not what was written.
        """
        return [entry for entry, _ in _entries(file)]

    def append(self, entry: Mapping[str, Any]) -> None:
        """Note something; JSON.

        Raises:
            OSError: the file system refused; nothing is noted then.
        """
        line = _line(entry)
        try:
            left = memoryview(line)
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            os.ftruncate(self._file, self._ends[-1])
            raise
        self.entries.append(json.loads(line[9:]))
        self._ends.append(self._ends[-1] + len(line))

    def cut(self, count: int) -> None:
        """Keep the first entries only."""
        del self.entries[count:], self._ends[count + 1 :]
        os.ftruncate(self._file, self._ends[-1])

    def sync(self) -> None:
        """Return when what was appended will survive a loss of power."""
        sync(self._file)

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _line(entry: Mapping[str, Any]) -> bytes:
    text = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode()  # floats as repr writes them: exactly
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _entries(file: Path) -> Iterator[tuple[dict[str, Any], int]]:
    end, torn = 0, False
    for line in file.read_bytes().split(b"\n")[:-1]:
        end += len(line) + 1
        if line[:9] != b"%08x " % zlib.crc32(line[9:]):
            torn = True
        elif torn:
            raise DamagedJournalError(f"{file}: damaged")
        else:
            yield json.loads(line[9:]), end


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Tell what differs between two values of JSON, each as "name: before, now after"."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        inner = (differences(before.get(key), now.get(key), f"{name}.{key}" if name else key) for key in keys)
        return [text for texts in inner for text in texts]
    one, other = (json.dumps(value, ensure_ascii=False) for value in (before, now))
    return [] if one == other else [f"{name}: {_short(one)}, now {_short(other)}"]


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
