"""What stands behind the encoder in classifiers that are published."""

from torch import Tensor, nn

from ....core.backbones.token_encoder import Encoded, TokenEncoder
from ....core.layers.linear import Linear
from .parts import LAYER_NORM


class TokenClassifier(nn.Module):
    """A linear layer on what an encoder makes of images.

    Args:
        encoder: without a norm at its end if ``pooled``.
        classes: outputs; 0: none, and features are returned.
        pooled: whether the layer sees the norm of the mean of all tokens, and not the class token.
    """

    def __init__(self, encoder: TokenEncoder, classes: int, *, pooled: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        if pooled:
            encoder.norm = nn.Identity()
        self.norm = LAYER_NORM(encoder.dim) if pooled else None
        self.head = Linear(encoder.dim, classes) if classes else nn.Identity()

    def features(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, band_mask: Tensor | None = None) -> Tensor:
        """Return (batch, dim): see ``Tokenizer`` for the arguments."""
        encoded: Encoded = self.encoder(x, wavelengths, gsd, band_mask)
        if self.norm is None:
            first: Tensor = encoded.prefix[:, 0]
            return first
        y: Tensor = self.norm(encoded.places().mean((1, 2)))
        return y

    def forward(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, band_mask: Tensor | None = None) -> Tensor:
        """Return logits, (batch, classes)."""
        y: Tensor = self.head(self.features(x, wavelengths, gsd, band_mask))
        return y
