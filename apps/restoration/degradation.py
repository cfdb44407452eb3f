"""Sources made of targets while a network is trained: shrinking, blur, noise, JPEG."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .resize import matlab_resize, matlab_resize_tensor

_MARGIN = 16  # source pixels on each side: two blocks of JPEG, and more than a blur kernel's half
_BLUR_SIZE = 21


@dataclass(frozen=True, kw_only=True)
class DegradationConfig:
    """What is done to a target, in this order; by default MATLAB's bicubic shrinking alone.

    Args:
        blur: share of images that are blurred by a Gaussian kernel, before they are shrunk.
        blur_sigma: range of its standard deviations in target pixels; the two axes of a kernel have their own, at any angle.
        noise: range of the standard deviation of Gaussian noise, of values in 0..255; (25, 25) is that level for all.
        poisson: range of the scale of Poisson noise: 1 is the noise of 255 counts in white.
        jpeg: range of the quality of JPEG, 1..100.
        rounds: how often blur, noise and JPEG follow each other; 2 as in Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833).
        quantize: round sources to 8 bits, as they would be in a file.
    """

    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.2, 3.0)
    noise: tuple[float, float] | None = None
    poisson: tuple[float, float] | None = None
    jpeg: tuple[int, int] | None = None
    rounds: int = 1
    quantize: bool = False

    def __post_init__(self) -> None:
        """Refuse ranges that are none."""
        for name in ("blur_sigma", "noise", "poisson", "jpeg"):
            given: tuple[float, float] | None = getattr(self, name)
            if given is not None and not 0 <= given[0] <= given[1]:
                raise ValueError(f"{name} is {given}: expected a range of two numbers from 0 on, the lower first")
        if self.jpeg is not None and not 1 <= self.jpeg[0] <= self.jpeg[1] <= 100:
            raise ValueError(f"jpeg is {self.jpeg}: expected a range in 1..100")
        if not 0 <= self.blur <= 1 or self.rounds < 1 or self.blur_sigma[0] == 0:
            raise ValueError(
                f"blur {self.blur}, blur_sigma {self.blur_sigma}, rounds {self.rounds}: allowed are a blur in 0..1, sigmas "
                "above 0 and rounds from 1 on"
            )


class Degradation:
    """Makes sources of targets: of whole images where nothing is random, else of a batch of crops with a margin."""

    def __init__(self, config: DegradationConfig) -> None:
        self.config = config
        self.random = bool(config.blur or config.noise or config.poisson or config.jpeg)
        self.margin = _MARGIN if self.random else 0

    def whole(self, scale: int) -> Callable[[NDArray[Any]], NDArray[Any]] | None:
        """Return what makes the sources of whole integer images once and for all; None if they differ from step to step.

        Raises:
            ValueError: if sources would be the targets.
        """
        if self.random:
            return None
        if scale == 1:
            raise ValueError("a network of scale 1 without source images needs a degradation: blur, noise, poisson or jpeg")
        return lambda target_HWC: matlab_resize(target_HWC, 1 / scale)

    def for_validation(self, scale: int, seed: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
        """Return what makes the source of a whole integer image, the same each time: rounded, as in a file."""
        fixed = self.whole(scale)

        def degrade(target_HWC: NDArray[Any]) -> NDArray[Any]:
            peak = np.iinfo(target_HWC.dtype).max
            x_BCHW = torch.from_numpy(np.moveaxis(target_HWC, -1, 0).astype(np.float32))[None] / peak
            generator = torch.Generator().manual_seed(seed)
            y_BCHW = self._degrade(x_BCHW, scale, generator)
            return np.ascontiguousarray(
                np.moveaxis((y_BCHW[0].clamp(0, 1) * peak).round().numpy(), 0, -1).astype(target_HWC.dtype)
            )

        return fixed or degrade

    def crops(self, targets_BCHW: Tensor, scale: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Degrade target crops that have ``margin`` source pixels more on each side; return sources and targets of ``size``.

        Args:
            targets_BCHW: in 0..1, of scale * (size + 2 * margin) pixels on each side.
            scale: target pixels for each source pixel.
            size: of source crops.
            generator: of the device of the crops, or of the CPU.
        """
        sources_BCHW = self._degrade(targets_BCHW, scale, generator)
        # Blocks of JPEG start anywhere in a crop: a network must not learn from its edges where they do.
        y, x = (self.margin - int(v) for v in torch.randint(8, (2,), generator=generator, device=generator.device))
        inner = targets_BCHW[..., y * scale : (y + size) * scale, x * scale : (x + size) * scale]
        return sources_BCHW[..., y : y + size, x : x + size].contiguous(), inner.contiguous()

    def _degrade(self, x_BCHW: Tensor, scale: int, generator: torch.Generator) -> Tensor:
        config = self.config
        for round_ in range(config.rounds):
            if config.blur:
                x_BCHW = _blur(x_BCHW, config.blur, config.blur_sigma, generator)
            if round_ == 0 and scale > 1:
                x_BCHW = matlab_resize_tensor(x_BCHW, 1 / scale)
            if config.poisson:
                x_BCHW = _poisson(x_BCHW, config.poisson, generator)
            if config.noise:
                sigma = _uniform(config.noise, x_BCHW, generator) / 255
                x_BCHW = x_BCHW + sigma * _normal(x_BCHW, generator)
            if config.jpeg:
                x_BCHW = _jpeg(x_BCHW, config.jpeg, generator)
        return (x_BCHW.clamp(0, 1) * 255).round() / 255 if config.quantize else x_BCHW


