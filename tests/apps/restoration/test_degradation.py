from functools import cache

import numpy as np
import pytest
import torch

from geovit.apps.restoration.degradation import Degradation, DegradationConfig
from geovit.apps.restoration.resize import matlab_resize, matlab_resize_tensor
from geovit.datasets.generated_images import generated_image

SIZE = 16
KINDS = {
    "blur": DegradationConfig(blur=1.0),
    "noise": DegradationConfig(noise=(25, 25)),
    "poisson": DegradationConfig(poisson=(1, 1)),
    "jpeg": DegradationConfig(jpeg=(10, 30)),
    "twice": DegradationConfig(blur=0.5, noise=(1, 10), jpeg=(30, 90), rounds=2, quantize=True),
}


def seeded(number):
    return torch.Generator().manual_seed(number)


@cache
def targets(scale, channels=3):
    extent = (SIZE + 32) * scale
    images = [generated_image(np.random.default_rng(k), 128)[:extent, :extent, :channels] for k in range(2)]
    return torch.from_numpy(np.stack(images)).movedim(-1, 1).float() / 255


def test_by_default_images_are_shrunk_as_matlab_does():
    image = generated_image(np.random.default_rng(0), 64)
    degradation = Degradation(DegradationConfig())
    for make in (degradation.whole(4), degradation.for_validation(4, seed=0)):
        np.testing.assert_array_equal(make(image), matlab_resize(image, 1 / 4))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1, 2])
def test_random_degradations_depend_on_the_generator_alone(kind, scale):
    degradation = Degradation(KINDS[kind])
    first, again, other = (degradation.crops(targets(scale), scale, SIZE, seeded(seed)) for seed in (3, 3, 4))
    assert first[0].shape == (2, 3, SIZE, SIZE)
    assert first[1].shape == (2, 3, SIZE * scale, SIZE * scale)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_sources_lie_on_their_targets():
    degradation = Degradation(DegradationConfig(noise=(0.001, 0.001)))
    source, target = degradation.crops(targets(2), 2, SIZE, seeded(0))
    inner = (..., slice(4, -4), slice(4, -4))  # the target's surroundings are not in the crop
    torch.testing.assert_close(source[inner], matlab_resize_tensor(target, 1 / 2)[inner], atol=1e-4, rtol=0)


def test_noise_has_the_given_strength():
    x = torch.full((1, 1, 80, 80), 0.5)
    gaussian, _ = Degradation(KINDS["noise"]).crops(x, 1, 48, seeded(0))
    poisson, _ = Degradation(KINDS["poisson"]).crops(x, 1, 48, seeded(0))
    assert gaussian.std().item() * 255 == pytest.approx(25, rel=0.05)
    assert poisson.std().item() * 255 == pytest.approx(127.5**0.5, rel=0.05)


def test_blur_keeps_flat_images_and_softens_others():
    degradation = Degradation(DegradationConfig(blur=1.0, blur_sigma=(2.0, 2.0)))
    flat, _ = degradation.crops(torch.full((1, 3, 48, 48), 0.3), 1, SIZE, seeded(0))
    torch.testing.assert_close(flat, torch.full((1, 3, SIZE, SIZE), 0.3))
    source, target = degradation.crops(targets(1), 1, SIZE, seeded(0))
    assert source.diff(dim=-1).abs().mean() < 0.7 * target.diff(dim=-1).abs().mean()


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_of_low_quality_loses_more(channels):
    x = matlab_resize_tensor(targets(1, channels)[..., :16, :16], 3)  # smooth: half of the chroma is lost at any quality
    errors = []
    for quality in (95, 10):
        source, target = Degradation(DegradationConfig(jpeg=(quality, quality))).crops(x, 1, SIZE, seeded(0))
        errors.append((source - target).abs().mean().item())
    assert 0 < 2 * errors[0] < errors[1]


def test_validation_sources_are_the_same_each_time_and_rounded():
    image = generated_image(np.random.default_rng(0), 50)
    make = Degradation(KINDS["twice"]).for_validation(2, seed=1)
    assert make(image).shape == (25, 25, 3)
    assert make(image).dtype == np.uint8
    np.testing.assert_array_equal(make(image), make(image))


@pytest.mark.parametrize(
    "wrong", [{"noise": (9, 1)}, {"jpeg": (0, 50)}, {"jpeg": (50, 101)}, {"blur": 2.0}, {"rounds": 0}, {"blur_sigma": (0, 1)}]
)
def test_impossible_ranges_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DegradationConfig(**wrong)
