"""Sensor tokenisers: images of any set of bands to tokens, one signature for all.

``tokenizer(x, wavelengths, gsd, band_mask=None) -> Tokens``. What a band is, is told by its wavelength in nm; radar has codes of
its own.
"""

from .bands import RADAR, check_bands
from .channel import ChannelEmbed
from .channel_sampling import sample_channels
from .cube import CubeEmbed
from .group import GroupEmbed
from .hypernetwork import HypernetworkEmbed
from .spectral_adapter import SpectralAdapter, SpectralAdapterEmbed
from .spectral_range import SMARTIES_RANGES, SpectralRange, SpectralRangeEmbed
from .tokens import Tokenizer, Tokens
from .wavelength import WavelengthEmbed

__all__ = [
    "RADAR",
    "SMARTIES_RANGES",
    "ChannelEmbed",
    "CubeEmbed",
    "GroupEmbed",
    "HypernetworkEmbed",
    "SpectralAdapter",
    "SpectralAdapterEmbed",
    "SpectralRange",
    "SpectralRangeEmbed",
    "Tokenizer",
    "Tokens",
    "WavelengthEmbed",
    "check_bands",
    "sample_channels",
]
