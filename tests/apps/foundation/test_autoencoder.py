"""The masked auto-encoder: any bands, any number of sensors, and only pixels that are there."""

from dataclasses import replace

import pytest
import torch

from geovit.apps.foundation.autoencoder import AutoencoderConfig, MaskedAutoencoder
from geovit.apps.foundation.published.satmae import group_encoder
from geovit.core.backbones.token_encoder import TokenEncoder
from geovit.core.layers.token_position import GridPosition
from geovit.core.layers.tokenizers import ChannelEmbed, CubeEmbed, GroupEmbed
from geovit.core.sensors.batch import SensorBatch
from geovit.core.sensors.encoder import EncoderConfig, build_encoder
from geovit.core.sensors.normalization import Normalization

OPTICAL = [490.0, 560.0, 665.0, 842.0, 1610.0]
RADAR = [-1.0, -2.0]


def images(wavelengths, *, count: int = 4, side: int = 16, gsd: float = 10.0, name: str = "some") -> SensorBatch:
    """Smooth images, whose hidden parts can be guessed."""
    size = (count, len(wavelengths), side, side)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    slopes = torch.randn(count, 1, 2)
    gains = 1 + 0.3 * torch.randn(count, len(wavelengths), 1)
    values = (gains * slopes)[..., 0, None, None] * rows + (gains * slopes)[..., 1, None, None] * columns
    return SensorBatch(values, torch.ones(size, dtype=torch.bool), torch.tensor(wavelengths), torch.full((count,), gsd), name)


def autoencoder(**options) -> MaskedAutoencoder:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(dim=32, depth=1, heads=2, patch=4))
    return MaskedAutoencoder(encoder, AutoencoderConfig(**{"dim": 16, "depth": 1, "heads": 2} | options))


def grouped(**options) -> MaskedAutoencoder:
    torch.manual_seed(0)
    encoder = group_encoder([[490.0, 665.0, 1610.0], [560.0, 842.0]], 32, patch=4, depth=1, heads=2, group_dim=8)
    return MaskedAutoencoder(encoder, AutoencoderConfig(**{"dim": 16, "depth": 1, "heads": 2} | options))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


PAIR = {"mixing": 0.5, "normalize": "band", "spectral_sum": 0.5, "bands": 0.3}


@pytest.mark.parametrize(
    "options", [{}, PAIR, {"scales": 2}, {"normalize": "place", "shared": False}, {"crossing": 1.0}], ids=str
)
def test_gradients_reach_every_parameter(options):
    model = autoencoder(**options)
    model((images(OPTICAL, side=32), images(RADAR, side=32)), seeded()).loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("make", [autoencoder, grouped])
def test_the_order_of_bands_makes_no_difference(make):
    model, batch = make().eval(), images(OPTICAL)
    order = torch.tensor([3, 0, 4, 2, 1])
    turned = replace(batch, values=batch.values[:, order], valid=batch.valid[:, order], wavelengths=batch.wavelengths[order])
    one, other = model((batch,), seeded()), model((turned,), seeded())
    torch.testing.assert_close(one.loss, other.loss)
    torch.testing.assert_close(one.images[0][:, order], other.images[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, PAIR, {"scales": 1}], ids=str)
@pytest.mark.parametrize("poison", [1e30, float("nan")])
def test_missing_data_has_no_influence(options, poison):
    model, pair = autoencoder(**options).eval(), [images(OPTICAL), images(RADAR)]
    for batch in pair:
        batch.valid[:, 0, :5, :7] = False
        batch.valid[1] = False
        batch.valid[2, 1] = False
    zero, huge = (tuple(replace(b, values=b.values.masked_fill(~b.valid, v)) for b in pair) for v in (0.0, poison))
    one, other = model(zero, seeded()), model(huge, seeded())
    assert one.loss == other.loss
    assert one.loss.isfinite()
    for i in range(2):
        assert torch.equal(one.images[i], other.images[i])
        assert not (one.counts[i] & ~one.inputs[i].valid).any()


