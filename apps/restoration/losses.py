"""What a restored image is compared with its target by."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
# Ends of the blocks of VGG19's features, before the ReLU, and their weights: Wang et al. 2018 (ESRGAN, arXiv 1809.00219,
# section 3.2) and the option files of Real-ESRGAN.
_VGG_LAYERS = {2: 0.1, 7: 0.1, 16: 1.0, 25: 1.0, 34: 1.0}


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """A sum of losses.

    Args:
        pixels: "l1"; "charbonnier": sqrt(d^2 + 1e-6) (Lai et al. 2018, arXiv 1710.01992); "psnr": minus the PSNR in dB of each
            image.
        pixel_weight: of that.
        frequency_weight: of the L1 distance of the Fourier transforms (Cho et al. 2021, arXiv 2108.05054, section 3.4).
        perceptual_weight: of the distance of VGG19's features.
        perceptual_weights: a file with torchvision's VGG19 weights. Without it torchvision fetches them.
    """

    pixels: Literal["l1", "charbonnier", "psnr"] = "l1"
    pixel_weight: float = 1.0
    frequency_weight: float = 0.0
    perceptual_weight: float = 0.0
    perceptual_weights: Path | None = None

    def __post_init__(self) -> None:
        """Refuse negative weights, and none at all."""
        weights = self.pixel_weight, self.frequency_weight, self.perceptual_weight
        if min(weights) < 0 or not any(weights):
            raise ValueError(f"the losses' weights are {weights}: allowed are positive numbers and 0, but not all 0")


class Loss:
    """A sum of losses between images (B, C, H, W) in 0..1. No module: what it holds is neither averaged nor saved with a network.

    Raises:
        FileNotFoundError: if there is no file of weights.
        ValueError: if it does not hold VGG19.
    """

    def __init__(self, config: LossConfig) -> None:
        self.config = config
        self._features = VGGFeatures(config.perceptual_weights) if config.perceptual_weight else None

    def __call__(self, restored_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
        """Return the sum, of no axes; in float32."""
        restored_BCHW, target_BCHW = restored_BCHW.float(), target_BCHW.float()
        total = restored_BCHW.new_zeros(())
        if self.config.pixel_weight:
            total = total + self.config.pixel_weight * _PIXELS[self.config.pixels](restored_BCHW, target_BCHW)
        if self.config.frequency_weight:
            total = total + self.config.frequency_weight * frequency_loss(restored_BCHW, target_BCHW)
        if self._features is not None:
            self._features.to(restored_BCHW.device)
            total = total + self.config.perceptual_weight * self._features(restored_BCHW, target_BCHW)
        return total


def charbonnier(a: Tensor, b: Tensor, *, epsilon: float = 1e-3) -> Tensor:
    """Return the mean of sqrt((a - b)^2 + epsilon^2): L1, but smooth at 0."""
    return ((a - b).square() + epsilon**2).sqrt().mean()


def negative_psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return minus the mean over images (B, ...) of the PSNR in dB of values in 0..1, at most 80 dB each."""
    return 10 * ((a - b).square().flatten(1).mean(1) + 1e-8).log10().mean()


def frequency_loss(a_BCHW: Tensor, b_BCHW: Tensor) -> Tensor:
    """Return the mean absolute difference of the real and imaginary parts of the images' Fourier transforms."""
    difference = torch.fft.rfft2(a_BCHW - b_BCHW)
    return torch.view_as_real(difference).abs().mean()


_PIXELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": F.l1_loss, "charbonnier": charbonnier, "psnr": negative_psnr}


class VGGFeatures(nn.Module):
    """The distance of two images in the features of a VGG19 that was trained on ImageNet; it is frozen.

    Args:
        file: torchvision's weights, as torch.save or safetensors; None lets torchvision fetch them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, file: Path | None) -> None:
        super().__init__()
        from torchvision.models import VGG19_Weights, vgg19

        from ...core.weights.checkpoint import read_checkpoint
        from ...core.weights.load import load_into

        # The whole network has 140 million parameters, and its features need a seventh of them.
        with torch.device("meta"):
            features = vgg19(weights=None).features[: max(_VGG_LAYERS) + 1]
        features = features.to_empty(device="cpu")
        state = (
            VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
            if file is None
            else read_checkpoint(file)[0]
        )
        load_into(features, {k.removeprefix("features."): v for k, v in state.items() if not k.startswith("classifier.")})
        self.features = features.eval().requires_grad_(False)
        for layer in self.features:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # the features before it are compared
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(_IMAGENET_STD)[:, None, None])

    def forward(self, restored_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
        """Compare RGB images; a single channel is taken for all three."""
        x = torch.cat([restored_BCHW, target_BCHW]).expand(-1, 3, -1, -1)
        x = (x - self.mean) / self.std
        total = x.new_zeros(())
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in _VGG_LAYERS:
                total = total + _VGG_LAYERS[number] * F.l1_loss(*x.chunk(2))
        return total
