"""From what an encoder saw to features of all tokens, and from these to pixels of any bands."""

from dataclasses import replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....core.backbones.token_encoder import Encoded
from ....core.blocks.metaformer import mlp_block
from ....core.layers.global_attention import GlobalAttention
from ....core.layers.linear import Linear
from ....core.layers.tokenizers import RADAR, Tokens
from ....core.layers.tokenizers.wavelength import wavelength_features

Prefix = Literal["encoded", "placed", "own"]


class Decoder(nn.Module):
    """A learned token in the place of each hidden one, positions, blocks over all tokens, norm (He et al. 2022, section 3).

    Args:
        encoder_dim: channels of the encoder.
        dim: channels here.
        depth: blocks.
        heads: of attention.
        position: called with ``Tokens``; what it returns is added, as in an encoder.
        mlp_ratio: hidden channels of the MLP for each channel.
        qkv_bias: whether the projections to query, key and value have a bias.
        prefix: what goes in front: "encoded": the encoder's prefix, projected; "placed": the same plus a learned vector; "own":
            that vector alone.
    """

    def __init__(
        self,
        encoder_dim: int,
        dim: int,
        *,
        depth: int,
        heads: int,
        position: nn.Module,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        prefix: Prefix = "encoded",
    ) -> None:
        super().__init__()
        if prefix not in get_args(Prefix):
            raise ValueError(f"Decoder: prefix is {prefix!r}, allowed are {', '.join(map(repr, get_args(Prefix)))}")
        self.encoded_prefix = prefix != "own"
        self.prefix = None if prefix == "encoded" else nn.Parameter(torch.zeros(dim))
        self.project = Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.empty(dim))
        nn.init.normal_(self.mask_token, std=0.02)
        self.position = position
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(
            mlp_block(dim, GlobalAttention(dim, heads=heads, qkv_bias=qkv_bias), mlp_ratio=mlp_ratio, norm=norm)
            for _ in range(depth)
        )
        self.norm = norm(dim)
        self.apply(_initialize)

    def forward(self, encoded: Encoded, hidden: Tensor, tokens: Tokens) -> Encoded:
        """Fill in what is hidden.

        Args:
            encoded: of the encoder, (batch, spectral, rows, columns, encoder_dim) and a prefix.
            hidden: bool (batch, spectral, rows, columns), tokens that the encoder has not seen.
            tokens: that say where these stand; their values are not looked at.

        Returns:
            The same with ``dim`` channels.
        """
        x = self.project(encoded.tokens)
        x = torch.where(hidden[..., None], self.mask_token.to(x.dtype), x)
        x = x + self.position(replace(tokens, x=x))
        shape, x = x.shape[1:4], x.flatten(1, 3)
        front = self.project(encoded.prefix).to(x.dtype) if self.encoded_prefix else x.new_zeros(len(x), 1, x.shape[2])
        front = front if self.prefix is None else front + self.prefix.to(x.dtype)
        prefix = front.shape[1]
        x = torch.cat([front, x], dim=1) if prefix else x
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return Encoded(x[:, prefix:].unflatten(1, shape), x[:, :prefix], encoded.present)


class WavelengthHead(nn.Module):
    """Pixels of any bands, by weights made from their wavelengths: the inverse of ``WavelengthEmbed``.

    Args:
        dim: channels of the tokens.
        patch: pixels on a side of a token.
        hidden: units of the perceptron that makes the weights.
    """

    def __init__(self, dim: int, *, patch: int, hidden: int = 64) -> None:
        super().__init__()
        self.dim, self.patch = dim, patch
        features = wavelength_features(torch.tensor(list(RADAR.values()))).shape[1]
        self.fc1 = Linear(features, hidden)
        self.fc2 = Linear(hidden, patch * patch * (dim + 1))
        self.apply(_initialize)
        # Weights that come out are of the size of a linear layer's: predictions start small.
        nn.init.normal_(self.fc2.weight, std=(dim * hidden) ** -0.5)

    def forward(self, x: Tensor, wavelengths: Tensor) -> Tensor:
        """Predict an image.

        Args:
            x: (batch, rows, columns, dim).
            wavelengths: (bands,), nm or a code of ``RADAR``.

        Returns:
            (batch, bands, rows * patch, columns * patch).
        """
        features = wavelength_features(wavelengths.to(x.device, self.fc1.weight.dtype))
        made = self.fc2(F.gelu(self.fc1(features))).reshape(len(wavelengths), -1, self.dim + 1)
        return predict(x, made[..., :-1], made[..., -1])


class RangeHead(nn.Module):
    """Pixels by a linear layer for each range of wavelengths (Sumbul et al. 2025, SMARTIES, section 3.3).

    A band that is a mixture of ranges has the mixture of their weights.

    Args:
        dim: channels of the tokens.
        patch: pixels on a side of a token.
        ranges: how many there are.
    """

    def __init__(self, dim: int, *, patch: int, ranges: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Linear(dim, patch * patch) for _ in range(ranges))
        self.apply(_initialize)

    def forward(self, x: Tensor, routes: Tensor) -> Tensor:
        """Predict an image: (batch, rows, columns, dim) to (batch, bands, rows * patch, columns * patch).

        Args:
            x: tokens.
            routes: (bands, ranges), the share of each range in each band, such as ``SpectralRangeEmbed.routes`` returns.
        """
        parts = [dict(head.named_parameters()) for head in self.heads]
        weight, bias = (torch.stack([part[name] for part in parts]) for name in ("weight", "bias"))
        routes = routes.to(weight)
        mixed = (routes @ weight.flatten(1)).reshape(len(routes), *weight.shape[1:])
        return predict(x, mixed, routes @ bias)


def predict(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Make pixels of tokens, all bands in one product.

    Args:
        x: (batch, rows, columns, dim).
        weight: (bands, patch * patch, dim).
        bias: (bands, patch * patch).

    Returns:
        (batch, bands, rows * patch, columns * patch).
    """
    bands, pixels = bias.shape
    patch = int(pixels**0.5)
    y = F.linear(x, weight.flatten(0, 1).to(x.dtype), bias.flatten().to(x.dtype))
    cut: Tensor = y.reshape(*x.shape[:3], bands, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return cut.reshape(len(x), bands, x.shape[1] * patch, x.shape[2] * patch)


def _initialize(module: nn.Module) -> None:
    """As in He et al. 2022, appendix A.1."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
