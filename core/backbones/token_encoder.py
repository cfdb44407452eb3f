"""An encoder of tokens from any sensor."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from ..layers.tokenizers import Tokenizer, Tokens


@dataclass(frozen=True, eq=False)
class Encoded:
    """What an encoder gives.

    Args:
        tokens: (batch, spectral, rows, columns, dim); those that were hidden hold nothing of use.
        prefix: (batch, prefix, dim), class tokens and the like; there may be none.
        present: as in ``Tokens``.
    """

    tokens: Tensor
    prefix: Tensor
    present: Tensor | None = None

    def places(self) -> Tensor:
        """Return the mean over the spectral tokens that are there: (batch, rows, columns, dim)."""
        if self.present is None:
            return self.tokens.mean(1)
        there = self.present.to(self.tokens.dtype)
        share = there / there.sum(1, keepdim=True).clamp_min(1)
        return torch.einsum("bshwd,bs->bhwd", self.tokens, share)


class Encoder(Protocol):
    """What pretraining, embedding and adaptation ask of an encoder, a module."""

    dim: int
    patch: int

    def embed(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, band_mask: Tensor | None = None) -> Tokens:
        """Return tokens with their positions: see ``Tokenizer``."""
        ...

    def encode(self, tokens: Tokens, hidden: Tensor | None = None) -> Encoded:
        """Run the blocks.

        Args:
            tokens: with positions.
            hidden: bool (batch, spectral, rows, columns), True for tokens that are not seen; as many in each image.
        """
        ...

    def __call__(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, band_mask: Tensor | None = None) -> Encoded:
        """Embed and encode."""
        ...


class TokenEncoder(nn.Module):
    """Tokeniser, positions, blocks over all tokens as one sequence, norm: a vision transformer for any sensor.

    Hidden tokens are left out of the sequence (He et al. 2022, MAE, section 3).

    Args:
        tokenizer: images to tokens.
        position: called with ``Tokens``; what it returns, (batch or 1, spectral or 1, rows, columns, dim), is added.
        blocks: (batch, length, dim) to the same shape.
        prefix: learned tokens in front, which have no place.
    """

    def __init__(self, tokenizer: Tokenizer, position: nn.Module, blocks: Iterable[nn.Module], *, prefix: int = 1) -> None:
        super().__init__()
        assert isinstance(tokenizer, nn.Module)
        self.dim, self.patch = tokenizer.dim, tokenizer.patch
        self.tokenizer: Tokenizer = tokenizer
        self.position = position
        self.blocks = nn.ModuleList(blocks)
        self.norm: nn.Module = nn.LayerNorm(self.dim, eps=1e-6)
        self.prefix = nn.Parameter(torch.empty(prefix, self.dim))
        nn.init.normal_(self.prefix, std=0.02)

    def embed(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, band_mask: Tensor | None = None) -> Tokens:
        tokens = self.tokenizer(x, wavelengths, gsd, band_mask)
        return replace(tokens, x=tokens.x + self.position(tokens))

    def encode(self, tokens: Tokens, hidden: Tensor | None = None) -> Encoded:
        x = tokens.x.flatten(1, 3)
        kept = None
        if hidden is not None:
            flat = hidden.flatten(1)
            kept = flat.to(torch.uint8).argsort(dim=1, stable=True)[:, : int((~flat[0]).sum())]
            x = x.gather(1, kept[..., None].expand(-1, -1, self.dim))
        prefix = self.prefix.expand(len(x), -1, -1)
        x = torch.cat([prefix.to(x.dtype), x], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        prefix, x = x[:, : prefix.shape[1]], x[:, prefix.shape[1] :]
        if kept is not None:
            whole = x.new_zeros(len(x), flat.shape[1], self.dim)
            x = whole.scatter(1, kept[..., None].expand(-1, -1, self.dim), x)
        return Encoded(x.unflatten(1, tokens.x.shape[1:4]), prefix, tokens.present)

    def forward(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, band_mask: Tensor | None = None) -> Encoded:
        return self.encode(self.embed(x, wavelengths, gsd, band_mask))
