"""A published classifier: a backbone and a linear layer behind it."""

from collections.abc import Mapping

from torch import Tensor, nn

from .load import Coverage, Loaded, M, load_into


def load_with_head(backbone: M, state: Mapping[str, Tensor], head: Mapping[str, Tensor], *, dim: int) -> Loaded[M]:
    """Load a backbone, and make the linear layer with the weights of the head, if there are any; coverage counts both.

    Args:
        backbone: is loaded in place.
        state: of the backbone, by its own names.
        head: "weight" and perhaps "bias" of the linear layer, or nothing.
        dim: channels that the backbone gives the head.

    Raises:
        ValueError: if anything is missing or unexpected in either.
    """
    linear = None
    covered = [load_into(backbone, state)]
    if head:
        if "weight" not in head:
            raise ValueError(f"weights do not fit: the head has no weight, but {', '.join(head)}")
        linear = nn.Linear(dim, len(head["weight"]), bias="bias" in head)
        covered.append(load_into(linear, head))
    coverage = Coverage(tensors=sum(c.tensors for c in covered), elements=sum(c.elements for c in covered))
    return Loaded(backbone, linear, coverage)
