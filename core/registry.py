"""Named choices, such as backbones and mixers, in an explicit table."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """A read-only table of named things of one kind; a wrong name is a ValueError that tells the near ones.

    Entries are written down where the table is made: nothing registers itself, and nothing is imported to find out.
    """

    def __init__(self, kind: str, entries: Mapping[str, T]) -> None:
        self._kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> T:
        if name in self._entries:
            return self._entries[name]
        near = get_close_matches(name, self._entries)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"unknown {self._kind} {name!r}: {hint}allowed are {', '.join(self._entries)}")

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
