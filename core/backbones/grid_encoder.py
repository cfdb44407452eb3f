"""An encoder of tokens from any sensor, by blocks that need whole images: windows, scans, convolutions."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..layers.reuse import add
from ..layers.tokenizers import Tokenizer, Tokens
from .token_encoder import Encoded, check_hidden


class GridEncoder(nn.Module):
    """Tokeniser, positions, blocks over tokens on their grid, norm.

    A hidden token is replaced by a learned one with the position of the hidden one (as in Xie et al. 2022, SimMIM, section 3.1).
    Bands that an image lacks are left out, by running images that have the same bands together.

    Args:
        tokenizer: images to tokens.
        position: as in ``TokenEncoder``.
        blocks: (batch, *size, dim) to the same shape.
        axes: of the blocks: 2 for rows and columns, of one spectral token; 3 for the spectrum, rows and columns.
    """

    def __init__(self, tokenizer: Tokenizer, position: nn.Module, blocks: Iterable[nn.Module], *, axes: int = 2) -> None:
        super().__init__()
        assert isinstance(tokenizer, nn.Module)
        if axes not in (2, 3):
            raise ValueError(f"GridEncoder: axes is {axes}, expected 2 or 3")
        self.dim, self.patch, self.axes = tokenizer.dim, tokenizer.patch, axes
        self.tokenizer: Tokenizer = tokenizer
        self.position = position
        self.blocks = nn.ModuleList(blocks)
        self.norm: nn.Module = nn.LayerNorm(self.dim, eps=1e-6)
        self.mask_token = nn.Parameter(torch.empty(self.dim))
        nn.init.normal_(self.mask_token, std=0.02)

    def embed(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, band_mask: Tensor | None = None) -> Tokens:
        tokens = self.tokenizer(x, wavelengths, gsd, band_mask)
        return replace(tokens, x=add(tokens.x, self.position(tokens)))

    def encode(self, tokens: Tokens, hidden: Tensor | None = None) -> Encoded:
        x = tokens.x
        if self.axes == 2 and x.shape[1] != 1:
            raise ValueError(f"GridEncoder: got {x.shape[1]} spectral tokens, expected one for blocks of 2 axes")
        check_hidden(tokens, hidden)
        if hidden is not None:
            x = torch.where(hidden[..., None], (self.mask_token + self.position(tokens)).to(x.dtype), x)
        if tokens.present is None or bool(tokens.present.all()):
            y = self._run(x)
        else:
            y = torch.zeros_like(x)
            bands, which = torch.unique(tokens.present, dim=0, return_inverse=True)
            for index, there in enumerate(bands):
                images = (which == index).nonzero()[:, 0]
                if bool(there.any()):
                    y[images[:, None], there.nonzero()[:, 0]] = self._run(x[images][:, there]).to(y.dtype)
        return Encoded(y, x.new_zeros(x.shape[0], 0, self.dim), tokens.present)

    def _run(self, x: Tensor) -> Tensor:
        x = x.flatten(1, 2) if self.axes == 2 else x
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x[:, None] if self.axes == 2 else x

    def forward(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, band_mask: Tensor | None = None) -> Encoded:
        return self.encode(self.embed(x, wavelengths, gsd, band_mask))