def _uniform(bounds: tuple[float, float], like_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a number for each image: (B, 1, 1, 1)."""
    u = torch.rand(len(like_BCHW), 1, 1, 1, generator=generator, device=generator.device).to(like_BCHW)
    return bounds[0] + (bounds[1] - bounds[0]) * u


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=generator.device).to(like)


def _blur(x_BCHW: Tensor, share: float, sigmas: tuple[float, float], generator: torch.Generator) -> Tensor:
    from kornia.filters import filter2d

    a, b = (_uniform(sigmas, x_BCHW, generator)[..., 0] for _ in range(2))
    angle = _uniform((0.0, math.pi), x_BCHW, generator)[..., 0]
    offset = torch.arange(_BLUR_SIZE, device=x_BCHW.device, dtype=x_BCHW.dtype) - _BLUR_SIZE // 2
    u = offset * angle.cos() + offset[:, None] * angle.sin()
    v = offset[:, None] * angle.cos() - offset * angle.sin()
    kernel_BKK = torch.exp(-0.5 * ((u / a).square() + (v / b).square()))
    kernel_BKK = kernel_BKK / kernel_BKK.sum((1, 2), keepdim=True)
    blurred_BCHW = filter2d(x_BCHW, kernel_BKK, border_type="replicate")
    return torch.where(_uniform((0.0, 1.0), x_BCHW, generator) < share, blurred_BCHW, x_BCHW)


def _poisson(x_BCHW: Tensor, scales: tuple[float, float], generator: torch.Generator) -> Tensor:
    counts_BCHW = (x_BCHW.clamp(0, 1) * 255).to(generator.device)
    noise_BCHW = (torch.poisson(counts_BCHW, generator=generator) - counts_BCHW).to(x_BCHW) / 255
    return x_BCHW + _uniform(scales, x_BCHW, generator) * noise_BCHW


def _jpeg(x_BCHW: Tensor, quality: tuple[int, int], generator: torch.Generator) -> Tensor:
    from kornia.enhance import jpeg_codec_differentiable

    rgb_BCHW = x_BCHW.clamp(0, 1).expand(-1, 3, -1, -1)
    # A colour's chroma is halved and then cut in blocks of 8: whole 16 x 16 are needed.
    bottom, right = (-size % 16 for size in x_BCHW.shape[2:])
    filled_BCHW = torch.nn.functional.pad(rgb_BCHW, (0, right, 0, bottom), mode="replicate")
    q_B = _uniform((float(quality[0]), float(quality[1])), x_BCHW, generator).flatten()
    coded_BCHW = jpeg_codec_differentiable(filled_BCHW, q_B)[..., : x_BCHW.shape[2], : x_BCHW.shape[3]]
    return coded_BCHW if x_BCHW.shape[1] == 3 else coded_BCHW.mean(1, keepdim=True)