@pytest.mark.parametrize("make", [autoencoder, grouped])
@pytest.mark.parametrize("options", [{"space": 0.5}, {"space": 0.5, "bands": 0.5}, {"space": 0.0, "bands": 0.5}], ids=str)
def test_what_has_to_be_predicted_is_not_seen(make, options):
    model, batch = make(**options).eval(), images(OPTICAL)
    found = model((batch,), seeded())
    assert found.counts[0].any()
    changed = replace(batch, values=torch.where(found.counts[0], 1e3, batch.values))
    other = model((changed,), seeded())
    assert torch.equal(found.images[0], other.images[0])
    assert other.loss > 100 * found.loss
    # And what is seen makes a difference, but is not counted.
    changed = replace(batch, values=torch.where(found.counts[0], batch.values, 3.0))
    assert not torch.equal(found.images[0], model((changed,), seeded()).images[0])


def test_hidden_bands_of_joined_tokens_are_predicted_everywhere_the_others_where_hidden():
    found = autoencoder(space=0.5, bands=0.4)((images(OPTICAL),), seeded())
    places = found.counts[0].unflatten(3, (4, 4)).unflatten(2, (4, 4)).all(5).all(3)
    everywhere = places.flatten(2).all(2)
    assert everywhere.sum(1).tolist() == [2] * 4
    assert torch.equal(places[~everywhere], found.hidden[0].expand(-1, 5, -1, -1)[~everywhere])


def test_bands_of_a_group_are_predicted_where_its_token_is_hidden():
    found = grouped(space=0.5, spectral="independent")((images(OPTICAL),), seeded())
    places = found.counts[0].unflatten(3, (4, 4)).unflatten(2, (4, 4)).all(5).all(3)
    assert torch.equal(places, found.hidden[0][:, [0, 1, 0, 1, 0]])


def test_tokenisers_tell_which_token_a_band_is_in():
    x, wavelengths = torch.randn(1, 6, 4, 4), torch.tensor([900.0, 490.0, 1610.0, 560.0, 2190.0, 665.0])
    groups = GroupEmbed(8, patch=4, groups=[[490.0, 900.0], [560.0, 665.0, 490.0]], others="drop")
    assert groups(x, wavelengths, 10.0).owner.tolist() == [0, 0, -1, 1, -1, 1]
    assert CubeEmbed(8, patch=4)(x, wavelengths, 10.0).owner.tolist() == [1, 0, 1, 0, 1, 0]


def test_bands_that_were_not_drawn_are_predicted_everywhere():
    embed = ChannelEmbed(32, patch=4, sample=True)
    model = MaskedAutoencoder(TokenEncoder(embed, GridPosition(32), []), AutoencoderConfig(dim=16, depth=1, heads=2, space=0.5))
    for _ in range(4):
        found = model((images(OPTICAL),), seeded())
        everywhere = found.counts[0].flatten(2).all(2)
        drawn = found.hidden[0].shape[1]
        assert everywhere.sum(1).tolist() == [5 - drawn] * 4


def test_bands_that_no_token_has_are_predicted_from_the_others():
    found = grouped(space=0.5)((images([*OPTICAL, 2190.0]),), seeded())
    assert found.counts[0][:, 5].all()
    assert not found.counts[0][:, 0].all()


def test_sensors_of_different_bands_are_mixed():
    model = autoencoder(mixing=0.5).eval()
    pair = images(OPTICAL), images(RADAR)
    found = model(pair, seeded())
    assert [tuple(image.shape) for image in found.images] == [(4, 5, 16, 16), (4, 2, 16, 16)]
    assert torch.equal(*found.hidden)
    # What one sensor sees has an influence on what is predicted of the other.
    other = model((pair[0], replace(pair[1], values=pair[1].values + 1)), seeded())
    assert not torch.equal(found.images[0], other.images[0])
    alone = autoencoder().eval()
    apart = [alone((pair[0], replace(pair[1], values=pair[1].values + i)), seeded()).images[0] for i in range(2)]
    assert torch.equal(*apart)


def test_mixing_two_images_that_are_the_same_changes_nothing():
    batch = images(OPTICAL)
    mixed, plain = (autoencoder(mixing=share).eval()((batch, batch), seeded()) for share in (0.5, 0.0))
    torch.testing.assert_close(mixed.loss, plain.loss)
    torch.testing.assert_close(mixed.images[0], plain.images[0])


def test_what_other_sensors_see_is_predicted_from_one_alone():
    model, optical, radar = autoencoder(crossing=0.5).eval(), images(OPTICAL), images(RADAR)
    before = model((optical, radar), seeded())
    assert set(before.parts) == {"pixels", "other sensors"}
    assert "other sensors" not in model((optical,), seeded()).parts
    # At all places: a pixel that radar shows, hidden or not, counts in what is predicted from the optical image.
    for row in (0, 4, 8, 12):
        changed = replace(radar, valid=radar.valid.clone())
        changed.valid[:, :, row : row + 4] = False
        assert model((optical, changed), seeded()).parts["other sensors"] != before.parts["other sensors"]


