import numpy as np
import pytest
import torch

from geovit.apps.foundation.pretraining.augmentation import AugmentationConfig, augmented
from geovit.core.sensors.batch import SensorBatch


def batch(count=4, bands=6):
    values = torch.randn(count, bands, 8, 8)
    valid = torch.rand(values.shape) > 0.1
    gsd = torch.full((count,), 10.0)
    return SensorBatch(values.where(valid, 0.0), valid, torch.linspace(450, 2200, bands), gsd, "a")


def draws(*seeds):
    return [np.random.default_rng(seed) for seed in seeds]


def test_nothing_is_altered_by_default():
    one = batch()
    (found,) = augmented((one,), AugmentationConfig(), *draws(0), draws(1, 2, 3, 4))
    assert found is one


def test_bands_are_left_out_with_all_that_belongs_to_them():
    one, config = batch(), AugmentationConfig(bands=1.0, least=2)
    counts = set()
    for seed in range(40):
        (found,) = augmented((one,), config, *draws(seed), draws(1, 2, 3, 4))
        kept = torch.searchsorted(one.wavelengths, found.wavelengths)
        counts.add(len(kept))
        assert torch.equal(found.wavelengths, one.wavelengths[kept])
        assert torch.equal(found.values, one.values[:, kept])
        assert torch.equal(found.valid, one.valid[:, kept])
    assert counts == {2, 3, 4, 5, 6}


def test_brightness_is_an_image_s_own_and_no_data_stays_0():
    one, config = batch(), AugmentationConfig(gain=0.2, band_gain=0.1, offset=0.3)
    (whole,) = augmented((one,), config, *draws(0), draws(1, 2, 3, 4))
    assert not whole.values[~one.valid].any()
    assert not torch.allclose(whole.values, one.values)
    half = SensorBatch(one.values[2:], one.valid[2:], one.wavelengths, one.gsd[2:], "a")
    (part,) = augmented((half,), config, *draws(0), draws(3, 4))
    torch.testing.assert_close(part.values, whole.values[2:])


@pytest.mark.parametrize("wrong", [{"bands": 2.0}, {"least": 0}, {"gain": -1.0}])
def test_what_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(ValueError, match="allowed are"):
        AugmentationConfig(**wrong)
