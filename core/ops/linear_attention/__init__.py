"""Attention whose weights are products of features, so that it costs linear time: without and with decay."""

from typing import Literal, get_args

from torch import Tensor

from . import chunked, eager, reference
from .features import FEATURE_MAPS, FeatureMap

__all__ = ["Backend", "FeatureMap", "check_backend", "check_tensors", "linear_attention", "retention"]

Backend = Literal["auto", "reference", "eager"]


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    feature_map: FeatureMap = "elu",
    normalize: bool = True,
    eps: float = 1e-6,
    backend: Backend = "auto",
) -> Tensor:
    """Sum the values v_j with weights phi(q_i) . phi(k_j), every query over all keys.

    Source: Katharopoulos et al. 2020, equations 4 to 7; "correlation": Zhang et al. 2023 (ESSAformer), section 3.3, as in the
    authors' code. Keys and values are summed first where that is cheaper, which it is when there are more tokens than channels.

    Args:
        q: (..., queries, width), floating, any leading axes.
        k: (..., keys, width).
        v: (..., keys, width of the values).
        feature_map: phi. "elu" is elu(x) + 1, "relu" is max(x, 0), "identity" leaves q and k as they are. "correlation" compares
            spectra: q and k less their mean over the channels, squared, as shares of their sum; then q scaled to unit length over
            the channels, k to unit length over the tokens and divided by the square root of their number.
        normalize: divide the weights of a query by their sum plus ``eps``. ESSA does not.
        eps: keeps a query without any match at zero. Only for ``normalize``.
        backend: "reference" is readable and of quadratic cost, "eager" runs anywhere; "auto" takes the best one.

    Returns:
        (..., queries, width of the values) in the dtype of ``v``; computed in at least float32.

    Raises:
        ValueError: if shapes, dtypes or devices do not agree, or for an unknown feature map or backend.
    """
    leading, width = q.shape[:-2], q.shape[-1:]
    keys, values = k.shape[-2:-1], v.shape[-1:]
    expected = {"q": (q, (*leading, *q.shape[-2:])), "k": (k, (*leading, *keys, *width)), "v": (v, (*leading, *keys, *values))}
    check_tensors("linear_attention", expected, axes=2)
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"linear_attention: q, k, v have dtypes {q.dtype}, {k.dtype}, {v.dtype}, expected one")
    if feature_map not in FEATURE_MAPS:
        raise ValueError(f"linear_attention: feature_map is {feature_map!r}, expected one of {', '.join(FEATURE_MAPS)}")
    check_backend("linear_attention", backend)
    function = reference.linear_attention if backend == "reference" else eager.linear_attention
    return function(q, k, v, feature_map, normalize, eps)


def retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    *,
    chunk: int = 64,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    backend: Backend = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Causal linear attention whose memory decays: S_t = exp(log_decay_t) S_{t-1} + k_t v_t^T, y_t = q_t S_t.

    Source: Sun et al. 2023 (RetNet), equations 5 to 7, where log_decay is constant; a gate for each step and head is Yang et al.
    2024 (gated linear attention), section 4, with one gate per head. Rotation, scale and norm of RetNet are the caller's.

    Args:
        q, k: (batch, length, groups, width); ``groups`` divides ``heads``, and a group serves neighbouring heads.
        v: (batch, length, heads, width of the values).
        log_decay: natural logarithm of the decays, (heads,) or (batch, length, heads). Zero or negative, up to -inf.
        chunk: steps that are treated as one explicit matrix. Changes the cost and the rounding, nothing else.
        initial_state: (batch, heads, width, width of the values), zero by default.
        return_state: return the state after the last step too.
        backend: "reference" steps through the sequence, "eager" works by chunks; "auto" takes the best one.

    Returns:
        (batch, length, heads, width of the values) in the dtype of ``v``; with ``return_state`` a pair of it and the state, like
        ``initial_state``, in at least float32, as all is computed.

    Raises:
        ValueError: if shapes, dtypes or devices do not agree, the sequence is empty, or for an unknown backend.
    """
    batch, length, heads = v.shape[:3] if v.ndim == 4 else (0, 0, 0)
    groups, width = q.shape[-2:] if q.ndim == 4 else (0, 0)
    expected = {
        "v": (v, (batch, length, heads, *v.shape[-1:])),
        "q": (q, (batch, length, groups, width)),
        "k": (k, (batch, length, groups, width)),
        "log_decay": (log_decay, (heads,) if log_decay.ndim == 1 else (batch, length, heads)),
    }
    if initial_state is not None:
        expected["initial_state"] = (initial_state, (batch, heads, width, *v.shape[-1:]))
    check_tensors("retention", expected)
    check_chunks("retention", length, chunk, groups, heads)
    check_backend("retention", backend)
    function = reference.retention if backend == "reference" else chunked.retention
    y, state = function(q, k, v, log_decay, chunk, initial_state)
    return (y, state) if return_state else y


def check_tensors(op: str, expected: dict[str, tuple[Tensor, tuple[int, ...]]], *, axes: int = 1) -> None:
    """Refuse tensors whose shapes are not the expected ones, that are not floating or that lie on several devices."""
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape or tensor.ndim < axes:
            raise ValueError(f"{op}: {name} has shape {tuple(tensor.shape)}, expected {shape}")
        if not tensor.is_floating_point():
            raise ValueError(f"{op}: {name} has dtype {tensor.dtype}, expected a floating one")
    devices = {name: str(tensor.device) for name, (tensor, _) in expected.items()}
    if len(set(devices.values())) > 1:
        raise ValueError(f"{op}: tensors lie on several devices: {devices}")


def check_chunks(op: str, length: int, chunk: int, groups: int, heads: int) -> None:
    """Refuse an empty sequence, a chunk without steps, and groups that do not divide the heads."""
    if length < 1 or chunk < 1:
        raise ValueError(f"{op}: length is {length} and chunk {chunk}, expected at least 1")
    if groups < 1 or heads % groups:
        raise ValueError(f"{op}: {groups} groups do not divide {heads} heads")


def check_backend(op: str, backend: Backend) -> None:
    """Refuse a backend that there is not."""
    if backend not in get_args(Backend):
        raise ValueError(f"{op}: backend is {backend!r}, expected one of {', '.join(get_args(Backend))}")
