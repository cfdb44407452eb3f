"""SMARTIES: its layouts, its scale, its mixing; its numbers are compared in the golden tests."""

from dataclasses import replace

import pytest
import torch

from geovit.apps.foundation.pretraining.autoencoder import AutoencoderConfig, MaskedAutoencoder
from geovit.apps.foundation.published.smarties import SmartiesAutoencoder, SmartiesClassifier, range_encoder
from geovit.apps.foundation.weights import published_from, smarties
from geovit.apps.foundation.weights.smarties_scale import smarties_scale
from geovit.core.layers.tokenizers import SMARTIES_RANGES, SpectralRange
from geovit.core.sensors.batch import SensorBatch

RADAR = [-1.0, -2.0]


def batch(wavelengths, *, side: int = 16, gsd: float = 10.0, name: str = "some") -> SensorBatch:
    values = torch.randn(2, len(wavelengths), side, side)
    return SensorBatch(values, torch.ones_like(values, dtype=torch.bool), torch.tensor(wavelengths), torch.full((2,), gsd), name)


def autoencoder(**options) -> SmartiesAutoencoder:
    torch.manual_seed(0)
    return SmartiesAutoencoder(range_encoder(16, patch=4, size=4, depth=1, heads=2), 8, depth=1, heads=2, **options)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


NAMES = (
    ("encoder.tokenizer.embeds", "spectrum_projection.spectrum_embeds"),
    ("decoder.project", "decoder_embed"),
    ("head.heads", "decoder_preds"),
    (".mixer.", ".attn."),
    ("channel_mixer", "mlp"),
    ("decoder.", "decoder_"),
    ("encoder.", ""),
)


def published(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The official names of a module's tensors."""
    state = {}
    for own, tensor in model.state_dict().items():
        if own.endswith("position.table"):
            place = torch.zeros(1, 1, tensor.shape[-1])
            state["pos_embed" if own.startswith("encoder") else "decoder_pos_embed"] = torch.cat([place, tensor.flatten(1, 2)], 1)
        elif own == "encoder.prefix":
            state["cls_token"] = tensor[None]
        elif own == "decoder.mask_token":
            state["mask_token"] = tensor[None, None]
        elif own != "decoder.prefix":
            name = f"fc_{own}" if own.startswith("norm.") else own
            for ours, theirs in NAMES:
                name = name.replace(ours, theirs)
            first, _, last = name.rpartition(".")
            state[f"{first}.proj.{last}" if first.startswith("spectrum") else name] = tensor
    return state


def test_both_streams_see_both_sensors():
    first, second = batch([490.0, 665.0]), batch(RADAR)
    for one_sided, seen in ((False, True), (True, False)):
        model = autoencoder(one_sided_mixing=one_sided).eval()
        swapped = model(first, second, seeded()).targets
        assert not torch.equal(swapped[0], first.values)
        assert torch.equal(swapped[1], second.values) is one_sided
        other = replace(first, values=first.values + 1)
        images = [model(x, second, seeded()).images[1] for x in (first, other)]
        assert (not torch.equal(*images)) is seen


def test_it_trains_all_but_the_positions():
    model = autoencoder(normalized=True)
    model(batch([490.0, 665.0]), batch(RADAR), seeded()).loss.backward()
    used = [i for i, r in enumerate(SMARTIES_RANGES) if r.name in ("blue", "red", "C band, VV", "C band, VH")]
    for name, parameter in model.named_parameters():
        fixed = "position" in name or name == "decoder.prefix"
        assert parameter.requires_grad is not fixed
        if name.startswith(("head.heads.", "encoder.tokenizer.embeds.")):
            assert bool(parameter.grad.any()) is (int(name.split(".")[-2]) in used), name
        elif not fixed:
            assert parameter.grad.any(), name


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="have 3 and 2 bands, repeat them"):
        autoencoder()(batch([490.0, 560.0, 665.0]), batch(RADAR), seeded())
    with pytest.raises(ValueError, match="these are 40 and 120 m"):
        autoencoder()(batch([490.0, 665.0]), batch(RADAR, gsd=30.0), seeded())


def test_the_encoder_goes_on_training_on_any_bands():
    model = MaskedAutoencoder(range_encoder(16, patch=4, size=4, depth=1, heads=2), AutoencoderConfig(dim=8, heads=2, mixing=0.5))
    assert model((batch([490.0, 700.0, 2100.0]), batch(RADAR)), seeded()).loss.isfinite()


