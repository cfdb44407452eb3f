"""A published classifier: a backbone and a linear layer behind it."""

from collections.abc import Mapping

from torch import Tensor, nn

from .load import Coverage, load_into


def load_with_head(
    backbone: nn.Module, state: Mapping[str, Tensor], head: Mapping[str, Tensor]
) -> tuple[nn.Linear | None, Coverage]:
    """Load a backbone, and make the linear layer with the weights of the head, if there are any; coverage counts both.

    Raises:
        ValueError: if anything is missing or unexpected in either.
    """
    linear = None
    covered = [load_into(backbone, state)]
    if head:
        if "weight" not in head:
            raise ValueError(f"weights do not fit: the head has no weight, but {', '.join(head)}")
        linear = nn.Linear(head["weight"].shape[1], head["weight"].shape[0], bias="bias" in head)
        covered.append(load_into(linear, head))
    return linear, Coverage(tensors=sum(c.tensors for c in covered), elements=sum(c.elements for c in covered))
