"""LoLA-SpecViT, the published patch network: the class of the pixel in the middle of a patch.

Source: arXiv 2506.17759 and the weights' layout of github.com/FadiZidiDz/LoLA-SpecViT-Model at 664c45d, file improved_GCPE.py.
Written from facts about it. Not taken over from there: adapters whose B is drawn anew after the zero initialisation, a merge that
counts the residual twice, and a dropout and a scale factor of the adapters that are never used.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.blocks.metaformer import MetaFormerBlock
from ...core.layers.attention import WindowAttention
from ...core.layers.channel_attention import SqueezeExcite
from ...core.layers.lora import GatedLoRALinear, add_lora, fuse_lora
from ...core.layers.mlp import SwiGLU
from ...core.weights import Coverage, load_into, rename

ADAPTED = ("qkv", "proj", "fc1", "fc2")
PUBLISHED_NAMES: list[tuple[str, str | None]] = [
    (r"relative_position_index$", None),
    (r"relative_position_bias_table$", "bias_table"),
    (r"\bspectral_attention\.fc\.0\.", "spectral_attention.squeeze."),
    (r"\bspectral_attention\.fc\.2\.", "spectral_attention.excite."),
    (r"\bconv\.2\.fc\.0\.", "conv.2.squeeze."),
    (r"\bconv\.2\.fc\.2\.", "conv.2.excite."),
    (r"\battn\.", "mixer."),
    (r"\bmlp\.0\.", "channel_mixer.fc1."),
    (r"\bmlp\.1\.", "channel_mixer.glu."),
    (r"\bmlp\.3\.", "channel_mixer.fc2."),
    (r"\blinear\.", "base."),
    (r"\blora_(down|up|gate|residual)\.weight$", r"\1"),
]


@dataclass(frozen=True, kw_only=True)
class LolaSpecViTConfig:
    """Settings of ``LolaSpecViT``; the defaults are the published ones."""

    bands: int = 15  # principal components of the scene
    classes: int = 6
    patch: int = 15  # pixels on a side of the patch
    dim: int = 96  # channels of the first level; each level doubles them
    depths: tuple[int, ...] = (3, 4, 19)
    heads: tuple[int, ...] = (4, 8, 16)
    window: int = 7
    mlp_ratio: float = 4.0
    dropout: float = 0.1  # of the tokens after the embedding
    band_dropout: float = 0.1  # of whole channels at one depth after the convolutions
    drop_path: float = 0.2  # of the last block; grows linearly from 0
    rank: int = 16
    alpha: float = 32.0
    adapters: Literal["published", "low_rank"] = "published"  # published: with gate and residual; low_rank: without
    train: Literal["adapters", "all"] = "adapters"  # adapters: all else keeps its initial values; all: but their bases


class LolaSpecViT(nn.Module):
    """Patches (batch, bands, patch, patch) to logits (batch, classes).

    Three 3-D convolutions, their mean over depth, a strided 2-D convolution, then levels of window attention and gated MLP, each
    level at half the resolution and twice the channels of the one before. Windows larger than the image see zero tokens.

    Raises:
        ValueError: if depths and heads differ in length.
    """

    def __init__(self, config: LolaSpecViTConfig) -> None:
        super().__init__()
        if len(config.depths) != len(config.heads):
            raise ValueError(f"LolaSpecViT: {len(config.depths)} depths and {len(config.heads)} heads, expected as many")
        self.config = config
        channels = (1, 32, 64, config.dim)
        self.spectral_conv = nn.Sequential()
        for before, after, depth in zip(channels[:-1], channels[1:], (7, 5, 3), strict=True):
            self.spectral_conv.append(nn.Conv3d(before, after, (depth, 3, 3), padding=(depth // 2, 1, 1)))
            self.spectral_conv.extend([nn.BatchNorm3d(after), nn.SiLU()])
        self.spectral_attention = SqueezeExcite(config.dim)
        patch_conv = nn.Conv2d(config.dim, config.dim, 4, stride=2, padding=1)
        self.patch_embed = nn.Sequential(patch_conv, nn.BatchNorm2d(config.dim), nn.SiLU())
        tokens = (config.patch - 2) // 2 + 1
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, tokens, config.dim))
        self.dropout = nn.Dropout(config.dropout)

        drop_path = iter(torch.linspace(0, config.drop_path, sum(config.depths), device="cpu").tolist())
        self.levels = nn.ModuleList()
        for level, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True)):
            dim = config.dim << level
            rates = itertools.islice(drop_path, depth)
            blocks = [lola_block(dim, heads, window=config.window, mlp_ratio=config.mlp_ratio, drop_path=r) for r in rates]
            last = level == len(config.depths) - 1
            self.levels.append(nn.Sequential(*blocks, *([] if last else [Downsample(dim)])))
        self.norm = nn.LayerNorm(dim)
        head = nn.Linear(dim, config.classes)
        self.head = GatedLoRALinear(head, rank=config.rank, alpha=config.alpha, gate=False, residual=False)
        self._initialise()
        variant: Literal["gated", "low_rank"] = "gated" if config.adapters == "published" else "low_rank"
        keep = ("*",) if config.train == "all" else ("head.down", "head.up")
        add_lora(self, rank=config.rank, alpha=config.alpha, targets=ADAPTED, variant=variant, keep=keep)

    def forward(self, x: Tensor) -> Tensor:
        expected = (self.config.bands, self.config.patch, self.config.patch)
        if x.shape[1:] != expected:
            raise ValueError(f"LolaSpecViT: input has shape {tuple(x.shape)}, expected (batch, {', '.join(map(str, expected))})")
        x = self.spectral_conv(x[:, None])
        x = F.dropout2d(x.flatten(1, 2), self.config.band_dropout, self.training).view_as(x)
        x = self.patch_embed(self.spectral_attention(x).mean(2))
        x = self.dropout(x.permute(0, 2, 3, 1) + self.pos_embed)
        for level in self.levels:
            x = level(x)
        logits: Tensor = self.head(self.norm(x).mean((1, 2)))
        return logits

    def fuse(self) -> "LolaSpecViT":
        """Fold the adapters for inference, in place: the same results with fewer products. It cannot be trained afterwards."""
        fuse_lora(self.eval().requires_grad_(False))
        return self

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)


def lola_block(dim: int, heads: int, *, window: int, mlp_ratio: float, drop_path: float = 0.0) -> MetaFormerBlock:
    """Return a block of window attention, which sees zero tokens outside the image, and gated MLP, without adapters."""
    attention = WindowAttention(dim, heads=heads, window=(window, window), border="zeros")
    return MetaFormerBlock(dim, attention, channel_mixer=GatedMLP(dim, int(mlp_ratio * dim)), drop_path=drop_path)


class GatedMLP(nn.Module):
    """Widen, SwiGLU at the full width, narrow: (..., dim) to (..., dim)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1: nn.Module = nn.Linear(dim, hidden)
        self.glu = SwiGLU(hidden, hidden)
        self.fc2: nn.Module = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(self.glu(self.fc1(x)))
        return y


class Downsample(nn.Module):
    """Halve the resolution and double the channels: (batch, height, width, dim) to (batch, height / 2, width / 2, 2 dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False),
            nn.SiLU(),
            SqueezeExcite(dim),
            nn.Conv2d(dim, 2 * dim, 1, bias=False),
        )
        self.norm = nn.BatchNorm2d(2 * dim)
        self.reduction = nn.Conv2d(2 * dim, 2 * dim, 3, stride=2, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.reduction(self.norm(self.conv(x.permute(0, 3, 1, 2))))
        return y.permute(0, 2, 3, 1)


def load_published(model: nn.Module, state: Mapping[str, Tensor]) -> Coverage:
    """Load a state dict in the published layout into a ``LolaSpecViT`` (or a part of one) and report what was loaded.

    Raises:
        ValueError: if a tensor is missing, unexpected or of another shape.
    """
    return load_into(model, rename(state, PUBLISHED_NAMES))