@pytest.mark.parametrize("pooling", ["class", "mean", "none"])
@pytest.mark.parametrize("sensors", [1, 2])
def test_features_of_sensors_lie_side_by_side(pooling, sensors):
    encoder = range_encoder(16, patch=4, size=4, depth=1, heads=2, norm=pooling == "class")
    model = SmartiesClassifier(encoder, 0, pooling=pooling, sensors=sensors).eval()
    pair = [(torch.randn(2, 2, 16, 16), torch.tensor(RADAR)), (torch.randn(2, 3, 16, 16), torch.tensor([490.0, 560.0, 665.0]))]
    features = model(*pair[:sensors])
    assert features.shape == (2, 16 * sensors, 4, 4) if pooling == "none" else (2, 16 * sensors)
    alone = SmartiesClassifier(encoder, 0, pooling=pooling).eval()
    alone.norm = model.norm
    torch.testing.assert_close(features[:, :16], alone(pair[0]))
    with pytest.raises(ValueError, match=rf"images of 3 sensors, expected {sensors}"):
        model(*pair, pair[0])


def test_published_tensors_tell_the_network():
    model = autoencoder()
    found = published_from(published(model), arguments={"num_heads": 2, "decoder_num_heads": 2})
    assert found.system.name == "SMARTIES"
    assert found.system.licence == "Apache-2.0"
    assert found.size == 16
    assert not found.coverage.dropped
    for name, tensor in model.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], tensor), name
    image = batch([490.0, 665.0])
    expected = model.eval().encoder(image.values, image.wavelengths, image.gsd).prefix
    assert torch.equal(found.encoder(image.values, image.wavelengths, image.gsd).prefix, expected)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("sensors", [1, 2])
def test_published_classifiers_tell_their_sensors_and_pooling(pooled, sensors):
    encoder = range_encoder(16, patch=4, size=4, depth=1, heads=2, norm=not pooled)
    model = SmartiesClassifier(encoder, 5, pooling="mean" if pooled else "class", sensors=sensors)
    found = published_from(published(model), arguments={"num_heads": 2})
    assert found.system.name == "SMARTIES (classifier)"
    images = [(torch.randn(2, 2, 16, 16), torch.tensor(RADAR))] * sensors
    assert torch.equal(found.network(*images), model.eval()(*images))


def test_a_missing_projection_is_named():
    state = published(autoencoder())
    del state["spectrum_projection.spectrum_embeds.16.proj.weight"]
    with pytest.raises(ValueError, match=r"looks like SMARTIES, but .*missing.*embeds\.16\.weight"):
        published_from(state, arguments={"num_heads": 2, "decoder_num_heads": 2})
    with pytest.raises(ValueError, match="give num_heads"):
        published_from(published(autoencoder()))


def test_a_head_behind_all_tokens_is_refused():
    with pytest.raises(ValueError, match="set num_classes to 0"):
        smarties.build_classifier({"all_tokens": True, "num_classes": 3, "embed_dim": 16, "num_heads": 2, "depth": 1})


def test_ranges_are_read_from_the_official_form():
    spec = {"sensors": ["X"], "name": "", "agg_projections": []}
    specs = {
        "swir": {"min_wavelength": 1345, "max_wavelength": 1406, "projection_idx": -1} | spec,
        "blue_2": {"min_wavelength": 452, "max_wavelength": 512, "projection_idx": 3} | spec | {"agg_projections": [0, 1]},
        "microwave_1": {"min_wavelength": 5.5e7, "max_wavelength": 5.6e7, "projection_idx": 2} | spec | {"name": "VV"},
        "blue_1": {"min_wavelength": 427, "max_wavelength": 558, "projection_idx": 1} | spec,
        "aerosol": {"min_wavelength": 422, "max_wavelength": 463, "projection_idx": 0} | spec,
    }
    assert smarties.ranges_of(specs) == (
        SpectralRange("aerosol", 422.0, 463.0),
        SpectralRange("blue_1", 427.0, 558.0),
        SpectralRange("microwave_1", 5.5e7, 5.6e7, "VV"),
        SpectralRange("blue_2", 452.0, 512.0, mixes=(0, 1)),
    )
    specs["microwave_1"]["name"] = "C"
    with pytest.raises(ValueError, match="microwave_1 of radar is named for no polarisation, allowed are VV, VH, HH, HV"):
        smarties.ranges_of(specs)


def test_the_scale_brings_percentiles_to_0_and_1():
    scale = smarties_scale()
    surface = batch([664.6], name="sentinel-2-l2a")
    surface.values[0, 0, 0, :3] = torch.tensor([0.00124955, 0.28294861, 2.0])
    surface.valid[1] = False
    scaled = scale(surface).values
    expected = (torch.tensor([0.0, 1.0, 1.0]) - 0.19834635) / 0.19246325
    torch.testing.assert_close(scaled[0, 0, 0, :3], expected, rtol=5e-3, atol=1e-3)  # the band is 0.4 nm off
    assert not scaled[1].any()
    radar = batch([-2.0, -1.0], name="sentinel-1-grd")
    radar.values[0, :, 0, 0] = torch.tensor([-9.905399, -29.519697])
    scaled = scale(radar).values[0, :, 0, 0]
    expected = torch.tensor([(1 - 0.60353202) / 0.22883052, -0.64934552 / 0.19030459])
    torch.testing.assert_close(scaled, expected, rtol=1e-4, atol=1e-5)
