"""Swin UNETR: MONAI's constructor, parameters and results, on the core's fused layers."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .swin_encoder import Attention, Merging, MergingOrder, PatchEmbedding, Stage, SwinBlock, SwinViT
from .unet_blocks import DecoderBlock, EncoderBlock, Head, norm_options

_log = logging.getLogger(__name__)

MULTIPLE = 32  # the coarsest of the five grids has one token for so many voxels on an axis


class SwinUNETR(nn.Module):
    """A U-net whose encoder attends in shifted windows: (B, in_channels, *S) to logits (B, out_channels, *S), contiguous.

    Source: Hatamizadeh et al. 2022 (Swin UNETR), section 3; ``use_v2``: He et al. 2023 (SwinUNETR-V2), section 2. Arguments,
    state dict and results are those of ``monai.networks.nets.SwinUNETR`` in MONAI 1.5 and newer: a state dict of either
    loads into the other as it is (``strict=True``), buffers included. Only what a network of MONAI 1.4 or older *computes*
    differs: it takes the tokens in another order where grids are halved, under the same names and shapes. See ``merging_order``.

    Any size will do. One that is no multiple of 32 is filled up with zeros at the end of its axes, and the logits are cut back:
    the result is MONAI's for the image filled up. A norm over a single position, as that of the coarsest grid of 32 voxels, gives
    zeros, where MONAI raises an error.

    Args:
        in_channels, out_channels: of image and logits.
        patch_size: 2, which is all that MONAI's decoder fits as well.
        depths, num_heads: blocks and heads of each of the four stages.
        window_size: tokens per window, one number or one for each axis.
        qkv_bias: whether query, key and value have one.
        mlp_ratio: hidden channels of the MLPs over those of their stage.
        feature_size: channels of the finest grid, a multiple of 12.
        norm_name: of the convolutions: "instance", or ("instance", {"affine": True, "eps": 1e-5}).
        drop_rate, attn_drop_rate, dropout_path_rate: probabilities, in training, to drop tokens' numbers, weights of the
            attention, and branches (of the last block, less for those before). With the second, all weights are kept for the
            backward pass.
        normalize: whether features that the encoder hands on are normed over channels, without parameters.
        norm_layer: makes a norm of tokens.
        patch_norm: whether the first tokens are normed.
        use_checkpoint: whether the encoder's blocks are computed again in the backward pass rather than kept.
        spatial_dims: 2 or 3.
        downsample: "merging", "mergingv2" or a class like those, called with ``dim``, ``norm_layer`` and ``spatial_dims``.
        use_v2: whether a residual block of convolutions precedes each stage.
        use_hyena: False: these blocks are not here.
        use_flash_attention: without effect: attention is always fused.
        img_size: of MONAI before 1.5; without effect.
        merging_order: of "merging" in three dimensions: "fixed" is that of MONAI 1.5 and newer, "legacy" that of all before, by
            which published weights up to the end of 2024 were trained. None: "fixed", as in the newest MONAI.
        zero_padding: whether windows at the end of a grid see zero tokens, as MONAI's do; else they are smaller.
        clamped_bias: whether biases in windows larger than their grid are MONAI's, by which published weights were trained; else
            those of the relative position.

    Raises:
        ValueError: for an impossible value, or an option that is not here.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        patch_size: int = 2,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: Sequence[int] | int = 7,
        qkv_bias: bool = True,
        mlp_ratio: float = 4.0,
        feature_size: int = 24,
        norm_name: str | tuple[str, dict[str, object]] = "instance",
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        dropout_path_rate: float = 0.0,
        normalize: bool = True,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        patch_norm: bool = False,
        use_checkpoint: bool = False,
        spatial_dims: int = 3,
        downsample: Literal["merging", "mergingv2"] | Callable[..., nn.Module] = "merging",
        use_v2: bool = False,
        use_hyena: bool = False,
        hyena_stages: Sequence[bool] | None = None,
        hyena_kernel_size: int = 3,
        hyena_kernel_mlp_dim: int = 32,
        hyena_kernel_layers: int = 3,
        hyena_mask_max_attenuation: float = 0.95,
        hyena_fft_padding: str = "circular",
        hyena_grid_type: str = "single",
        hyena_use_chunked_fft: bool = False,
        hyena_use_fft_short_conv: bool = False,
        hyena_omega_0: float = 10.0,
        hyena_l_cache: int = 32,
        hyena_short_conv_fft_chunks: int = 0,
        use_flash_attention: bool = False,
        *,
        img_size: Sequence[int] | int | None = None,
        merging_order: MergingOrder | None = None,
        zero_padding: bool = True,
        clamped_bias: bool = True,
    ) -> None:
        super().__init__()
        del use_flash_attention, hyena_kernel_size, hyena_kernel_mlp_dim, hyena_kernel_layers, hyena_mask_max_attenuation
        del hyena_fft_padding, hyena_grid_type, hyena_use_chunked_fft, hyena_use_fft_short_conv, hyena_omega_0, hyena_l_cache
        del hyena_short_conv_fft_chunks
        if isinstance(in_channels, Sequence):
            told = f"SwinUNETR: in_channels is {in_channels!r}; img_size, which came first before MONAI 1.5,"
            raise ValueError(f"{told} is given by its name alone: img_size=...")  # noqa: TRY004 - all of its errors are
        if img_size is not None:
            _log.info("SwinUNETR: img_size=%s is not needed, any size will do", img_size)
        if use_hyena or any(hyena_stages or ()):
            raise ValueError("SwinUNETR: Hyena blocks are not here, expected use_hyena=False and no hyena_stages; MONAI has them")
        _check(patch_size, depths, num_heads, feature_size, spatial_dims)
        for name, rate in (
            ("drop_rate", drop_rate),
            ("attn_drop_rate", attn_drop_rate),
            ("dropout_path_rate", dropout_path_rate),
        ):
            if not 0 <= rate < 1:
                raise ValueError(f"SwinUNETR: {name} is {rate}, expected 0 <= {name} < 1")
        window = (window_size,) * spatial_dims if isinstance(window_size, int) else tuple(window_size)
        if len(window) != spatial_dims or any(w < 1 for w in window):
            raise ValueError(f"SwinUNETR: window_size is {window_size}, expected one or {spatial_dims} numbers from 1 on")
        if merging_order not in (None, "legacy", "fixed"):
            raise ValueError(f"SwinUNETR: merging_order is {merging_order!r}, expected 'legacy', 'fixed' or None")
        self.normalize, self.patch_size, self.spatial_dims = normalize, patch_size, spatial_dims

        attention = partial(
            Attention,
            window=window,
            qkv_bias=qkv_bias,
            attention_dropout=attn_drop_rate,
            dropout=drop_rate,
            zero_padding=zero_padding,
            clamped_bias=clamped_bias,
        )
        rates = iter(torch.linspace(0, dropout_path_rate, sum(depths), device="cpu").tolist())
        stages = []
        for stage, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            dim = feature_size * 2**stage
            blocks = [
                SwinBlock(
                    dim,
                    attention(dim, heads=heads, shift=tuple(w // 2 * (index % 2) for w in window)),
                    hidden=int(dim * mlp_ratio),
                    dropout=drop_rate,
                    drop_path=next(rates),
                    norm=norm_layer,
                )
                for index in range(depth)
            ]
            stages.append(
                Stage(blocks, _merging(downsample, dim, spatial_dims, merging_order, norm_layer), use_checkpoint=use_checkpoint)
            )
        tokens = PatchEmbedding(
            in_channels, feature_size, patch=patch_size, axes=spatial_dims, norm=norm_layer if patch_norm else None
        )
        before = [EncoderBlock(feature_size * 2**stage, feature_size * 2**stage, axes=spatial_dims) for stage in range(4)]
        self.swinViT = SwinViT(tokens, stages, before=before if use_v2 else (), dropout=drop_rate)

        norm, f = norm_options(norm_name), feature_size
        encoder = partial(EncoderBlock, axes=spatial_dims, norm=norm)
        self.encoder1, self.encoder2, self.encoder3 = encoder(in_channels, f), encoder(f, f), encoder(2 * f, 2 * f)
        self.encoder4, self.encoder10 = encoder(4 * f, 4 * f), encoder(16 * f, 16 * f)
        decoder = partial(DecoderBlock, axes=spatial_dims, norm=norm)
        self.decoder5, self.decoder4, self.decoder3 = decoder(16 * f, 8 * f), decoder(8 * f, 4 * f), decoder(4 * f, 2 * f)
        self.decoder2, self.decoder1 = decoder(2 * f, f), decoder(f, f)
        self.out = Head(f, out_channels, axes=spatial_dims)

    @property
    def merging_order(self) -> MergingOrder | None:
        """The order in which tokens are merged; None where ``downsample`` is a user's class. It can be set."""
        orders = {module.order for module in self.swinViT.modules() if isinstance(module, Merging)}
        return orders.pop() if orders else None

    @merging_order.setter
    def merging_order(self, order: MergingOrder) -> None:
        for module in self.swinViT.modules():
            if isinstance(module, Merging):
                module.set_order(order)

    def forward(self, x_in: Tensor) -> Tensor:
        """Return the logits of an image.

        Raises:
            ValueError: if it has another number of axes or channels.
        """
        channels = self.swinViT.patch_embed.proj.in_channels
        if x_in.ndim != self.spatial_dims + 2 or x_in.shape[1] != channels:
            wanted = f"(batch, {channels} channels, {self.spatial_dims} axes)"
            raise ValueError(f"SwinUNETR: the image has shape {list(x_in.shape)}, expected {wanted}")
        size = x_in.shape[2:]
        missing = [-n % MULTIPLE for n in size]
        image = F.pad(x_in, [p for m in reversed(missing) for p in (0, m)]) if any(missing) else x_in
        logits: Tensor = self.out(self._decoded(image))
        for axis, n in enumerate(size, start=2):
            logits = logits.narrow(axis, 0, n)
        return logits.contiguous()

    def _decoded(self, image: Tensor) -> Tensor:
        # Each encoder runs just before its features are needed, and the finest, by far the largest, last: so that as little as
        # possible is held at once.
        hidden = self.swinViT.features(image, self.normalize)
        x = self.encoder10(hidden.pop())
        x = self.decoder5(x, [hidden.pop()])
        x = self.decoder4(x, [self.encoder4(hidden.pop())])
        x = self.decoder3(x, [self.encoder3(hidden.pop())])
        x = self.decoder2(x, [self.encoder2(hidden.pop())])
        decoded: Tensor = self.decoder1(x, [self.encoder1(image.movedim(1, -1))])
        return decoded


def _check(patch_size: int, depths: Sequence[int], heads: Sequence[int], feature_size: int, spatial_dims: int) -> None:
    if spatial_dims not in (2, 3):
        raise ValueError(f"SwinUNETR: spatial_dims is {spatial_dims}, expected 2 or 3")
    if patch_size != 2:
        raise ValueError(
            f"SwinUNETR: patch_size is {patch_size}, expected 2: the decoder doubles the grid once from tokens to voxels"
        )
    if len(depths) != 4 or len(heads) != 4:
        raise ValueError(f"SwinUNETR: depths are {tuple(depths)} and num_heads {tuple(heads)}, expected four of each")
    if feature_size < 1 or feature_size % 12:
        raise ValueError(f"SwinUNETR: feature_size is {feature_size}, expected a multiple of 12")


def _merging(downsample: Any, dim: int, axes: int, order: MergingOrder | None, norm: Callable[[int], nn.Module]) -> nn.Module:
    if downsample in ("merging", "mergingv2"):
        return Merging(dim, axes=axes, kind=downsample, order=order or "fixed", norm=norm)
    known = not isinstance(downsample, str) and callable(downsample)
    if not known:
        raise ValueError(f"SwinUNETR: downsample is {downsample!r}, expected 'merging', 'mergingv2' or a class")
    if order is not None:
        raise ValueError(f"SwinUNETR: merging_order is {order!r}, but downsample is a class of your own, which has its own order")
    made: nn.Module = downsample(dim=dim, norm_layer=norm, spatial_dims=axes)
    return made
