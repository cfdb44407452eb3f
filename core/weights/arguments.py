"""Constructor arguments of other people's models."""

import math
from collections.abc import Collection, Mapping
from typing import Any


def read_arguments(
    given: Mapping[str, Any],
    *,
    of: str,
    defaults: Mapping[str, Any],
    only: Mapping[str, Collection[Any]] | None = None,
    ignored: Collection[str] = (),
) -> dict[str, Any]:
    """Complete the arguments of a published constructor by its defaults, and refuse what is not understood.

    Args:
        given: arguments by the published names.
        of: what is constructed, for messages.
        defaults: of every argument that is used.
        only: arguments that are not used, with the values at which that makes no difference.
        ignored: arguments that never make one here, such as those of initial values, which the weights replace.

    Raises:
        ValueError: for an argument that is in none of them, or a value that is not allowed.
    """
    only = only or {}
    for name, value in given.items():
        if name in only and value not in only[name]:
            raise ValueError(f"{of}: {name} is {value!r}, allowed here is {' or '.join(map(repr, only[name]))}")
        if name not in (*defaults, *only, *ignored):
            raise ValueError(f"{of}: unknown argument {name}, known are {', '.join((*defaults, *only, *ignored))}")
    return {name: given.get(name, default) for name, default in defaults.items()}


def ratio(inner: int, dim: int) -> float:
    """Return a factor with ``int(factor * dim) == inner``, which the quotient itself can miss by rounding."""
    quotient = inner / dim
    return quotient if int(quotient * dim) == inner else math.nextafter(quotient, math.inf)
