"""The layouts of gsumbul/SMARTIES: the auto-encoder, and the classifier of one sensor or several."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ....core.backbones.token_encoder import Encoder, TokenEncoder
from ....core.layers.tokenizers import RADAR, SMARTIES_RANGES, SpectralRange
from ....core.sensors.batch import SensorBatch
from ....core.sensors.normalization import Normalization, between
from ....core.weights.arguments import ratio, read_arguments
from ....core.weights.load import Coverage, rename
from ..published.smarties import Pooling, SmartiesAutoencoder, SmartiesClassifier, range_encoder
from .system import BLOCK_NAMES, System, UnscaledError, depth_of, heads_of, load_renamed

_EMBEDS = "spectrum_projection.spectrum_embeds"
_RADAR_FROM = 1e6  # nm: a millimetre

_NAMES: tuple[tuple[str, str | None], ...] = (
    *BLOCK_NAMES,
    (r"^(blocks|norm)\.", r"encoder.\1."),
    (r"^fc_norm\.", "norm."),
    (r"^spectrum_projection\.spectrum_embeds\.(\d+)\.proj\.", r"encoder.tokenizer.embeds.\1."),
    (r"^decoder_(blocks|norm)\.", r"decoder.\1."),
    (r"^decoder_embed\.", "decoder.project."),
    (r"^mask_token$", "decoder.mask_token"),
    (r"^decoder_preds\.", "head.heads."),
)


def ranges_of(specs: Mapping[str, Mapping[str, Any]]) -> tuple[SpectralRange, ...]:
    """Return ranges as the official file of the electromagnetic spectrum tells them, in the order of their projections.

    Ranges of radar are told by name, here or in the entry, which is a polarisation.

    Raises:
        ValueError: a range of radar whose name is none.
    """
    used = {name: spec for name, spec in specs.items() if spec["projection_idx"] != -1}
    order = sorted(used, key=lambda name: (bool(used[name]["agg_projections"]), used[name]["projection_idx"]))
    ranges = []
    for name in order:
        spec = used[name]
        low, high = float(spec["min_wavelength"]), float(spec["max_wavelength"])
        polarization = None
        if low > _RADAR_FROM:
            told = [part.upper() for part in (str(spec["name"]), name) if part.upper() in RADAR]
            if not told:
                raise ValueError(f"spectral range {name} of radar is named for no polarisation, allowed are {', '.join(RADAR)}")
            polarization = told[0]
        ranges.append(SpectralRange(name, low, high, polarization, tuple(spec["agg_projections"])))
    return tuple(ranges)


def infer_autoencoder(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Tell the arguments of the official auto-encoder from a state dict."""
    if f"{_EMBEDS}.0.proj.weight" not in state or "decoder_embed.weight" not in state:
        return None
    return _sizes(state) | {
        "decoder_embed_dim": len(state["decoder_embed.weight"]),
        "decoder_depth": depth_of(state, "decoder_blocks"),
    }


