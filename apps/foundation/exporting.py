"""Encoders as exported programs, each for the bands of one sensor."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ...core.export import Exportable
from ...core.sensors.model import FoundationModel
from ...datasets.sensors import Sensor
from ...datasets.sensors import sensor as sensor_named
from .images import codes
from .models import open_model

APP = "foundation"


def exportable(path: Path, *, sensor: str | None = None, gsd: float | None = None) -> Exportable:
    """Return an encoder as it is exported: images of one sensor in physical units to a feature vector for each token.

    Args:
        path: what `geovit pretrain` wrote, or a published checkpoint.
        sensor: whose bands the program takes. Default: the one that the encoder was trained on, if there is one only.
        gsd: metres on the ground from a pixel to the next. Default: the sensor's.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no encoder, the sensor is not told or has no fixed bands, or the encoder knows no scale for them.
    """
    model = open_model(path)
    trained = list(model.facts.get("sensors") or [])
    if sensor is None and len(trained) != 1:
        known = f" of {', '.join(map(str, trained))}" if trained else ""
        raise ValueError(f"{path}: an encoder is exported for the bands of one sensor: name one{known} with --sensor")
    return exportable_encoder(model, sensor_named(str(trained[0]) if sensor is None else sensor), gsd)


def exportable_encoder(model: FoundationModel, chosen: Sensor, gsd: float | None = None) -> Exportable:
    """Return an encoder in memory as it is exported for a sensor; arguments and errors as ``exportable``."""
    if not chosen.bands:
        raise ValueError(f"files of {chosen.name} tell their own bands: an encoder is exported for a sensor with fixed ones")
    wavelengths = codes(chosen.bands)
    metres = chosen.gsd if gsd is None else gsd
    mean, deviation = model.normalization.at(wavelengths)
    encoder = model.encoder
    assert isinstance(encoder, nn.Module)
    patch = encoder.patch
    about = {
        "sensor": chosen.name,
        "bands": [band.name for band in chosen.bands],
        "codes": wavelengths.tolist(),
        "gsd": metres,
        "unit": chosen.unit,
        "patch": patch,
        "dim": encoder.dim,
    }

    def sample(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        drawn = mean[:, None, None] + deviation[:, None, None] * torch.randn(tuple(shape), generator=generator)
        return drawn.exp() - model.normalization.logarithm if model.normalization.logarithm else drawn

    return Exportable(
        module=_Features(model, wavelengths, mean, deviation, metres).eval().requires_grad_(False),
        channels=len(chosen.bands),
        multiple=(patch, patch),
        smallest=(2 * patch, 2 * patch),
        scale=1 / patch,
        app=APP,
        model=str(model.facts.get("system") or f"{type(encoder).__name__}"),
        about=about,
        meaning=(f"values of {chosen.name} in {chosen.unit}, all bands of every pixel there", "features of each token"),
        sample=sample,  # type: ignore[arg-type]
    )


class _Features(nn.Module):
    """Images (batch, bands, height, width) in physical units to features (batch, dim, rows, columns)."""

    wavelengths: Tensor
    mean: Tensor
    deviation: Tensor
    gsd: Tensor

    def __init__(self, model: FoundationModel, wavelengths: Tensor, mean: Tensor, deviation: Tensor, gsd: float) -> None:
        super().__init__()
        assert isinstance(model.encoder, nn.Module)
        self.encoder, self.logarithm = model.encoder, model.normalization.logarithm
        self.optical = [bool(code > 0) for code in wavelengths.tolist()]
        self.register_buffer("wavelengths", wavelengths)
        self.register_buffer("mean", mean[:, None, None])
        self.register_buffer("deviation", deviation[:, None, None])
        self.register_buffer("gsd", torch.tensor([gsd]))
        self.register_buffer("where", torch.tensor(self.optical)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        valid = x.isfinite()
        if self.logarithm:
            x = torch.where(self.get_buffer("where"), (x.clamp_min(0) + self.logarithm).log(), x)
        x = torch.where(valid, (x - self.mean) / self.deviation, 0.0)
        encoded = self.encoder(x, self.wavelengths, self.gsd.expand(x.shape[0]))
        places: Tensor = encoded.places()
        return places.permute(0, 3, 1, 2)
