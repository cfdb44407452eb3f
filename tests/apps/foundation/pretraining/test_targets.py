"""What is predicted: valid pixels alone, on the scale of their patch, and how errors are weighed."""

import math

import pytest
import torch

from geovit.apps.foundation.pretraining.targets import PatchScale, absolute_error, shrink, spectral_error, squared_error
from geovit.core.sensors.batch import SensorBatch


def test_patches_are_normalised_by_their_valid_pixels():
    image = torch.randn(2, 3, 8, 12) * 5 + 20
    valid = torch.rand(2, 3, 8, 12) < 0.7
    poisoned = image.masked_fill(~valid, 1e9)
    for over in ("band", "place"):
        scale = PatchScale.of(poisoned, valid, 4, over)
        normal = scale.apply(image)
        part, there = normal[1, :, 4:8, 8:12], valid[1, :, 4:8, 8:12]
        groups = [part[band][there[band]] for band in range(3)] if over == "band" else [part[there]]
        for group in groups:
            assert abs(float(group.mean())) < 1e-4
            assert abs(float(group.std()) - 1) < 1e-4
        torch.testing.assert_close(scale.undo(normal), image, rtol=1e-4, atol=1e-4)


def test_a_patch_without_valid_pixels_or_of_one_value_stays_finite():
    for valid in (torch.zeros(1, 1, 4, 4, dtype=torch.bool), torch.ones(1, 1, 4, 4, dtype=torch.bool)):
        scale = PatchScale.of(torch.full((1, 1, 4, 4), 3.0), valid, 4, "band")
        assert scale.apply(torch.full((1, 1, 4, 4), 3.0)).isfinite().all()


def test_an_image_s_error_is_the_mean_over_what_counts_in_it():
    target, counts = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2, dtype=torch.bool)
    image = torch.tensor([[[[1.0, 7.0], [7.0, 7.0]]], [[[2.0, 2.0], [2.0, 7.0]]]])
    counts[0, 0, 0, 0] = True
    counts[1, 0, 0] = counts[1, 0, 1, 0] = True
    assert squared_error(image, target, counts) == (1 + 4) / 2
    assert absolute_error(image, target, counts) == (1 + 2) / 2
    # Of parts of a batch it is the mean of theirs.
    parts = torch.stack([squared_error(image[i : i + 1], target[i : i + 1], counts[i : i + 1]) for i in range(2)])
    assert parts.mean() == squared_error(image, target, counts)


@pytest.mark.parametrize("error", [squared_error, absolute_error, spectral_error])
@pytest.mark.parametrize("poison", [1e30, math.inf, math.nan])
def test_what_does_not_count_has_no_influence_on_errors_or_gradients(error, poison):
    image = torch.randn(2, 3, 4, 4, requires_grad=True)
    target, counts = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4) < 0.5
    counts[1] = False
    clean = error(image, target.masked_fill(~counts, 0.0), counts)
    (gradient,) = torch.autograd.grad(clean, image)
    poisoned = error(image, target.masked_fill(~counts, poison), counts)
    assert torch.equal(clean, poisoned)
    assert torch.equal(torch.autograd.grad(poisoned, image)[0], gradient)
    assert not gradient[~counts].any()


def test_errors_are_taken_in_float32():
    image, target = torch.full((1, 1, 64, 64), 300.0, dtype=torch.float16), torch.zeros(1, 1, 64, 64)
    assert squared_error(image, target, torch.ones(1, 1, 64, 64, dtype=torch.bool)) == 90_000.0  # above 65,504


def test_errors_that_all_bands_share_weigh_more_in_sums_over_the_spectrum():
    zero, valid = torch.zeros(1, 8, 4, 4), torch.ones(1, 8, 4, 4, dtype=torch.bool)
    assert spectral_error(zero + 1, zero, valid) == 8
    cancelling = torch.tensor([1.0, -1.0] * 4)[None, :, None, None].expand(1, 8, 4, 4)
    assert spectral_error(cancelling, zero, valid) == 0


def test_larger_pixels_are_means_of_the_valid_ones():
    values = torch.tensor([[[[1.0, 3.0, 5.0, 9e9], [1.0, 3.0, 9e9, 9e9], [9e9] * 4, [9e9] * 4]]])
    batch = SensorBatch(values, values < 1e9, torch.tensor([560.0]), torch.tensor([10.0]), "a")
    small = shrink(batch, 2)
    assert small.values.tolist() == [[[[2.0, 5.0], [0.0, 0.0]]]]
    assert small.valid.tolist() == [[[[True, True], [False, False]]]]
    assert small.gsd.tolist() == [20.0]
    with pytest.raises(ValueError, match="4 x 4 pixels cannot be reduced to 1/8"):
        shrink(batch, 8)
