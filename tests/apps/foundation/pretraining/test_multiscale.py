"""Reconstruction at larger sizes as a target."""

import pytest
import torch

from geovit.apps.foundation.pretraining.multiscale import MultiScaleHead, multiscale_error


@pytest.mark.parametrize("scales", [1, 2, 3])
def test_each_image_is_twice_the_one_before(scales):
    head = MultiScaleHead(4, 8, scales=scales)
    images = head(torch.randn(2, 4, 6, 10))
    assert [tuple(image.shape) for image in images] == [(2, 4, 6 * 2**i, 10 * 2**i) for i in range(1, scales + 1)]


def test_a_head_of_one_band_treats_every_band_alike():
    head, image = MultiScaleHead(1, 8), torch.randn(2, 3, 4, 4)
    together = head(image)
    for band in range(3):
        for whole, alone in zip(together, head(image[:, band : band + 1]), strict=True):
            torch.testing.assert_close(whole[:, band : band + 1], alone)


def test_another_number_of_bands_is_refused():
    with pytest.raises(ValueError, match="3 bands, expected 4"):
        MultiScaleHead(4, 8)(torch.randn(1, 3, 4, 4))


def test_the_error_is_the_mean_over_sizes_not_pixels():
    small, large = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 4, 4)
    assert multiscale_error([small, large], [small + 1, large + 3]) == 2
