"""The selective scan of state-spaces/mamba: time comes last, and B and C may lack the axes of batch or group."""

from geovit.core.ops.selective_scan import selective_scan


def _time_first(x):
    return None if x is None else x.transpose(1, 2)


def _rows(x, batch: int, length: int):
    """Bring (d, n), (b, n, l) or (b, g, n, l) to (b, l, n) or (b, l, g, n)."""
    if x.ndim == 2:  # constant, a group for each channel
        return x.expand(batch, length, *x.shape)
    return x.transpose(1, 2) if x.ndim == 3 else x.permute(0, 3, 1, 2)


def _scan(case):
    given = case.input
    batch, _, length = given["u"].shape
    out, state = selective_scan(
        _time_first(given["u"]),
        _time_first(given["delta"]),
        given["A"],
        _rows(given["B"], batch, length),
        _rows(given["C"], batch, length),
        D=given.get("D"),
        z=_time_first(given.get("z")),
        dt_bias=given.get("delta_bias"),
        softplus=case.constructor["delta_softplus"],
        return_state=True,
    )
    outputs = {"out": out.transpose(1, 2), "last_state": state}
    return {name: value for name, value in outputs.items() if name in case.output}


ADAPTERS = {"selective_scan_ref": _scan}
