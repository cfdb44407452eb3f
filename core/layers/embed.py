"""From images to tokens."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .conv import CONVS
from .linear import Linear
from .norm import NormKind, make_norm


class PatchEmbed(nn.Module):
    """One token for each patch: (batch, channels, *size) to (batch, *size / patch, dim), for one to three axes.

    Source: Dosovitskiy et al. 2021, section 3.1; the projection is written as a convolution whose stride is its kernel.
    """

    def __init__(self, channels: int, dim: int, *, patch: tuple[int, ...], bias: bool = True) -> None:
        super().__init__()
        if len(patch) not in CONVS:
            raise ValueError(f"PatchEmbed: patch {tuple(patch)} has {len(patch)} axes, expected 1 to 3")
        self.patch = tuple(patch)
        self.proj = CONVS[len(patch)](channels, dim, patch, stride=patch, bias=bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[2:])
        if len(size) != len(self.patch) or any(n % p for n, p in zip(size, self.patch, strict=True)):
            raise ValueError(f"PatchEmbed: size {size} is not a multiple of the patch {self.patch}")
        y: Tensor = self.proj(x)
        return y.movedim(1, -1)


class SpectralEmbed(nn.Module):
    """One token for each pixel from the spectra around it: (batch, bands, height, width) to (batch, height, width, dim).

    A stack of 3-D convolutions runs over (band, row, column); what is left of the spectral axis is joined with the channels,
    projected and normed. Only the spectral axis is strided. Each convolution is followed by a norm over the channels of every
    single position and GELU: no statistic is taken over space, so that a tile gives what the whole scene gives.

    At the image's border the outermost pixel (and, on the spectral axis, the outermost band) is repeated. With zeros instead,
    the border would look like a dark frame to the network, which it then learns as if it were a land cover. Within
    ``radius`` pixels of a tile's edge the repeated pixels differ from the scene's: give tiles at least that halo.

    Args:
        bands: spectral bands of the input.
        dim: channels of the tokens.
        channels: of each convolution.
        kernels: spectral kernel of each convolution, in bands, odd.
        strides: spectral stride of each convolution.
        spatial: spatial kernel of each convolution, in pixels, odd; 1 looks at one pixel alone.
        norm: kind of the norms.

    Raises:
        ValueError: if the lists differ in length or a kernel is even.
    """

    def __init__(
        self,
        bands: int,
        dim: int,
        *,
        channels: Sequence[int] = (8, 16),
        kernels: Sequence[int] = (7, 5),
        strides: Sequence[int] = (4, 2),
        spatial: Sequence[int] = (3, 3),
        norm: NormKind = "layer",
    ) -> None:
        super().__init__()
        if not len(channels) == len(kernels) == len(strides) == len(spatial) > 0:
            lengths = [len(channels), len(kernels), len(strides), len(spatial)]
            raise ValueError(f"SpectralEmbed: channels, kernels, strides and spatial have lengths {lengths}, expected equal ones")
        if any(k % 2 == 0 for k in (*kernels, *spatial)):
            raise ValueError(f"SpectralEmbed: kernels {list(kernels)} and spatial {list(spatial)} must be odd")
        self.bands = bands
        self.radius = sum(k // 2 for k in spatial)
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        self._pads: list[tuple[int, ...]] = []
        depth, before = bands, 1
        for width, k, stride, s in zip(channels, kernels, strides, spatial, strict=True):
            self.convs.append(nn.Conv3d(before, width, (k, s, s), stride=(stride, 1, 1)))
            self.norms.append(make_norm(norm, width))
            self._pads.append((s // 2, s // 2, s // 2, s // 2, k // 2, k // 2))
            depth, before = math.ceil(depth / stride), width
        self.proj = Linear(depth * before, dim)
        self.norm = make_norm(norm, dim)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.bands:
            raise ValueError(
                f"SpectralEmbed: input has shape {tuple(x.shape)}, expected (batch, {self.bands} bands, height, width)"
            )
        x = x[:, None]
        for conv, norm, pad in zip(self.convs, self.norms, self._pads, strict=True):
            x = F.pad(x, pad, mode="replicate")
            x = _conv_one_channel(x, conv) if x.shape[1] == 1 else conv(x)
            x = F.gelu(norm(x.movedim(1, -1))).movedim(-1, 1)
        y: Tensor = self.norm(self.proj(x.permute(0, 3, 4, 2, 1).flatten(3)))
        return y


def _conv_one_channel(x: Tensor, conv: nn.Module) -> Tensor:
    """Apply a 3-D convolution to (batch, 1, depth, height, width) as a 2-D one whose channels are the bands under its kernel.

    PyTorch has no fast 3-D convolution for a single channel on the CPU: this way it takes a sixth of the time. The result is
    channels-last in memory, as the norm and the next convolution want it.
    """
    assert isinstance(conv, nn.Conv3d)
    bands = x[:, 0].unfold(1, conv.kernel_size[0], conv.stride[0])
    slices = bands.movedim(-1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    y = F.conv2d(slices, conv.weight[:, 0], conv.bias)
    return torch.unflatten(y, 0, bands.shape[:2]).movedim(2, 1)
