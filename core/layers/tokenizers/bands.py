"""What a band is, as a number: its wavelength in nm, or the code of a radar polarisation."""

import torch
from torch import Tensor

# Radar images of one wavelength differ by polarisation, sent and received: a code below 0 each.
RADAR = {"VV": -1.0, "VH": -2.0, "HH": -3.0, "HV": -4.0}

_SHORTEST, _LONGEST = 200.0, 20_000.0  # nm: ultraviolet to thermal infrared


def holds(condition: Tensor, otherwise: str) -> bool:
    """Return whether a tensor of one bool is True.

    A graph of ``torch.compile`` cannot branch on values. There the answer is True, and a run where it is not ends with
    ``otherwise`` as RuntimeError.
    """
    if torch.compiler.is_exporting():  # of one sensor, which was looked at before
        return True
    if torch.compiler.is_compiling():
        torch._assert_async(condition, otherwise)  # noqa: SLF001 - the only assertion on values that stays in a graph
        return True
    return bool(condition)


def check_bands(wavelengths: Tensor, bands: int) -> None:
    """Check that every band is told.

    Args:
        wavelengths: (bands,), nm or a code of ``RADAR``.
        bands: how many the image has.

    Raises:
        ValueError: another number of them, a value that is none of the two, or one that looks like micrometres.
    """
    if tuple(wavelengths.shape) != (bands,):
        raise ValueError(f"wavelengths are of shape {tuple(wavelengths.shape)}, expected one for each of {bands} bands")
    known = ((wavelengths >= _SHORTEST) & (wavelengths <= _LONGEST)) | torch.isin(
        wavelengths, wavelengths.new_tensor(list(RADAR.values()))
    )
    if holds(known.all(), "a wavelength is unknown, or not in nm: run without torch.compile to see which"):
        return
    odd = float(wavelengths[~known][0])
    hint = f": {odd:g} um would be {1000 * odd:g} nm" if 0.2 <= odd <= 20 else ""
    codes = ", ".join(f"{code:g} {name}" for name, code in RADAR.items())
    raise ValueError(f"wavelength {odd:g}{hint}; allowed are {_SHORTEST:g}..{_LONGEST:g} nm and the codes of radar ({codes})")
