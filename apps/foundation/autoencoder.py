"""Masked auto-encoding of images from any sensor."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...core.backbones.token_encoder import Encoder
from ...core.blocks.metaformer import mlp_block
from ...core.layers.global_attention import GlobalAttention
from ...core.layers.linear import Linear
from ...core.layers.metre_position import MetrePosition
from ...core.layers.tokenizers import Tokens, WavelengthEmbed
from ...core.sensors.batch import SensorBatch


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Settings of masking and decoder.

    Args:
        space: share of the places that is hidden.
        dim, depth, heads: of the decoder.
    """

    space: float = 0.75
    dim: int = 128
    depth: int = 2
    heads: int = 4


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What an auto-encoder makes of a batch.

    Args:
        loss: a number, to be minimised.
        parts: the terms of the loss, by name.
        images: for each stream, (batch, bands, height, width), in the normalised values.
        hidden: for each stream, bool (batch, spectral, rows, columns).
    """

    loss: Tensor
    parts: dict[str, Tensor]
    images: tuple[Tensor, ...]
    hidden: tuple[Tensor, ...]


class MaskedAutoencoder(nn.Module):
    """Hide tokens, encode the others, predict the hidden pixels (He et al. 2022, section 3).

    Args:
        encoder: what is pretrained.
        config: of masking and decoder.
    """

    def __init__(self, encoder: Encoder, config: AutoencoderConfig) -> None:
        super().__init__()
        assert isinstance(encoder, nn.Module)
        self.encoder: Encoder = encoder
        self.config = config
        self.project = Linear(encoder.dim, config.dim)
        self.mask_token = nn.Parameter(torch.zeros(config.dim))
        self.position = MetrePosition(config.dim)
        self.blocks = nn.ModuleList(
            mlp_block(config.dim, GlobalAttention(config.dim, heads=config.heads)) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.head = WavelengthEmbed(config.dim, patch=encoder.patch)

    def forward(self, batches: tuple[SensorBatch, ...], generator: torch.Generator) -> Reconstruction:
        """Hide, encode and predict.

        Args:
            batches: normalised images, of one sensor, or of several sensors of the same places.
            generator: of all that is random, on the CPU.
        """
        losses, images, masks = [], [], []
        for batch in batches:
            tokens = self.encoder.embed(batch.values, batch.wavelengths, batch.gsd, batch.valid.flatten(2).any(2))
            noise = torch.rand(tokens.x.shape[:4], generator=generator)
            count = round(self.config.space * noise[0].numel())
            rank = noise.flatten(1).argsort(1).argsort(1).reshape(noise.shape)
            hidden = (rank < count).to(tokens.x.device)
            encoded = self.encoder.encode(tokens, hidden)
            x = torch.where(hidden[..., None], self.mask_token.to(encoded.tokens.dtype), self.project(encoded.tokens))
            x = x + self.position(Tokens(x, None, tokens.pitch))
            shape = x.shape
            x = x.flatten(1, 3)
            for block in self.blocks:
                x = block(x)
            x = self.norm(x).reshape(shape).mean(1)
            weight, bias = self.head.weights(batch.wavelengths)
            y = torch.einsum("bhwd,cdij->bchiwj", x, weight) + torch.einsum("bhwd,cd->bchw", x, bias)[:, :, :, None, :, None]
            image = y.flatten(4, 5).flatten(2, 3)
            patch = self.encoder.patch
            target = hidden.any(1)[:, None].repeat_interleave(patch, 2).repeat_interleave(patch, 3) & batch.valid
            losses.append((image - batch.values).square().mul(target).sum() / target.sum().clamp_min(1))
            images.append(image)
            masks.append(hidden)
        loss = torch.stack(losses).mean()
        return Reconstruction(loss, {"pixels": loss.detach()}, tuple(images), tuple(masks))