def infer_classifier(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Tell the arguments of the official classifier from a state dict."""
    if f"{_EMBEDS}.0.proj.weight" not in state or "decoder_embed.weight" in state:
        return None
    arguments = _sizes(state)
    sources = state["head.weight"].shape[1] // arguments["embed_dim"] if "head.weight" in state else 1
    return arguments | {
        "num_classes": len(state["head.weight"]) if "head.weight" in state else 0,
        "global_pool": "fc_norm.weight" in state,
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "multi_modal": sources > 1,
        "num_sources": sources,
    }


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    dim, pixels = state[f"{_EMBEDS}.0.proj.weight"].shape
    patch = math.isqrt(pixels)
    return {
        "img_size": math.isqrt(state["pos_embed"].shape[1] - 1) * patch,
        "patch_size": patch,
        "embed_dim": dim,
        "depth": depth_of(state, "blocks"),
        "mlp_ratio": ratio(len(state["blocks.0.mlp.fc1.weight"]), dim),
    }


_COMMON = {
    "spectrum_specs": None, "img_size": 224, "patch_size": 16, "embed_dim": 1024, "depth": 24, "num_heads": None,
    "mlp_ratio": 4.0,
}  # fmt: skip
_IGNORED = ("mixed_precision", "norm_layer", "in_chans")


def _encoder(args: Mapping[str, Any], *, as_published: bool, **options: Any) -> TokenEncoder:
    specs = args["spectrum_specs"]
    return range_encoder(
        args["embed_dim"],
        patch=args["patch_size"],
        size=int(args["img_size"] / args["patch_size"]),
        depth=args["depth"],
        heads=heads_of(args["embed_dim"], args["num_heads"], "num_heads"),
        mlp_ratio=args["mlp_ratio"],
        ranges=SMARTIES_RANGES if specs is None else ranges_of(specs),
        farther_weighs_more=as_published,
        **options,
    )


def build_autoencoder(arguments: Mapping[str, Any], *, as_published: bool = False) -> SmartiesAutoencoder:
    """Make an auto-encoder of arguments of the official SMARTIES; without ``spectrum_specs`` with its own ranges.

    Args:
        arguments: by their official names.
        as_published: with the two slips of the published program: one stream of a pair is not mixed, and a range that mixes
            others takes more of the farther one. The weights know neither.

    Raises:
        ValueError: for an unknown argument, or heads that are not known.
    """
    own = {"decoder_embed_dim": 512, "decoder_depth": 8, "decoder_num_heads": None, "norm_pix_loss": False}
    args = read_arguments(arguments, of="SMARTIES", defaults=_COMMON | own, ignored=_IGNORED)
    return SmartiesAutoencoder(
        _encoder(args, as_published=as_published),
        args["decoder_embed_dim"],
        depth=args["decoder_depth"],
        heads=heads_of(args["decoder_embed_dim"], args["decoder_num_heads"], "decoder_num_heads"),
        mlp_ratio=args["mlp_ratio"],
        normalized=args["norm_pix_loss"],
        one_sided_mixing=as_published,
    )


def build_classifier(arguments: Mapping[str, Any], *, as_published: bool = False) -> SmartiesClassifier:
    """Make a classifier of arguments of the official SmartiesVisionTransformer; see ``build_autoencoder``."""
    own = {
        "num_classes": 1000, "global_pool": False, "all_tokens": False, "multi_modal": False, "num_sources": 1, "qkv_bias": True,
    }  # fmt: skip
    args = read_arguments(
        arguments,
        of="SmartiesVisionTransformer",
        defaults=_COMMON | own,
        ignored=(*_IGNORED, "drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate", "weight_init"),
    )
    pooling: Pooling = "none" if args["all_tokens"] else "mean" if args["global_pool"] else "class"
    if args["all_tokens"] and args["num_classes"]:
        raise ValueError("SmartiesVisionTransformer: all_tokens returns maps, which its head does not take: set num_classes to 0")
    return SmartiesClassifier(
        _encoder(args, as_published=as_published, qkv_bias=args["qkv_bias"], norm=pooling == "class"),
        args["num_classes"],
        pooling=pooling,
        sensors=args["num_sources"] if args["multi_modal"] else 1,
    )


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return published tensors by our names."""
    left = dict(state)
    tables = {name: left.pop(f"{name}pos_embed") for name in ("", "decoder_") if f"{name}pos_embed" in left}
    token = left.pop("cls_token", None)
    ours = rename(left, _NAMES)
    for name, table in tables.items():
        side = math.isqrt(table.shape[1] - 1)
        place = "decoder" if name else "encoder"
        ours[f"{place}.position.table"] = torch.unflatten(table[:, 1:], 1, (side, -1))
        if name:
            ours["decoder.prefix"] = table[0, 0]
        elif token is not None:
            ours["encoder.prefix"] = token[0] + table[0, :1]
    if "decoder.mask_token" in ours:
        ours["decoder.mask_token"] = ours["decoder.mask_token"].flatten()
    return ours


def load(module: nn.Module, state: Mapping[str, Tensor]) -> Coverage:
    """Copy a published state dict into a module of ``build_autoencoder`` or ``build_classifier``."""
    return load_renamed(module, state, to_ours(state))


# Of the pretraining's images, config/pretraining_sensors.yaml: percentiles 1 and 99, reflectance in 1e-4 and dB; mean and
# deviation of what these bring to 0..1. Bands B01..B08, B8A, B09, B11, B12, then VV, VH.
_BANDS = (443.0, 490.0, 560.0, 665.0, 705.0, 740.0, 783.0, 842.0, 865.0, 945.0, 1610.0, 2190.0)
_L2A = (
    (1.0, 27.02, 45.06, 12.50, 5.99, 1.0, 1.08, 1.0, 1.0, 1.0, 2.32, 4.28),
    (2811.45, 2604.77, 2580.36, 2829.49, 3138.51, 4338.89, 5182.99, 5529.26, 5433.89, 5170.23, 4418.15, 3387.44),
    (0.11504940, 0.14820598, 0.21661478, 0.19834635, 0.29584539, 0.41010851, 0.39859083, 0.39942175, 0.41560057, 0.43314508,
     0.35970271, 0.29588255),
    (0.14282256, 0.14939885, 0.16681823, 0.19246325, 0.19392383, 0.23844217, 0.23693138, 0.24099796, 0.24249801, 0.24532427,
     0.24024677, 0.23555098),
)  # fmt: skip
_L1C = (
    (37.65, 29.19, 24.27, 17.25, 19.14, 22.09, 22.87, 19.21, 20.56, 6.03, 9.02, 5.46),
    (3080.51, 3203.94, 3293.08, 3989.23, 4040.77, 4304.14, 4666.18, 4529.41, 4884.79, 1864.98, 4843.25, 4007.81),
    (0.48595265, 0.40518817, 0.37699366, 0.31775635, 0.34872592, 0.42993817, 0.44645432, 0.43980509, 0.45632181, 0.34116733,
     0.39822152, 0.34670174),
    (0.12758659, 0.14896001, 0.17880382, 0.21890225, 0.21259637, 0.22458562, 0.23589327, 0.23984773, 0.24604143, 0.22196376,
     0.25178209, 0.25317791),
)  # fmt: skip
_RADAR_BANDS = (RADAR["VV"], RADAR["VH"])
_RADAR_SCALE = (
    (-29.519697, -33.421481),
    (-3.456900, -9.905399),
    (0.64934552, 0.60353202),
    (0.19030459, 0.22883052),
)
_LONGEST = 2600.0  # nm


class SmartiesScale(Normalization):
    """Values to 0..1 between two percentiles of the pretraining's images, the rest cut off; then (value - mean) / deviation.

    Reflectance at the top of the atmosphere (sensors whose name ends in "-l1c" or "-toa") is scaled as that of Sentinel-2, every
    other one as that of the surface; bands between those of Sentinel-2 by interpolation over wavelength. Radar is in dB.
    """

    def at(self, wavelengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation, of surface reflectance and radar; see ``forward``."""
        low, high, mean, deviation = _scale(wavelengths, _L2A)
        return low + mean * (high - low), deviation * (high - low)

    def forward(self, batch: SensorBatch) -> SensorBatch:
        """Scale images.

        Raises:
            ValueError: a band of another polarisation, or in the thermal infrared: there were none in the pretraining.
        """
        top = batch.sensor.endswith(("-l1c", "-toa"))
        numbers = _scale(batch.wavelengths, _L1C if top else _L2A).to(batch.values)
        low, high, mean, deviation = numbers[..., None, None]
        values = (((batch.values - low) / (high - low)).clamp(0, 1) - mean) / deviation
        return replace(batch, values=values.where(batch.valid, 0.0))


def _scale(wavelengths: Tensor, optical: tuple[tuple[float, ...], ...]) -> Tensor:
    """Return (4, bands): low, high, mean, deviation."""
    given = wavelengths.double().cpu()
    known = torch.isin(given, given.new_tensor(_RADAR_BANDS)) | ((given > 0) & (given <= _LONGEST))
    if not bool(known.all()):
        odd = float(given[~known][0])
        name = {code: name for name, code in RADAR.items()}.get(odd, f"{odd:g} nm")
        raise ValueError(f"SMARTIES has no scale for {name}: it was trained on reflectance up to {_LONGEST:g} nm, VV and VH")
    numbers = given.new_tensor(optical)
    numbers[:2] *= 1e-4
    radar = (given[:, None] == given.new_tensor(_RADAR_BANDS)).to(given) @ given.new_tensor(_RADAR_SCALE).T
    return torch.where(given > 0, (between(given, given.new_tensor(_BANDS)) @ numbers.T).T, radar.T)


def scale(arguments: Mapping[str, Any]) -> Normalization:
    """Return the official scale.

    Raises:
        UnscaledError: for other spectral ranges than those of the published files.
    """
    if arguments.get("spectrum_specs") is not None:
        raise UnscaledError("the scale is known of the published spectral ranges only")
    return SmartiesScale()


def _part(module: nn.Module) -> Encoder:
    assert isinstance(module, SmartiesAutoencoder | SmartiesClassifier)
    return module.encoder


def _size(arguments: Mapping[str, Any]) -> int:
    return int(arguments["img_size"])


SYSTEMS = (
    System("SMARTIES", "Apache-2.0", infer_autoencoder, build_autoencoder, load, _part, scale, _size),
    System("SMARTIES (classifier)", "Apache-2.0", infer_classifier, build_classifier, load, _part, scale, _size),
)
