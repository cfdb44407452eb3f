"""An encoder of tokens on a grid of bands and places, by attention on each of the two (LESS ViT)."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.less import GridContext, perception_field
from ..layers.reuse import add
from ..layers.rotary import GridRotation
from ..layers.tokenizers import Tokenizer, Tokens
from .token_encoder import Encoded, check_hidden, seen_first


class LessEncoder(nn.Module):
    """Tokeniser, positions, class tokens of every band and every place, blocks on the grid, norm.

    Source: LESS ViT (arXiv 2605.18541). Whole bands and places that are hidden are left out; if other tokens are hidden, or not
    as many in each image, a learned token with the position of the hidden one takes its place. Nobody looks at bands that an
    image lacks.

    Args:
        tokenizer: images to tokens, one for each band and place.
        blocks: called with (batch, 1 + bands, 1 + places, dim) and a ``GridContext``, to the same shape.
        place, band: positions, called with ``Tokens``, that are added: of places, and of bands. None: none.
        scale: of their sum.
        rotation: what turns queries and keys; None: nothing does.
        radius: metres within which places see each other; None: all do.
        replace_hidden: whether there is a token for what is hidden otherwise than by whole bands and places. The published models
            have none.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        blocks: Iterable[nn.Module],
        *,
        place: nn.Module | None = None,
        band: nn.Module | None = None,
        scale: float = 0.5,
        rotation: GridRotation | None = None,
        radius: float | None = None,
        replace_hidden: bool = True,
    ) -> None:
        super().__init__()
        assert isinstance(tokenizer, nn.Module)
        if radius is not None and radius <= 0:
            raise ValueError(f"LessEncoder: radius is {radius} m, expected more than 0")
        self.dim, self.patch, self.scale, self.radius = tokenizer.dim, tokenizer.patch, scale, radius
        self.tokenizer: Tokenizer = tokenizer
        self.place, self.band, self.rotation = place, band, rotation
        self.blocks = nn.ModuleList(blocks)
        self.norm: nn.Module = nn.LayerNorm(self.dim, eps=1e-6)
        # Of the image, of each band, and of each place.
        self.class_token, self.band_token, self.place_token = (nn.Parameter(torch.empty(self.dim)) for _ in range(3))
        self.mask_token = nn.Parameter(torch.empty(self.dim)) if replace_hidden else None
        for token in (self.class_token, self.band_token, self.place_token, self.mask_token):
            if token is not None:
                nn.init.normal_(token, std=0.02)

    def embed(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, band_mask: Tensor | None = None) -> Tokens:
        tokens = self.tokenizer(x, wavelengths, gsd, band_mask)
        y = tokens.x
        for position in self._positions(tokens):
            y = y if position is None else add(y, position)
        return replace(tokens, x=y)

    def encode(self, tokens: Tokens, hidden: Tensor | None = None) -> Encoded:
        size = tokens.x.shape[1:4]
        check_hidden(tokens, hidden)
        kept = None if hidden is None else product(~hidden.flatten(2))
        if hidden is not None and kept is None:
            if self.mask_token is None:
                raise ValueError("LessEncoder: this one hides whole bands and places only, as many in each image")
            where = [position for position in self._positions(tokens) if position is not None]
            mask = sum(where, start=self.mask_token)
            tokens = replace(tokens, x=torch.where(hidden[..., None], mask.to(tokens.x.dtype), tokens.x))
        y = self.grid(tokens, kept)
        prefix, y = y[:, :1, 0], y[:, 1:, 1:]
        if kept is not None:
            y = _spread(_spread(y, kept[1], size[1] * size[2], 2), kept[0], size[0], 1)
        y = torch.unflatten(y, 2, size[1:])
        if tokens.present is not None:
            y = y.masked_fill(~tokens.present[:, :, None, None, None], 0.0)
        return Encoded(y, prefix, tokens.present)

    def forward(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, band_mask: Tensor | None = None) -> Encoded:
        return self.encode(self.embed(x, wavelengths, gsd, band_mask))

    def grid(self, tokens: Tokens, kept: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Encode, and return class tokens as well.

        Args:
            tokens: with positions.
            kept: indices (batch, kept bands) and (batch, kept places) of what is seen; None: all.

        Returns:
            (batch, 1 + kept bands, 1 + kept places, dim): the first row stands for all bands, the first column for all places.
        """
        x = tokens.x.flatten(2, 3)
        if kept is not None:
            x = _taken(_taken(x, kept[0], 1), kept[1], 2)
        place, band = self._positions(tokens)
        row = self._class_tokens(self.place_token, place, len(x)).flatten(2, 3).expand(-1, -1, tokens.x.shape[2:4].numel(), -1)
        column = self._class_tokens(self.band_token, band, len(x)).flatten(2, 3).expand(-1, tokens.x.shape[1], -1, -1)
        if kept is not None:
            row, column = _taken(row, kept[1], 2), _taken(column, kept[0], 1)
        corner = self.class_token.expand(len(x), 1, 1, -1)
        left = torch.cat([corner, column], dim=1).to(x.dtype)
        x = torch.cat([left, torch.cat([row.to(x.dtype), x], dim=1)], dim=2)
        context = self.context(tokens, kept)
        for block in self.blocks:
            x = block(x, context)
        y: Tensor = self.norm(x)
        return y

    def context(self, tokens: Tokens, kept: tuple[Tensor, Tensor] | None = None) -> GridContext:
        """Return what the blocks are told beside the tokens; ``kept`` as in ``grid``."""
        places = bands = present = None
        if self.rotation is not None:
            places, bands = self.rotation(tokens)
            if kept is not None:
                places, bands = places.at(kept[1]), bands.at(kept[0])
        near = self.field(tokens, self.radius, None if kept is None else kept[1])
        if tokens.present is not None and not bool(tokens.present.all()):
            present = tokens.present if kept is None else tokens.present.gather(1, kept[0])
            present = F.pad(present, (1, 0), value=True)
        return GridContext(places, bands, near, present)

    @staticmethod
    def field(tokens: Tokens, radius: float | None, kept: Tensor | None = None) -> Tensor | None:
        """Return which places see which, behind a class token that sees and is seen by all: bool (batch, 1 + places, 1 + places).

        Args:
            tokens: whose places they are.
            radius: in metres; None: all see all, and None is returned.
            kept: indices (batch, count) of the places that there are; None: all.
        """
        if radius is None:
            return None
        near = perception_field(tokens.x.shape[2], tokens.x.shape[3], tokens.pitch.to(tokens.x.device), radius)
        if kept is not None:
            near = near.gather(1, kept[..., None].expand(-1, -1, near.shape[2]))
            near = near.gather(2, kept[:, None].expand(-1, near.shape[1], -1))
        return F.pad(near, (1, 0, 1, 0), value=True)

    def _positions(self, tokens: Tokens) -> tuple[Tensor | None, Tensor | None]:
        place, band = (None if part is None else part(tokens) * self.scale for part in (self.place, self.band))
        return place, band

    @staticmethod
    def _class_tokens(token: Tensor, position: Tensor | None, batch: int) -> Tensor:
        """Return a class token at each position: (batch, spectral or 1, rows or 1, columns or 1, dim)."""
        return (token if position is None else token + position).expand(
            batch, *((1, 1, 1, -1) if position is None else (-1,) * 4)
        )


def product(seen: Tensor) -> tuple[Tensor, Tensor] | None:
    """Tell which bands and which places are seen, if those are all that is seen.

    Args:
        seen: bool (batch, bands, places).

    Returns:
        Indices of bands and places, (batch, count) each; None if what is seen is no bands times places, or nothing, or not as
        many in each image.
    """
    bands, places = seen.any(2), seen.any(1)
    if not bool(bands.any()) or not torch.equal(seen, bands[:, :, None] & places[:, None]):
        return None
    (band_index, band_filled), (place_index, place_filled) = seen_first(bands), seen_first(places)
    return (band_index, place_index) if band_filled is None and place_filled is None else None


def _taken(x: Tensor, index: Tensor, axis: int) -> Tensor:
    """Take some along an axis of (batch, bands, places, dim), others for each image."""
    shape = list(x.shape)
    shape[axis] = index.shape[1]
    place = index[:, :, None, None] if axis == 1 else index[:, None, :, None]
    return x.gather(axis, place.expand(shape))


def _spread(x: Tensor, index: Tensor, length: int, axis: int) -> Tensor:
    """Undo ``_taken``, with zeros where nothing was taken."""
    shape = list(x.shape)
    shape[axis] = length
    place = index[:, :, None, None] if axis == 1 else index[:, None, :, None]
    return x.new_zeros(shape).scatter(axis, place.expand(x.shape), x)
