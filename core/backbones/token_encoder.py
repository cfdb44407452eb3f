"""An encoder of tokens from any sensor."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.reuse import add
from ..layers.tokenizers import Tokenizer, Tokens


@dataclass(frozen=True, eq=False)
class Encoded:
    """What an encoder gives.

    Args:
        tokens: (batch, spectral, rows, columns, dim); those that were hidden hold nothing of use, those of bands that an image
            lacks are 0.
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

    Hidden tokens are left out of the sequence (He et al. 2022, MAE, section 3), and so are those of bands that an image lacks.
    Where images of a batch then differ in length, the shorter ones are filled up with tokens that nobody looks at.

    Args:
        tokenizer: images to tokens.
        position: called with ``Tokens``; what it returns, (batch or 1, spectral or 1, rows, columns, dim), is added.
        blocks: (batch, length, dim) to the same shape. Where images of a batch differ in which bands are there, they are called
            with a second tensor, bool (batch, length), which is False for tokens that nobody may look at.
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
        return replace(tokens, x=add(tokens.x, self.position(tokens)))

    def encode(self, tokens: Tokens, hidden: Tensor | None = None) -> Encoded:
        x = tokens.x.flatten(1, 3)
        kept = valid = None
        seen = seen_tokens(tokens, hidden)
        if seen is not None:
            kept, valid = seen_first(seen.flatten(1))
            x = x.gather(1, kept[..., None].expand(-1, -1, self.dim))
        prefix = self.prefix.to(x.dtype).expand(x.shape[0], -1, -1)
        count = prefix.shape[1]
        x = torch.cat([prefix, x], dim=1)
        context = () if valid is None else (_visible(valid, count),)
        for block in self.blocks:
            x = block(x, *context)
        x = self.norm(x)
        prefix, x = x[:, :count], x[:, count:]
        if kept is not None:
            x = in_place(x, kept, valid, tokens.x.shape[1:4].numel())
        return Encoded(torch.unflatten(x, 1, tokens.x.shape[1:4]), prefix, tokens.present)

    def forward(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, band_mask: Tensor | None = None) -> Encoded:
        return self.encode(self.embed(x, wavelengths, gsd, band_mask))


def check_hidden(tokens: Tokens, hidden: Tensor | None) -> None:
    """Check that each token is told to be hidden or not.

    Raises:
        ValueError: for another shape.
    """
    if hidden is not None and hidden.shape != tokens.x.shape[:4]:
        raise ValueError(f"hidden is {tuple(hidden.shape)}, expected {tuple(tokens.x.shape[:4])} like the tokens")


def seen_tokens(tokens: Tokens, hidden: Tensor | None) -> Tensor | None:
    """Return which tokens are there and not hidden, bool (batch, spectral, rows, columns); None: all. Checks ``hidden``."""
    check_hidden(tokens, hidden)
    size = tokens.x.shape[:4]
    if tokens.present is None or bool(tokens.present.all()):
        return None if hidden is None else ~hidden
    there = tokens.present[:, :, None, None].expand(size)
    return there if hidden is None else there & ~hidden


def seen_first(seen: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return where the tokens of (batch, length) that are True stand, in order, and which of these places are filling.

    Returns:
        Indices (batch, most), where ``most`` is the largest number in an image, and bool (batch, most), False for filling, or
        None if all images have as many.
    """
    counts = seen.sum(1)
    most = int(counts.max())
    order = (~seen).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
    if bool((counts == most).all()):
        return order, None
    return order, torch.arange(most, device=seen.device) < counts[:, None]


def in_place(x: Tensor, kept: Tensor, valid: Tensor | None, length: int) -> Tensor:
    """Put tokens (batch, most, dim) back where ``seen_first`` found them: (batch, length, dim), 0 elsewhere."""
    x = x if valid is None else x.masked_fill(~valid[..., None], 0.0)
    return x.new_zeros(x.shape[0], length, x.shape[-1]).scatter(1, kept[..., None].expand(-1, -1, x.shape[-1]), x)


def _visible(valid: Tensor, prefix: int) -> Tensor:
    """Return which tokens behind so many of the prefix may be looked at; all of an image of which none may."""
    mask = F.pad(valid, (prefix, 0), value=True)
    # A softmax over nothing is no number. What such an image gives is put to zero in the end.
    return mask | ~mask.any(1, keepdim=True)
