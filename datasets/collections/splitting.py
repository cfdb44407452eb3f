"""Which places are for training, and which are held out."""

from collections.abc import Mapping, Sequence

import numpy as np

from .collection import Collection


def split(
    collection: Collection, parts: Mapping[str, float] | Mapping[str, Sequence[str]], *, seed: int = 0
) -> dict[str, Collection]:
    """Split a collection by places, so that none is in two parts.

    Args:
        collection: of places.
        parts: by name of the part, its share of the places (together 1), or its places.
        seed: of the random order that shares are taken from.

    Raises:
        ValueError: shares that are not together 1 or leave a part without place; places that are unknown or in two parts.
    """
    given = {name: part for name, part in parts.items() if not isinstance(part, float | int)}
    if given:
        return _by_names(collection, parts, given)
    shares = np.array([part for part in parts.values() if isinstance(part, float | int)], dtype=np.float64)
    if not len(shares) or (shares <= 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise ValueError(f"shares {', '.join(f'{name} {part}' for name, part in parts.items())}: expected above 0, together 1")
    if len(shares) > len(collection):
        raise ValueError(f"{collection.source}: {len(collection)} places for {len(shares)} parts: {', '.join(parts)}")
    # Largest remainders, but one place at least for each part.
    counts = np.maximum(np.floor(shares * len(collection)), 1).astype(int)
    while counts.sum() != len(collection):
        gap = shares * len(collection) - counts
        if counts.sum() < len(collection):
            counts[int(gap.argmax())] += 1
        else:
            counts[int(np.where(counts > 1, gap, np.inf).argmin())] -= 1
    order = np.random.default_rng(seed).permutation(len(collection))
    ends = np.cumsum(counts)
    return {
        name: collection.subset([collection.places[i] for i in sorted(order[end - count : end])])
        for name, count, end in zip(parts, counts, ends, strict=True)
    }


def _by_names(collection: Collection, parts: Mapping[str, object], given: Mapping[str, Sequence[str]]) -> dict[str, Collection]:
    if len(given) < len(parts):
        raise ValueError("parts of a split are all shares, or all lists of places")
    seen: dict[str, str] = {}
    for name, places in given.items():
        for place in places:
            if place in seen:
                raise ValueError(f"place {place} is in {seen[place]} and in {name}")
            seen[place] = name
    return {name: collection.subset(places) for name, places in given.items()}
