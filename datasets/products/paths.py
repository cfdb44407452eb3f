"""Names of files as users write them."""

import re

_NAMED = re.compile(r"(.+\.(?:nc4?|cdf|h5|he5|hdf5?))(?::(.+))?", flags=re.IGNORECASE)


def split_variable(source: str) -> tuple[str, str | None]:
    """Split ``file.nc:variable`` into path and variable; the variable is None where none is named."""
    match = _NAMED.fullmatch(source)
    return (match[1], match[2]) if match else (source, None)
