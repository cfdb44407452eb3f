"""Feature maps of linear attention: a pair of functions, for queries and for keys, of (..., tokens, channels)."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

FeatureMap = Literal["elu", "relu", "identity", "correlation"]


def _elu(x: Tensor) -> Tensor:
    return F.elu(x) + 1


def _identity(x: Tensor) -> Tensor:
    return x


def _shares(x: Tensor) -> Tensor:
    """Square what differs from the mean over the channels and divide by its sum: how a token's spectral energy is spread."""
    squares = (x - x.mean(-1, keepdim=True)).square()
    shares: Tensor = squares / (squares.sum(-1, keepdim=True) + 1e-7)
    return shares


def _correlation_query(q: Tensor) -> Tensor:
    return F.normalize(_shares(q), dim=-1)


def _correlation_key(k: Tensor) -> Tensor:
    # Of unit length over the tokens, per channel; with the factor a query's weights do not grow with the number of tokens.
    features: Tensor = F.normalize(_shares(k), dim=-2) * k.shape[-2] ** -0.5
    return features


FEATURE_MAPS: dict[FeatureMap, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "elu": (_elu, _elu),
    "relu": (F.relu, F.relu),
    "identity": (_identity, _identity),
    "correlation": (_correlation_query, _correlation_key),
}
