"""What a frozen encoder knows around a token, as a target."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from geovit.apps.foundation.pretraining.autoencoder import AutoencoderConfig, MaskedAutoencoder
from geovit.apps.foundation.pretraining.context import ContextHead, surroundings
from geovit.core.sensors.batch import SensorBatch
from geovit.core.sensors.encoder import EncoderConfig, build_encoder

OPTICAL = [490.0, 560.0, 665.0, 842.0, 1610.0]
ALONE = {"pixels": 0.0, "context": 1.0, "space": 0.5}


def images(wavelengths=OPTICAL, *, count: int = 3, side: int = 16, seed: int = 1) -> SensorBatch:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, len(wavelengths), side, side, generator=generator)
    valid = torch.ones_like(values, dtype=torch.bool)
    return SensorBatch(values, valid, torch.tensor(wavelengths), torch.full((count,), 10.0), "some")


def autoencoder(tokenizer="wavelength", mixer="joint", **options) -> MaskedAutoencoder:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(tokenizer=tokenizer, mixer=mixer, dim=24, depth=1, heads=2, patch=4))
    return MaskedAutoencoder(encoder, AutoencoderConfig(**{"dim": 16, "depth": 1, "heads": 2} | options))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("side", [1, 3, 9])
def test_surroundings_are_the_means_of_what_is_there(side):
    x, there = torch.randn(2, 3, 6, 5), torch.rand(2, 6, 5) > 0.5
    there[:, :2, :2] = False
    poisoned = x.masked_fill(~there[:, None], torch.nan)
    found = surroundings(poisoned, there, side)
    reach = side // 2
    for b, r, k in np.ndindex(2, 6, 5):
        square = (b, slice(max(r - reach, 0), r + reach + 1), slice(max(k - reach, 0), k + reach + 1))
        inside = x.movedim(1, -1)[square][there[square]]
        torch.testing.assert_close(found[b, :, r, k], inside.mean(0) if len(inside) else torch.zeros(3))


def test_a_head_that_knows_the_features_makes_no_error():
    encoder, batch = autoencoder().encoder, images()
    head, everywhere = ContextHead(encoder, sides=[1]), torch.ones(3, 4, 4, dtype=torch.bool)
    with torch.no_grad():
        tokens = encoder(batch.values, batch.wavelengths, batch.gsd, None).places()
        head.project.weight.copy_(torch.eye(24))
        head.project.bias.zero_()
        assert head(tokens, everywhere, batch) < 1e-8
        assert head(tokens.flip(1), everywhere, batch) > 0.1


def test_tokens_that_were_not_seen_do_not_count():
    head, batch = ContextHead(autoencoder().encoder, sides=[1, 3]), images()
    tokens = torch.randn(3, 4, 4, 24, requires_grad=True)
    seen = torch.rand(3, 4, 4) > 0.5
    head(tokens, seen, batch).backward()
    assert torch.equal(tokens.grad.abs().sum(-1) > 0, seen)


def test_hidden_places_around_a_token_are_targets():
    # What the encoder does not see changes what it should have told, and not what it tells.
    model, batch = autoencoder(**ALONE, sides=[3]).eval(), images()
    found = model((batch,), seeded())
    pixels = found.hidden[0].repeat_interleave(4, 2).repeat_interleave(4, 3).expand_as(batch.values)
    changed = replace(batch, values=torch.where(pixels, -batch.values, batch.values))
    assert not torch.equal(model((changed,), seeded()).loss, found.loss)


@pytest.mark.parametrize(("tokenizer", "mixer"), [("wavelength", "joint"), ("wavelength", "window"), ("channel", "less")])
def test_alone_it_trains_the_encoder_and_reconstructs_nothing(tokenizer, mixer):
    model = autoencoder(tokenizer, mixer, **ALONE)
    frozen = {name: value.clone() for name, value in model.context.teacher.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(40):
        found = model((images(),), seeded(step))
        assert set(found.parts) == {"context"}
        assert found.images == ()
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.step()
        losses.append(float(found.loss.detach()))
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    assert not any(name.startswith(("decoder", "head")) for name, _ in model.named_parameters())
    assert all(torch.equal(value, frozen[name]) for name, value in model.context.teacher.state_dict().items())


def test_beside_pixels_its_weight_counts():
    batch = images()
    one, two = (autoencoder(context=weight)((batch,), seeded()) for weight in (1.0, 3.0))
    assert set(one.parts) == {"pixels", "context"}
    torch.testing.assert_close(two.parts["context"], 3 * one.parts["context"])
    torch.testing.assert_close(two.loss, one.parts["pixels"] + 3 * one.parts["context"])
    half = autoencoder(pixels=0.5, context=1.0)((batch,), seeded())
    torch.testing.assert_close(half.parts["pixels"], one.parts["pixels"] / 2)


@pytest.mark.parametrize("tokenizer", ["wavelength", "channel"])
@pytest.mark.parametrize("poison", [1e30, float("nan")])
def test_missing_data_has_no_influence(tokenizer, poison):
    model, batch = autoencoder(tokenizer, **ALONE).eval(), images()
    batch.valid[0, :, :8, :9] = False
    batch.valid[1] = False
    batch.valid[2, 1] = False
    one, other = (
        model((replace(batch, values=batch.values.masked_fill(~batch.valid, value)),), seeded()) for value in (0.0, poison)
    )
    assert one.loss == other.loss
    assert one.loss.isfinite()


def test_parts_of_a_batch_give_the_mean_of_the_whole():
    model, batch = autoencoder(**ALONE).eval(), images(count=4)
    halves = slice(2), slice(2, 4)
    parts = [replace(batch, values=batch.values[half], valid=batch.valid[half], gsd=batch.gsd[half]) for half in halves]
    generators = [seeded(i) for i in range(4)]
    whole = model((batch,), generators).loss
    generators = [seeded(i) for i in range(4)]
    losses = [model((part,), generators[half]).loss for part, half in zip(parts, halves, strict=True)]
    torch.testing.assert_close(torch.stack(losses).mean(), whole)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"context": -1.0}, "context is -1.0"),
        ({"pixels": -1.0}, "pixels is -1.0"),
        ({"context": 1.0, "sides": (3, 4)}, r"sides are \(3, 4\), allowed are odd numbers"),
        ({"context": 1.0, "sides": ()}, "one at least"),
        ({"context": 1.0, "mixing": 0.5}, "context 1.0 with mixing 0.5"),
        ({"pixels": 0.0}, "allowed is context alone"),
        ({"pixels": 0.0, "context": 1.0, "crossing": 1.0}, "crossing 1.0"),
    ],
)
def test_settings_that_are_not_allowed_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        AutoencoderConfig(**options)
