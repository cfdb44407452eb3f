"""SpectralGPT: a token for each cube of neighbouring bands and pixels.

Source: Hong et al. 2024 (SpectralGPT), section III.
"""

import torch
from torch import Tensor, nn

from ....core.backbones.token_encoder import TokenEncoder
from ....core.layers.linear import Linear
from ....core.layers.token_position import SumPosition, TablePosition
from ....core.layers.tokenizers import CubeEmbed
from ..pretraining.decoder import Decoder
from ..pretraining.patch_targets import group_error, normalize_patches, spectral_sum_error
from .parts import LAYER_NORM, PixelHead, Prediction, transformer_blocks


def cube_position(dim: int, size: tuple[int, int, int], separate: bool) -> nn.Module:
    """Return learned positions of (spectral, rows, columns) tokens, one for each, or the sum of two for place and spectrum."""
    if not separate:
        return TablePosition(dim, size=size)
    return SumPosition([TablePosition(dim, size=(1, *size[1:])), TablePosition(dim, size=(size[0], 1, 1))])


def cube_encoder(
    dim: int,
    *,
    size: tuple[int, int, int],
    cube: tuple[int, int],
    depth: int,
    heads: int,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    separate: bool = True,
    prefix: bool = False,
    norm: bool = True,
) -> TokenEncoder:
    """Return the encoder.

    Args:
        dim: channels.
        size: spectral tokens, rows, columns for which positions are learned.
        cube: bands of a token, and pixels on its side.
        depth, heads, mlp_ratio, qkv_bias: of the blocks.
        separate: whether place and spectrum have positions of their own, which are summed.
        prefix: whether there is a class token.
        norm: whether a norm ends it.
    """
    bands, patch = cube
    encoder = TokenEncoder(
        CubeEmbed(dim, patch=patch, bands=bands),
        cube_position(dim, size, separate),
        transformer_blocks(dim, depth, heads, mlp_ratio, qkv_bias),
        prefix=int(prefix),
    )
    if not norm:
        encoder.norm = nn.Identity()
    return encoder


class CubeAutoencoder(nn.Module):
    """The masked auto-encoder.

    Args:
        encoder: of ``cube_encoder``.
        dim, depth, heads, mlp_ratio, qkv_bias: of the decoder.
        size, separate: of its positions, as of the encoder's.
        bands: how many are predicted of each cube; fewer than it has: some of all, at equal steps.
        prefix: whether the decoder has a class token, of its own.
        normalized: whether the target's cubes are normalised; those that are summed over the spectrum are not.
    """

    def __init__(
        self,
        encoder: TokenEncoder,
        dim: int,
        *,
        size: tuple[int, int, int],
        bands: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        separate: bool = True,
        prefix: bool = False,
        normalized: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.bands, self.normalized = encoder, bands, normalized
        self.decoder = Decoder(
            encoder.dim,
            dim,
            depth=depth,
            heads=heads,
            position=cube_position(dim, size, separate),
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            prefix="own" if prefix else "encoded",
        )
        self.head = PixelHead(dim, [bands] * size[0], patch=encoder.patch, shared=True)

    def forward(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, hidden: Tensor) -> Prediction:
        """Predict images from some of their tokens.

        Args:
            x: (batch, bands, height, width), normalised.
            wavelengths: (bands,), rising.
            gsd: see ``Tokenizer``.
            hidden: bool (batch, cubes, rows, columns), the same number True in each image.

        Raises:
            ValueError: bands in another order.
        """
        if bool((wavelengths[1:] < wavelengths[:-1]).any()):
            raise ValueError(f"CubeAutoencoder: wavelengths are {wavelengths.tolist()}, expected them to rise")
        tokens = self.encoder.embed(x, wavelengths, gsd)
        image = self.head(self.decoder(self.encoder.encode(tokens, hidden), hidden, tokens).tokens)
        target = x if image.shape[1] == x.shape[1] else x[:, torch.linspace(0, x.shape[1] - 1, image.shape[1]).long().tolist()]
        cubes = [range(i, i + self.bands) for i in range(0, image.shape[1], self.bands)]
        normal = normalize_patches(target, self.encoder.patch, cubes) if self.normalized else target
        losses = {"pixels": group_error(image, normal, hidden, cubes), "sums": spectral_sum_error(image, target, self.bands)}
        return Prediction(image, (), losses)


class CubeClassifier(nn.Module):
    """The classifier: norm of the mean of all tokens.

    Args:
        encoder: of ``cube_encoder``, without a norm.
        classes: outputs.
        skip_first: the published program leaves the first of the sequence out of the mean, a class token; without one, that is
            the token of the first bands in the upper left corner.
    """

    def __init__(self, encoder: TokenEncoder, classes: int, *, skip_first: bool = False) -> None:
        super().__init__()
        self.encoder, self.skip_first = encoder, skip_first
        self.norm = LAYER_NORM(encoder.dim)
        self.head = Linear(encoder.dim, classes)

    def forward(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor) -> Tensor:
        """Return logits, (batch, classes)."""
        encoded = self.encoder(x, wavelengths, gsd)
        tokens = encoded.tokens.flatten(1, 3)
        if self.skip_first and not encoded.prefix.shape[1]:
            tokens = tokens[:, 1:]
        y: Tensor = self.head(self.norm(tokens.mean(1)))
        return y
