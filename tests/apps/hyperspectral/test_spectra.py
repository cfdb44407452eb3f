import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from geovit.apps.hyperspectral.spectra import SpectralTransform, SpectralTransformConfig


@pytest.fixture
def spectra() -> torch.Tensor:
    """Correlated bands (3000 pixels, 10 bands), positive like reflectance."""
    random = torch.Generator().manual_seed(0)
    mixing = torch.randn(10, 10, generator=random)
    return 50 + torch.randn(3000, 10, generator=random) @ mixing


def image(spectra, rows=50):
    return spectra.T.unflatten(1, (rows, -1))[None]


def pixels(image):
    return image[0].flatten(1).T


def whiten(spectra, **options):
    config = SpectralTransformConfig(**options)
    return SpectralTransform(spectra.shape[1], config).fit(spectra)


@pytest.mark.parametrize("components", [None, 4])
def test_training_pixels_come_out_white(spectra, components):
    transform = whiten(spectra, shape=False, components=components, floor=0.0)
    z = pixels(transform(image(spectra)))
    assert z.shape[1] == (components or 10) == transform.features
    torch.testing.assert_close(z.mean(0), torch.zeros(z.shape[1]), rtol=0, atol=1e-3)
    torch.testing.assert_close(torch.cov(z.T, correction=0), torch.eye(z.shape[1]), rtol=0, atol=2e-3)


def test_components_are_the_principal_ones_the_largest_first(spectra):
    z = pixels(whiten(spectra, shape=False, components=3, floor=0.0)(image(spectra)))
    standardised = ((spectra - spectra.mean(0)) / spectra.std(0, correction=0)).double().numpy()
    expected = PCA(3, whiten=True, svd_solver="full").fit_transform(standardised)
    for ours, theirs in zip(z.T.numpy(), expected.T, strict=True):
        np.testing.assert_allclose(ours * np.sign(ours[0] * theirs[0]), theirs, atol=5e-3)


def test_a_floor_keeps_weak_directions_weak(spectra):
    spread = [pixels(whiten(spectra, shape=False, floor=floor)(image(spectra))).var(0).sum() for floor in (0.0, 0.1, 1.0)]
    assert spread[0] > spread[1] > spread[2] > 0


@pytest.mark.parametrize("shape", [True, False])
def test_invalid_pixels_become_zero_and_their_neighbours_do_not_notice(spectra, shape):
    transform = whiten(spectra, shape=shape)
    x = image(spectra)
    whole = transform(x)
    holes = x.clone()
    holes[0, 3, 7, 11] = float("nan")  # one band alone makes a pixel invalid
    holes[0, :, 20, 5] = float("inf")
    z = transform(holes)
    valid = torch.ones(z.shape[2:], dtype=torch.bool)
    valid[7, 11] = valid[20, 5] = False
    assert (z[0, :, ~valid] == 0).all()
    assert torch.equal(z[0, :, valid], whole[0, :, valid])


def test_statistics_are_those_of_the_given_pixels(spectra):
    transform = whiten(spectra[:100])
    torch.testing.assert_close(transform.band_mean, spectra[:100].mean(0))
    torch.testing.assert_close(transform.band_std, spectra[:100].std(0, correction=0))
    before = {name: value.clone() for name, value in transform.state_dict().items()}
    transform(image(spectra) * 3)
    assert all(torch.equal(value, before[name]) for name, value in transform.state_dict().items()), "mapping learns nothing"


def test_illumination_changes_the_level_alone(spectra):
    transform = whiten(spectra, shape=True)
    x = image(spectra)
    change = transform(1.7 * x) - transform(x)
    level = transform.matrix[:, -1][:, None, None] * 0.7 * x.mean(1, keepdim=True)
    torch.testing.assert_close(change, level, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("components", [0, 12])
def test_impossible_numbers_of_components_are_named(components):
    with pytest.raises(ValueError, match=f"components is {components}, allowed are 1..11"):
        SpectralTransform(10, SpectralTransformConfig(components=components))


def test_statistics_travel_in_the_state_dict(spectra):
    transform = whiten(spectra)
    other = SpectralTransform(10, SpectralTransformConfig())
    other.load_state_dict(transform.state_dict())
    assert torch.equal(other(image(spectra)), transform(image(spectra)))


def test_constant_bands_and_few_pixels_stay_finite(spectra):
    few = spectra[:3].clone()
    few[:, 4] = 7.0
    assert whiten(few)(image(spectra)).isfinite().all()
