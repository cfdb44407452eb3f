"""Targets on patches of groups of bands."""

import pytest
import torch

from geovit.apps.foundation.pretraining.patch_targets import group_error, normalize_patches, spectral_sum_error

GROUPS = [[0, 2], [1]]


def test_a_normalised_patch_has_mean_zero_and_deviation_one_over_its_group():
    image = torch.randn(2, 3, 8, 12) * 7 + 50
    normal = normalize_patches(image, 4, GROUPS)
    patch = normal[:, [0, 2], 4:8, 8:12].flatten(1)
    torch.testing.assert_close(patch.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(patch.std(1), torch.ones(2))
    torch.testing.assert_close(normal[:, 1, :4, :4].flatten(1).std(1), torch.ones(2))


def test_patches_that_are_seen_do_not_count():
    image, target = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    target[:, :, :2] = 1e3  # the upper patches of all bands
    target[:, 1, 2:] = 2.0
    hidden = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    hidden[:, :, 1] = True
    assert group_error(image, target, hidden, GROUPS) == 2  # 0 of the first group, 4 of the second: both weigh the same


def test_the_sum_over_the_spectrum_forgives_errors_that_cancel():
    image = torch.randn(1, 6, 4, 4)
    moved = image.clone()
    moved[:, 0] += 1
    moved[:, 3] -= 1  # the first band of the other cube
    torch.testing.assert_close(spectral_sum_error(moved, image, 3), torch.tensor(0.0), atol=1e-10, rtol=0)
    assert spectral_sum_error(moved, image, 2) > 0.1
    with pytest.raises(ValueError, match="6 bands are no multiple of 4"):
        spectral_sum_error(image, image, 4)
