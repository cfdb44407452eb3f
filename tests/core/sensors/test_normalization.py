"""A scale of values over wavelength."""

import pytest
import torch

from geovit.core.sensors.batch import SensorBatch
from geovit.core.sensors.normalization import Normalization


def batch(wavelengths: list[float]) -> SensorBatch:
    scale = torch.arange(1.0, len(wavelengths) + 1)[:, None, None]
    values = (0.1 + 0.05 * torch.randn(8, len(wavelengths), 16, 16)) * scale
    return SensorBatch(values, torch.ones_like(values, dtype=torch.bool), torch.tensor(wavelengths), torch.full((8,), 10.0), "a")


def test_training_images_get_mean_0_and_deviation_1():
    images = batch([665.0, 490.0, -1.0])
    images.valid[:, :, :4] = False
    images.values[:, :, :4] = 1e6  # no data, whatever it says
    normal = Normalization.fitted([images])(images)
    for band in range(3):
        values = normal.values[:, band, 4:]
        torch.testing.assert_close(values.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
        torch.testing.assert_close(values.std(), torch.tensor(1.0), atol=1e-3, rtol=0)
    assert not normal.values[:, :, :4].any()


def test_bands_that_were_not_there_are_interpolated_over_wavelength():
    fitted = Normalization.fitted([batch([500.0, 700.0, 900.0]), batch([-1.0, -2.0])])
    mean, deviation = fitted.at(torch.tensor([850.0, 300.0, 500.0, 550.0, 2000.0, -2.0]))
    known, spread = (t.tolist() for t in fitted.at(torch.tensor([500.0, 700.0, 900.0, -1.0, -2.0])))
    expected = [(known[1] + 3 * known[2]) / 4, known[0], known[0], (3 * known[0] + known[1]) / 4, known[2], known[4]]
    torch.testing.assert_close(mean, torch.tensor(expected))
    torch.testing.assert_close(deviation[0], torch.tensor((spread[1] + 3 * spread[2]) / 4))
    # Another polarisation takes the mean of those that were there.
    torch.testing.assert_close(fitted.at(torch.tensor([-3.0]))[0], torch.tensor([(known[3] + known[4]) / 2]))


def test_one_knot_serves_every_wavelength():
    fitted = Normalization.fitted([batch([560.0])])
    mean, _ = fitted.at(torch.tensor([400.0, 560.0, 2000.0]))
    assert torch.equal(mean, fitted.mean.expand(3))


def test_a_kind_of_bands_without_a_scale_is_refused():
    optical, radar = Normalization.fitted([batch([560.0])]), Normalization.fitted([batch([-1.0])])
    with pytest.raises(ValueError, match="trained on optical bands only: there is no scale for -2"):
        optical.at(torch.tensor([560.0, -2.0]))
    with pytest.raises(ValueError, match="trained on radar bands only: there is no scale for 560"):
        radar.at(torch.tensor([-1.0, 560.0]))
    images = batch([560.0])
    images.valid[:] = False
    with pytest.raises(ValueError, match="no valid value"):
        Normalization.fitted([images])


def test_physical_values_come_back():
    images = batch([665.0, 490.0])
    fitted = Normalization.fitted([images])
    normal = fitted(images)
    torch.testing.assert_close(fitted.undo(normal.values, normal.wavelengths), images.values)


def test_logarithms_are_of_optical_bands_alone():
    images = batch([665.0, -1.0])
    images.values.clamp_min_(0)
    fitted = Normalization.fitted([images], logarithm=0.1)
    normal, plain = fitted(images), Normalization.fitted([images])(images)
    torch.testing.assert_close(normal.values[:, 1], plain.values[:, 1])
    logs = (images.values[:, 0] + 0.1).log()
    torch.testing.assert_close(normal.values[:, 0], (logs - logs.mean()) / logs.std(correction=0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fitted.undo(normal.values, normal.wavelengths), images.values)
    with pytest.raises(ValueError, match="logarithm is -1"):
        Normalization(2, logarithm=-1.0)
