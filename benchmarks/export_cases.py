"""One small model of every kind that `geovit export` may be given, with random weights."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from geovit.apps.foundation import exporting as encoders
from geovit.apps.foundation.published.channelvit import channel_encoder
from geovit.apps.foundation.published.dofa import dofa_encoder
from geovit.apps.foundation.published.less import LessConfig, less_encoder
from geovit.apps.foundation.published.satmae import group_encoder
from geovit.apps.foundation.published.smarties import range_encoder
from geovit.apps.foundation.published.spectralearth import spectral_encoder
from geovit.apps.foundation.published.spectralgpt import cube_encoder
from geovit.apps.hyperspectral import exporting as classifiers
from geovit.apps.hyperspectral.encoder_network import EncoderNetwork, EncoderNetworkConfig
from geovit.apps.hyperspectral.lola_specvit import LolaSpecViTConfig
from geovit.apps.hyperspectral.model import Classifier, ModelInfo
from geovit.apps.hyperspectral.recipe import Recipe, TrainingConfig
from geovit.apps.medical import exporting as segmenters
from geovit.apps.medical.model import new_segmenter, save_segmenter
from geovit.apps.medical.networks import NetworkConfig
from geovit.apps.medical.plan import Channel, Plan, Target
from geovit.apps.restoration import exporting as restorers
from geovit.apps.restoration.catanet import CATANet
from geovit.apps.restoration.cfsr import CFSR
from geovit.apps.restoration.compact import Compact
from geovit.apps.restoration.dlgsanet import DLGSANet
from geovit.apps.restoration.drct import DRCT
from geovit.apps.restoration.hat import HAT
from geovit.apps.restoration.mambair import MambaIR
from geovit.apps.restoration.nafnet import NAFNet
from geovit.apps.restoration.network import Network
from geovit.apps.restoration.restormer import Restormer
from geovit.apps.restoration.swinir import SwinIR
from geovit.apps.restoration.weights import architecture_of, save_restorer
from geovit.core.backbones.token_encoder import Encoder
from geovit.core.export import Exportable
from geovit.core.layers.mixers import MIXERS
from geovit.core.sensors.encoder import EncoderConfig, build_encoder
from geovit.core.sensors.model import FoundationModel
from geovit.core.sensors.normalization import Normalization
from geovit.datasets import ClassInfo
from geovit.datasets.sensors import sensor

SENSOR = "sentinel-2-l2a"
_BANDS = 24  # of a scene to be classified
_GROUPS = ((490.0, 560.0, 665.0), (705.0, 740.0, 783.0), (1610.0, 2190.0))


@dataclass(frozen=True)
class Case:
    """A kind of model.

    Args:
        name: for people.
        make: makes it as it is exported.
        side: pixels of the timed input on each axis, at the least.
    """

    name: str
    make: Callable[[], Exportable]
    side: int


def _restorer(build: Callable[[], Network]) -> Exportable:
    with tempfile.TemporaryDirectory() as folder:
        network, path = build().eval(), Path(folder) / "model.safetensors"
        save_restorer(path, network, architecture_of(network), {})
        return restorers.exportable(weights=path)


def _classifier(recipe: Recipe) -> Exportable:
    classes = tuple(ClassInfo(value, f"class {value}", (value, 0, 0)) for value in range(1, 10))
    wavelengths = [400.0 + 80 * band for band in range(_BANDS)]
    model = Classifier(ModelInfo("0", _BANDS, wavelengths, classes, recipe, {}))
    member = model.members[0]
    member.transform.fit(torch.rand(500, _BANDS))
    if isinstance(member.network, EncoderNetwork):
        member.network.wavelengths.copy_(torch.tensor(wavelengths))
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.safetensors")
        return classifiers.exportable(Path(folder) / "model.safetensors")


def _segmenter(name: str, arguments: Mapping[str, Any], roi: tuple[int, ...]) -> Exportable:
    plan = Plan(
        channels=(Channel(name="CT", scheme="range", low=-1000.0, high=1000.0),),
        targets=(Target(name="organ", values=(1,), output=1),),
        spacing=None,
        roi=roi,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_segmenter(path, new_segmenter(NetworkConfig(name=name, arguments=arguments), plan))
        return segmenters.exportable(path)


def _encoder(build: Callable[[], Encoder], system: str) -> Exportable:
    """Build an encoder for a sensor whose bands have all the scale of numbers around 0."""
    encoder = build()
    assert isinstance(encoder, nn.Module)
    scale = Normalization(2)
    scale.wavelengths, scale.mean, scale.deviation = torch.tensor([400.0, 2400.0]), torch.tensor([0.1, 0.2]), torch.ones(2)
    model = FoundationModel(encoder=encoder.eval(), config=None, normalization=scale, facts={"system": system})
    return encoders.exportable_encoder(model, sensor(SENSOR))


def cases() -> Iterator[Case]:
    """Yield one of every kind."""
    yield from _restorers()
    yield from _classifiers()
    yield from _segmenters()
    yield from _encoders()


def _restorers() -> Iterator[Case]:
    nets: dict[str, tuple[Callable[[], Network], int]] = {
        "Compact": (lambda: Compact(2, width=32, depth=8), 128),
        "CFSR": (lambda: CFSR(48, (3, 3)), 96),
        "NAFNet": (lambda: NAFNet(16, (1, 1, 1, 2)), 128),
        "NAFNet, local": (lambda: NAFNet(16, (1, 1, 1, 2), local_window=(64, 64)), 128),
        "SwinIR": (lambda: SwinIR(2, 36, depths=(2, 2), heads=(6, 6), upsampler="pixelshuffledirect"), 64),
        "HAT": (lambda: HAT(2, 36, depths=(2,), heads=(6,), window=8, overlap=4, narrow=12, squeezed=6), 64),
        "DRCT": (lambda: DRCT(2, 36, heads=(6,), window=8, growth=16), 64),
        "Restormer": (lambda: Restormer(16, (1, 1, 1, 1), heads=(1, 2, 4, 8), refinement=1), 64),
        "MambaIR": (lambda: MambaIR(2, 32, depths=(2,), state=4, light=True, upsampler="pixelshuffledirect"), 48),
        "DLGSANet, one tile": (lambda: DLGSANet(2, 36, groups=1, pairs=1, tile=None), 48),
        "DLGSANet, tiles": (lambda: DLGSANet(2, 36, groups=1, pairs=1), 48),
        "CATANet": (lambda: CATANet(2), 48),
    }
    for name, (build, side) in nets.items():
        yield Case(name, partial(_restorer, build), side)


def _classifiers() -> Iterator[Case]:
    one = TrainingConfig(members=1)
    lola = LolaSpecViTConfig(dim=24, depths=(1, 1, 1), heads=(2, 4, 8), rank=4)
    token = EncoderNetworkConfig(adaptation="scratch", architecture=EncoderConfig(dim=48, depth=2, heads=4, patch=4))
    yield Case("spectral_swin", partial(_classifier, Recipe(training=one)), 64)
    yield Case("lola_specvit", partial(_classifier, Recipe(network="lola_specvit", lola_specvit=lola, training=one)), 15)
    yield Case("encoder classifier", partial(_classifier, Recipe(network="encoder", encoder=token, training=one)), 32)


def _segmenters() -> Iterator[Case]:
    small = {"channels": (8, 16, 32), "strides": (2, 2)}
    swin: dict[str, Any] = {"feature_size": 12, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}
    volumes: dict[str, tuple[str, dict[str, Any], int]] = {
        "swin_unetr": ("swin_unetr", swin, 64),
        "swin_unetr, v2": ("swin_unetr", {**swin, "use_v2": True}, 64),
        "vssm_unet": ("vssm_unet", {"features": (8, 16, 32)}, 32),
        "monai_swin_unetr": ("monai_swin_unetr", swin, 64),
        "monai_unet": ("monai_unet", small, 32),
        "monai_dynunet": ("monai_dynunet", {"filters": (8, 16, 32, 64, 64)}, 32),
        "monai_segresnet": ("monai_segresnet", {"init_filters": 8}, 32),
        "monai_segresnet_ds": ("monai_segresnet_ds", {"init_filters": 8}, 32),
        "monai_unetr": ("monai_unetr", {"hidden_size": 48, "mlp_dim": 96, "num_heads": 4, "feature_size": 8}, 32),
        "monai_attention_unet": ("monai_attention_unet", small, 32),
        "monai_vnet": ("monai_vnet", {}, 32),
        "monai_basic_unet": ("monai_basic_unet", {"features": (8, 8, 16, 32, 64, 8)}, 32),
        "monai_unet_plus_plus": ("monai_unet_plus_plus", {"features": (8, 8, 16, 32, 64, 8)}, 32),
        "monai_flexible_unet": ("monai_flexible_unet", {"decoder_channels": (32, 16, 8, 8, 8)}, 32),
        "monai_mednext": ("monai_mednext", {"init_filters": 8}, 32),
        "monai_highresnet": ("monai_highresnet", {}, 24),
    }
    for name, (kind, arguments, side) in volumes.items():
        for axes in (2, 3) if not kind.startswith("monai") else (3,):
            yield Case(f"{name}, {axes}-D", partial(_segmenter, kind, arguments, (side,) * axes), side)


def _encoders() -> Iterator[Case]:
    bands = tuple(band.wavelength or 0.0 for band in sensor(SENSOR).bands)
    vit: dict[str, Any] = {"patch": 8, "depth": 2, "heads": 4}
    config = partial(EncoderConfig, dim=48, depth=2, heads=4)
    published: dict[str, Callable[[], Encoder]] = {
        **{
            f"encoder, {kind}": partial(_built, partial(config, tokenizer=kind, groups=_GROUPS if kind == "group" else ()))
            for kind in ("wavelength", "hypernetwork", "range", "adapter", "group", "cube", "channel", "perceptron")
        },
        "encoder, less": partial(_built, partial(config, tokenizer="perceptron", mixer="less")),
        "encoder, less, rotary": partial(_built, partial(config, tokenizer="perceptron", mixer="less", rotary=True)),
        **{f"encoder, mixer {mixer}": partial(_built, partial(config, mixer=mixer)) for mixer in MIXERS},
        "DOFA": partial(dofa_encoder, 48, size=4, **vit),
        "SatMAE": partial(group_encoder, _GROUPS, 48, group_dim=16, **vit),
        "SMARTIES": partial(range_encoder, 48, size=4, **vit),
        "SpectralGPT": partial(cube_encoder, 48, size=(4, 4, 4), cube=(3, 8), depth=2, heads=4),
        "ChannelViT": partial(channel_encoder, bands, 48, size=4, **vit),
        "SpectralEarth": partial(spectral_encoder, 48, size=4, **vit),
        "LESS ViT": lambda: less_encoder(LessConfig(patch=8, dim=48, depth=2, heads=4)),
    }
    for name, make in published.items():
        yield Case(name, partial(_encoder, make, name), 64)


def _built(config: Callable[[], EncoderConfig]) -> Encoder:
    return build_encoder(config())
