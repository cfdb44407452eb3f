"""What a band is, as a number: its wavelength in nm, or the code of a radar polarisation."""

import torch
from torch import Tensor

# Radar images of one wavelength differ by polarisation, sent and received: a code below 0 each.
RADAR = {"VV": -1.0, "VH": -2.0, "HH": -3.0, "HV": -4.0}

_SHORTEST, _LONGEST = 200.0, 20_000.0  # nm: ultraviolet to thermal infrared


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
    if bool(known.all()):
        return
    odd = float(wavelengths[~known][0])
    hint = f": {odd:g} um would be {1000 * odd:g} nm" if 0.2 <= odd <= 20 else ""
    codes = ", ".join(f"{code:g} {name}" for name, code in RADAR.items())
    raise ValueError(f"wavelength {odd:g}{hint}; allowed are {_SHORTEST:g}..{_LONGEST:g} nm and the codes of radar ({codes})")