def test_sensors_of_other_grids_are_not_predicted_from_each_other():
    model = autoencoder(crossing=1.0, shared=False)
    with pytest.raises(ValueError, match="4x4 and 8x8 tokens cannot be predicted from each other"):
        model((images(OPTICAL), images(RADAR, side=32, gsd=5.0)), seeded())


def test_sensors_that_do_not_fit_are_refused():
    model = autoencoder(mixing=0.5)
    with pytest.raises(ValueError, match="must be as many of each sensor, these are 4 of a, 3 of b"):
        model((images(OPTICAL, name="a"), images(RADAR, count=3, name="b")), seeded())
    with pytest.raises(ValueError, match="set shared to false"):
        model((images(OPTICAL), images(RADAR, side=8)), seeded())
    with pytest.raises(ValueError, match="these are 40 and 80 m"):
        model((images(OPTICAL), images(RADAR, gsd=20.0)), seeded())
    with pytest.raises(ValueError, match="two at a time, these are 3"):
        model((images(OPTICAL), images(RADAR), images(RADAR)), seeded())
    with pytest.raises(ValueError, match="these are none"):
        model((), seeded())


@pytest.mark.parametrize("options", [{}, PAIR], ids=str)
def test_the_loss_of_a_batch_is_the_mean_of_its_parts(options):
    model, pair = autoencoder(**options), (images(OPTICAL), images(RADAR))
    pair[0].valid[0, :, :9] = False
    pair[1].valid[3, 0] = False

    def part(start: int, stop: int) -> torch.Tensor:
        parts = [replace(b, values=b.values[start:stop], valid=b.valid[start:stop], gsd=b.gsd[start:stop]) for b in pair]
        return model(tuple(parts), [seeded(i) for i in range(start, stop)]).loss

    torch.testing.assert_close(part(0, 4), (part(0, 2) + part(2, 4)) / 2)


def test_the_same_seed_gives_the_same_loss():
    model, batch = autoencoder(), images(OPTICAL)
    one, same, other = (model((batch,), seeded(seed)).loss for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_larger_sizes_are_predicted_from_reduced_images():
    found = autoencoder(scales=2)((images(OPTICAL, side=32),), seeded())
    assert found.parts.keys() == {"pixels", "larger sizes"}
    assert found.images[0].shape == (4, 5, 8, 8)
    assert found.inputs[0].gsd.tolist() == [40.0] * 4
    torch.testing.assert_close(found.loss.detach(), found.parts["pixels"] + found.parts["larger sizes"])


@pytest.mark.parametrize("normalize", ["none", "band", "place"])
def test_predictions_come_in_the_units_of_the_input(normalize):
    model = autoencoder(normalize=normalize)
    raw = images(OPTICAL)
    raw = replace(raw, values=raw.values * 0.05 + 0.2)
    normalization = Normalization.fitted([raw])
    batch = normalization(raw)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    first = model((batch,), seeded()).loss.detach()
    for step in range(100):
        found = model((batch,), seeded(step))
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.step()
    found = model.eval()((batch,), seeded(1))
    assert found.loss < 0.7 * first
    physical = normalization.undo(found.images[0], batch.wavelengths)
    torch.testing.assert_close(normalization.undo(batch.values, batch.wavelengths), raw.values)
    error = (physical - raw.values)[found.counts[0]].square().mean()
    assert error < 0.3 * raw.values.var()
    assert not physical.requires_grad


def test_the_loss_is_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        found = autoencoder(**PAIR)((images(OPTICAL), images(RADAR)), seeded())
    assert found.loss.dtype == torch.float32
    found.loss.backward()
    exact = autoencoder(**PAIR)((images(OPTICAL), images(RADAR)), seeded())
    assert exact.loss.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"space": 1.5}, "share of space is 1.5"),
        ({"mixing": 1.0}, "mixing is 1.0"),
        ({"normalize": "patch"}, "normalize is 'patch'"),
        ({"scales": 4}, "scales is 4"),
        ({"spectral_sum": -1.0}, "spectral_sum is -1.0"),
    ],
)
def test_settings_that_are_not_allowed_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        AutoencoderConfig(**options)
