import numpy as np
import torch

from geovit.apps.foundation.pretraining.panel import colours, panel
from geovit.core.sensors.batch import SensorBatch

S2 = torch.tensor([443.0, 490.0, 560.0, 665.0, 842.0])


def batch(wavelengths, valid=True):
    values = torch.rand(2, len(wavelengths), 16, 16)
    there = torch.full(values.shape, fill_value=valid)
    return SensorBatch(values, there, wavelengths, torch.full((2,), 10.0), "a")


def test_red_green_and_blue_are_the_bands_of_these_colours():
    weights, middle = colours(torch.rand(1, 5, 4, 4), S2)
    assert weights.argmax(1).tolist() == [3, 2, 1]
    assert weights.sum() == 3
    assert not middle.any()


def test_other_bands_are_shown_by_the_directions_in_which_they_differ():
    x = torch.zeros(1, 2, 8, 8)
    x[0, 0] = torch.randn(8, 8)
    x[0, 1] = 2 * x[0, 0] + 0.01 * torch.randn(8, 8)
    weights, _ = colours(x, torch.tensor([-1.0, -2.0]))
    torch.testing.assert_close(weights[0], torch.tensor([1.0, 2.0]) / 5**0.5, atol=0.02, rtol=0)
    assert weights.shape == (3, 2)


def test_panel_shows_input_what_was_seen_and_what_was_made():
    one = batch(S2)
    hidden = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    hidden[:, :, 0, 0] = True
    picture = panel(one, one.values, hidden)
    assert picture.shape == (2 * 16 + 2, 3 * 16 + 4, 3)
    assert picture.dtype == np.uint8
    source, seen, made = (picture[:16, at : at + 16] for at in (0, 18, 36))
    assert np.array_equal(source, made)
    assert (seen[:4, :4] == 128).all()
    assert np.array_equal(seen[4:], source[4:])
    assert source.min() == 0
    assert source.max() == 255


def test_what_is_no_data_is_black():
    picture = panel(batch(S2, valid=False), torch.zeros(2, 5, 16, 16), torch.zeros(2, 1, 4, 4, dtype=torch.bool), count=1)
    assert not picture[:, :16].any()
