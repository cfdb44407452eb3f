"""One token for each place, by a projection for each range of wavelengths."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...device import without_autocast
from ..linear import Linear
from .bands import RADAR, check_bands, holds
from .patches import check_size, mean_bands, pitch_of
from .sensor_cache import SensorCache
from .tokens import Tokens


@dataclass(frozen=True)
class SpectralRange:
    """Wavelengths that share a projection.

    Args:
        name: of what is seen there.
        shortest, longest: nm. Radar has its true wavelength here: it counts in mixtures.
        polarization: of radar, a key of ``RADAR``. Only bands of this polarisation are routed here.
        mixes: indices of the ranges whose projections are mixed, for a range that has none of its own. They must have one.
    """

    name: str
    shortest: float
    longest: float
    polarization: str | None = None
    mixes: tuple[int, ...] = ()

    @property
    def centre(self) -> float:
        """Wavelength in the middle, nm."""
        return 0.5 * (self.shortest + self.longest)


# Sumbul et al. 2025, table of spectral ranges; the first 17 have a projection, in the order of the published weights. Ranges of
# Sentinel-2 are its bands as they are specified; the wide ones in the visible are those of aerial and very high-resolution
# images, whose bands are known no better. The cirrus band of Sentinel-2 shows no ground and is left out.
SMARTIES_RANGES = (
    SpectralRange("aerosol", 422, 463),
    SpectralRange("blue", 427, 558),
    SpectralRange("blue, aerial", 430, 545),
    SpectralRange("green, aerial", 466, 620),
    SpectralRange("green", 524, 595),
    SpectralRange("red, aerial", 590, 710),
    SpectralRange("red", 634, 696),
    SpectralRange("red edge 1", 689, 719),
    SpectralRange("red edge 2", 726, 755),
    SpectralRange("near infrared, wide", 728, 938),
    SpectralRange("red edge 3", 761, 802),
    SpectralRange("near infrared, narrow", 843, 886),
    SpectralRange("water vapour", 923, 964),
    SpectralRange("short-wave infrared 1", 1516, 1704),
    SpectralRange("short-wave infrared 2", 2002, 2376),
    SpectralRange("C band, VV", 5.5e7, 5.6e7, "VV"),
    SpectralRange("C band, VH", 5.5e7, 5.6e7, "VH"),
    # Ranges that no image of the pretraining had: the thermal one lies between the longest optical range and radar, the narrow
    # blue of Landsat between the aerosol band and the wide blue.
    SpectralRange("thermal infrared", 10_600, 11_190, mixes=(14, 15)),
    SpectralRange("blue, narrow", 452, 512, mixes=(0, 1)),
)


class SpectralRangeEmbed(nn.Module):
    """Patches of each band times the projection of its range, ``scale`` times the mean over bands: one token for each place.

    A band belongs to the range that it lies in, of several to the one whose centre is nearest. A range without a projection mixes
    those of others, the nearer the more: weights fall as one over the distance of the centres. An optical band in no range mixes
    in the same way the ranges before and after it, or takes the outermost one.

    For a sensor the projections are put together to one convolution.

    Source: Sumbul et al. 2025 (SMARTIES), section 3.1.

    Args:
        dim: channels of the tokens.
        patch: pixels on a side of a token.
        ranges: of wavelengths.
        scale: factor of the mean; 12 is how many bands the images of the pretraining were given.
        farther_weighs_more: weights of mixed ranges grow with the distance, as in the published program.

    Raises:
        ValueError: a range that mixes one without a projection, or there is none with.
    """

    def __init__(
        self,
        dim: int,
        *,
        patch: int,
        ranges: Sequence[SpectralRange] = SMARTIES_RANGES,
        scale: float = 12.0,
        farther_weighs_more: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.patch, self.scale, self.ranges = dim, patch, scale, tuple(ranges)
        own = [i for i, r in enumerate(self.ranges) if not r.mixes]
        for r in self.ranges:
            if unknown := [i for i in r.mixes if i not in own]:
                raise ValueError(f"range {r.name} mixes {unknown}, allowed are ranges with a projection: {own}")
            if r.polarization is not None and r.polarization not in RADAR:
                raise ValueError(f"range {r.name} has polarisation {r.polarization!r}, allowed are {', '.join(RADAR)}")
        if not own:
            raise ValueError("SpectralRangeEmbed: no range has a projection of its own")
        # For each range, the weight of each projection.
        self._mixes = [[0.0] * len(own) for _ in self.ranges]
        for index, (row, r) in enumerate(zip(self._mixes, self.ranges, strict=True)):
            members = r.mixes or (index,)
            distances = [abs(r.centre - self.ranges[i].centre) for i in members]
            for i, weight in zip(members, _weights(distances, farther=farther_weighs_more), strict=True):
                row[own.index(i)] = weight
        self.embeds = nn.ModuleList(Linear(patch * patch, dim) for _ in own)
        for embed in self.embeds:
            assert isinstance(embed, Linear)
            nn.init.xavier_uniform_(embed.weight)
            nn.init.zeros_(embed.bias)
        self._cache = SensorCache()

    def routes(self, wavelengths: Tensor) -> Tensor:
        """Return the weight of each projection for each band: (bands, projections) float64, rows of sum 1.

        Args:
            wavelengths: (bands,), nm or a code of ``RADAR``.

        Raises:
            ValueError: a polarisation that has no range, or an optical band where all ranges are of radar.
        """
        w = wavelengths.double()[:, None]
        ranges = self.ranges
        low, high, centre = (w.new_tensor(v) for v in zip(*[(r.shortest, r.longest, r.centre) for r in ranges], strict=True))
        code = w.new_tensor([RADAR[r.polarization] if r.polarization else 0.0 for r in ranges])
        mixes = w.new_tensor(self._mixes)
        distance = (w - centre).abs().where(w > 0, 0.0)
        inside = torch.where(w > 0, (code == 0) & (low <= w) & (w <= high), w == code)
        known = inside.any(1)
        if not holds((known | (w[:, 0] > 0)).all(), "a polarisation has no range"):
            names = {code: name for name, code in RADAR.items()}
            lost = names[float(w[~known & (w[:, 0] < 0)][0, 0])]
            allowed = ", ".join(r.polarization for r in ranges if r.polarization) or "none"
            raise ValueError(f"polarisation {lost} has no range; those of radar are {allowed}")
        inf = math.inf
        within = mixes[distance.where(inside, inf).argmin(1)]
        # Beside all ranges: the nearest projection on each side, each weighing as far as the other one is off.
        own = w.new_tensor([not r.mixes and r.polarization is None for r in ranges], dtype=torch.bool)
        sides = [distance.where(own & side, inf).min(1) for side in (centre <= w, centre > w)]
        off = torch.stack([side.values for side in sides], dim=1)
        if not holds((known | off.isfinite().any(1)).all(), "there is no range of optical bands"):
            raise ValueError("there is no range of optical bands")
        near = 1 / off.clamp_min(1e-9)
        near = near / near.sum(1, keepdim=True)
        beside = near[:, :1] * mixes[sides[0].indices] + near[:, 1:] * mixes[sides[1].indices]
        return within.where(known[:, None], beside)

    def weights(self, wavelengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weight (bands, dim, patch, patch) and bias (bands, dim) of each band, ``scale`` included."""
        parts = [dict(embed.named_parameters()) for embed in self.embeds]
        weight, bias = (torch.stack([part[name] for part in parts]) for name in ("weight", "bias"))
        routes = self.scale * self.routes(wavelengths).to(weight)
        with without_autocast(weight.device):
            return (routes @ weight.flatten(1)).reshape(-1, self.dim, self.patch, self.patch), routes @ bias

    def train(self, mode: bool = True) -> "SpectralRangeEmbed":
        self._cache.clear()
        super().train(mode)
        return self

    def forward(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, band_mask: Tensor | None = None) -> Tokens:
        check_bands(wavelengths, x.shape[1])
        check_size("SpectralRangeEmbed", x, self.patch)
        weight, bias = self._cache.get(self, wavelengths, self.weights)
        return Tokens(mean_bands(x, weight, bias, band_mask)[:, None], None, pitch_of(gsd, self.patch, x))


def _weights(distances: Sequence[float], *, farther: bool) -> list[float]:
    """Return weights of sum 1 which fall, or grow, with distance."""
    if farther and any(distances):
        sizes = list(distances)
    else:
        sizes = [float(d == 0) for d in distances] if 0 in distances else [1 / d for d in distances]
    return [size / sum(sizes) for size in sizes]
