"""State space duality: the state space models that are matrix products, causal (Mamba-2) and not (VSSD)."""

from torch import Tensor

from ..linear_attention import Backend, check_backend, check_chunks, check_tensors
from . import eager, reference

__all__ = ["Backend", "ssd", "ssd_noncausal"]


def ssd(
    x: Tensor,
    dt: Tensor | None,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    chunk: int = 64,
    D: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    backend: Backend = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the recurrence of Mamba-2: h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T, y_t = h_t C_t + D x_t.

    Source: Dao and Gu 2024, section 6. A is one number for each head, so that the whole is retention with queries C, keys B and
    values dt x (section 5), computed by chunks.

    Args:
        x: (batch, length, heads, head_dim), floating. The state is kept in at least float32.
        dt: step sizes (batch, length, heads), positive: softplus is the caller's. None if x and A are multiplied by them already.
        A: decay rates (heads,), negative; without ``dt`` the logarithms of the decays, (batch, length, heads).
        B, C: input and output projections of the state, (batch, length, states), or (batch, length, groups, states) where a
            group serves ``heads / groups`` neighbouring heads.
        chunk: steps that are treated as one explicit matrix. Changes the cost and the rounding, nothing else.
        D: factor of the skip, (heads,). With ``dt`` None it multiplies x as given.
        initial_state: (batch, heads, head_dim, states), zero by default.
        return_state: return the state after the last step too.
        backend: "reference" steps through the sequence, "eager" works by chunks; "auto" takes the best one.

    Returns:
        (batch, length, heads, head_dim) in the dtype of ``x``; with ``return_state`` a pair of it and the state.

    Raises:
        ValueError: if shapes, dtypes or devices do not agree, the sequence is empty, or for an unknown backend.
    """
    B, C = _grouped(B), _grouped(C)
    expected = _expected(x, dt, A, B, C, D)
    batch, length, heads, head_dim = expected["x"][1]
    if initial_state is not None:
        expected["initial_state"] = (initial_state, (batch, heads, head_dim, B.shape[-1]))
    check_tensors("ssd", expected)
    check_chunks("ssd", length, chunk, B.shape[2], heads)
    check_backend("ssd", backend)
    function = reference.ssd if backend == "reference" else eager.ssd
    y, state = function(x, dt, A, B, C, chunk, D, initial_state)
    return (y, state) if return_state else y


def ssd_noncausal(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Give every token the same state, the sum over all of them: h = sum_t dt_t A x_t B_t^T, y_t = h C_t + D x_t.

    Source: Shi et al. 2024 (VSSD), section 3.2: the decay between steps is dropped, and with it the order of the tokens; the
    factor dt A that made it stays as each token's weight in the sum. Its sign is that of ``A``.

    Args:
        x: (batch, tokens, heads, head_dim), floating. The state is summed in at least float32.
        dt: step sizes (batch, tokens, heads).
        A: (heads,).
        B, C: as in ``ssd``.
        D: factor of the skip, (heads,).
        backend: "reference" is readable, "eager" is matrix products; "auto" takes the best one.

    Returns:
        (batch, tokens, heads, head_dim) in the dtype of ``x``.

    Raises:
        ValueError: if shapes, dtypes or devices do not agree, or for an unknown backend.
    """
    B, C = _grouped(B), _grouped(C)
    expected = _expected(x, dt, A, B, C, D)
    check_tensors("ssd_noncausal", expected)
    _, tokens, heads, _ = expected["x"][1]
    check_chunks("ssd_noncausal", tokens, 1, B.shape[2], heads)
    check_backend("ssd_noncausal", backend)
    function = reference.ssd_noncausal if backend == "reference" else eager.ssd_noncausal
    return function(x, dt, A, B, C, D)


def _grouped(z: Tensor) -> Tensor:
    return z.unsqueeze(2) if z.ndim == 3 else z


def _expected(
    x: Tensor, dt: Tensor | None, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None
) -> dict[str, tuple[Tensor, tuple[int, ...]]]:
    """Pair each tensor with the shape that it must have, given the others."""
    batch, length, heads, head_dim = x.shape if x.ndim == 4 else (0, 0, 0, 0)
    groups, states = B.shape[-2:] if B.ndim == 4 else (0, 0)
    expected: dict[str, tuple[Tensor, tuple[int, ...]]] = {
        "x": (x, (batch, length, heads, head_dim)),
        "A": (A, (batch, length, heads) if dt is None else (heads,)),
        "B": (B, (batch, length, groups, states)),
        "C": (C, (batch, length, groups, states)),
    }
    if dt is not None:
        expected["dt"] = (dt, (batch, length, heads))
    if D is not None:
        expected["D"] = (D, (heads,))
    return expected
