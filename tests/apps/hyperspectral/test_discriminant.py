import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from geovit.apps.hyperspectral.discriminant import LinearDiscriminant


@pytest.fixture
def pixels() -> tuple[torch.Tensor, torch.Tensor]:
    """More correlated bands than a small class has pixels: (200, 12), and three classes of which the last has two pixels."""
    random = torch.Generator().manual_seed(0)
    targets = torch.tensor([0] * 120 + [1] * 78 + [2] * 2)
    centres = 3 * torch.randn(3, 12, generator=random)
    noise = torch.randn(200, 12, generator=random) @ torch.randn(12, 12, generator=random)
    return 3000 + 100 * (centres[targets] + noise), targets


def logits(model: LinearDiscriminant, spectra: torch.Tensor) -> torch.Tensor:
    return model(spectra.T[None, :, :, None])[0, :, :, 0].T


@pytest.mark.parametrize("shrinkage", [0.02, 0.5])
def test_logits_are_those_of_scikit_learn_on_standardised_bands_but_for_a_temperature(pixels, shrinkage):
    spectra, targets = pixels
    scaled = ((spectra - spectra.mean(0)) / spectra.std(0, correction=0)).double().numpy()
    known = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(scaled, targets).decision_function(scaled)
    expected = torch.from_numpy(known - known.mean(1, keepdims=True))
    found = logits(LinearDiscriminant(12, 3, shrinkage=shrinkage).fit(spectra, targets), spectra).double()
    found -= found.mean(1, keepdim=True)
    temperature = expected.norm() / found.norm()
    assert temperature > 0.999
    torch.testing.assert_close(found * temperature, expected, rtol=1e-3, atol=1e-2)


def test_few_pixels_of_many_bands_make_it_no_surer_than_it_is_right():
    random = torch.Generator().manual_seed(0)
    spectra, targets = torch.randn(640, 40, generator=random), torch.arange(640) % 2
    spectra[:, 0] += 2 * targets
    model = LinearDiscriminant(40, 2, shrinkage=0.02).fit(spectra[:40], targets[:40], label_smoothing=0.05)
    sure, chosen = logits(model, spectra[40:]).softmax(1).max(1)
    assert sure.mean() < (chosen == targets[40:]).float().mean() + 0.1


def test_a_class_without_pixels_is_never_chosen(pixels):
    spectra, targets = pixels
    found = logits(LinearDiscriminant(12, 4, shrinkage=0.1).fit(spectra, targets), spectra)
    assert found.isfinite().all()
    assert (found.softmax(1)[:, 3] == 0).all()


def test_bands_without_data_or_spread_do_no_harm(pixels):
    spectra, targets = pixels
    spectra[:, 3] = 7.0
    model = LinearDiscriminant(12, 3, shrinkage=0.1).fit(spectra, targets)
    assert (logits(model, spectra).argmax(1) == targets).float().mean() > 0.7
    hole = spectra.clone()
    hole[0, 5] = torch.nan
    assert logits(model, hole).isfinite().all()
    torch.testing.assert_close(logits(model, hole)[1:], logits(model, spectra)[1:])


def test_a_shrinkage_that_leaves_nothing_to_invert_is_refused():
    with pytest.raises(ValueError, match="shrinkage is 0, allowed are numbers above 0"):
        LinearDiscriminant(12, 3, shrinkage=0)


def test_the_weights_are_solved_for_and_not_trained():
    assert not list(LinearDiscriminant(12, 3, shrinkage=0.1).parameters())
