import pytest
import torch
from sklearn.kernel_ridge import KernelRidge

from geovit.apps.hyperspectral.discriminant import spread_within
from geovit.apps.hyperspectral.kernel_classifier import KernelClassifier, mean_spectra


@pytest.fixture
def pixels() -> tuple[torch.Tensor, torch.Tensor]:
    """Spectra (150, 8) on two rings and one blob of two pixels, which no line tells apart."""
    random = torch.Generator().manual_seed(0)
    targets = torch.tensor([0] * 74 + [1] * 74 + [2] * 2)
    angle = 2 * torch.pi * torch.rand(150, generator=random)
    radius = torch.tensor([1.0, 3.0, 8.0])[targets]
    ring = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    mixing = torch.randn(2, 8, generator=random)
    return 3000 + 100 * (ring @ mixing + 0.1 * torch.randn(150, 8, generator=random)), targets


def logits(model: KernelClassifier, spectra: torch.Tensor) -> torch.Tensor:
    """Logits of single pixels, none beside another."""
    return model(spectra[:, :, None, None])[:, :, 0, 0]


def fitted(spectra: torch.Tensor, targets: torch.Tensor, *, classes: int = 3, supports: int = 200) -> KernelClassifier:
    return KernelClassifier(spectra.shape[1], classes, supports=supports).fit(spectra[None], targets, label_smoothing=0.05)


def test_logits_are_those_of_kernel_ridge_regression_in_the_metric_of_the_discriminant(pixels):
    spectra, targets = pixels
    scaled = ((spectra - spectra.mean(0)) / spectra.std(0, correction=0)).double()
    _, within = spread_within(scaled, targets, 3, 0.3)
    white = scaled @ torch.linalg.cholesky(torch.linalg.inv(within))
    apart = torch.cdist(white, white).square().mean()
    truth = torch.nn.functional.one_hot(targets, 3).double()
    shares = truth.mean(0)
    known = KernelRidge(alpha=0.3, kernel="rbf", gamma=float(1 / apart)).fit(white, truth - shares).predict(white)
    expected = torch.from_numpy(known) + shares
    found = logits(fitted(spectra, targets), spectra).double()
    scale = expected.norm() / found.norm()
    torch.testing.assert_close(found * scale, expected, rtol=1e-3, atol=2e-3)


def test_classes_that_no_plane_parts_are_told_from_few_support_spectra(pixels):
    spectra, targets = pixels
    found = logits(fitted(spectra, targets, supports=40), spectra).argmax(1)
    assert (found == targets)[targets < 2].float().mean() > 0.95


def test_support_spectra_that_are_not_needed_change_nothing(pixels):
    spectra, targets = pixels
    torch.testing.assert_close(
        logits(fitted(spectra, targets, supports=150), spectra), logits(fitted(spectra, targets, supports=999), spectra)
    )


def test_the_window_is_that_at_which_pixels_left_out_are_told_best(pixels):
    spectra, targets = pixels
    noise = 500 * torch.randn(3, *spectra.shape, generator=torch.Generator().manual_seed(1))
    for best in range(3):
        spoilt = torch.stack([spectra if r == best else spectra + noise[r] for r in range(3)])
        assert KernelClassifier(8, 3, supports=150).fit(spoilt, targets, label_smoothing=0.05).radius == best


def test_what_is_fitted_to_a_window_sees_the_mean_of_its_valid_pixels_and_no_others(pixels):
    spectra, targets = pixels
    spoilt = torch.stack([spectra.flip(0), spectra, spectra.flip(0)])
    model = KernelClassifier(8, 3, supports=150).fit(spoilt, targets, label_smoothing=0.05)
    assert model.radius == 1
    scene = spectra[:49].T.reshape(1, 8, 7, 7).clone()
    scene[0, :, 2, 3] = torch.nan
    around = scene[0, :, 2:5, 2:5].flatten(1)
    expected = logits_of_mean(model, around[:, around.isfinite().all(0)].mean(1))
    torch.testing.assert_close(model(scene)[0, :, 3, 3], expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(mean_spectra(scene)[0, 8:16, 3, 3], around[:, around.isfinite().all(0)].mean(1))
    far = scene.clone()
    far[..., 0] = 0
    assert torch.equal(model(far)[..., 2:], model(scene)[..., 2:])


def logits_of_mean(model: KernelClassifier, spectrum: torch.Tensor) -> torch.Tensor:
    """Logits of a scene that is the same everywhere."""
    return model(spectrum[None, :, None, None].expand(1, -1, 5, 5))[0, :, 2, 2]


def test_a_class_without_pixels_is_never_chosen_and_pixels_without_data_do_no_harm(pixels):
    spectra, targets = pixels
    spectra[0, 5] = torch.nan
    model = fitted(spectra[1:], targets[1:], classes=4)
    found = logits(model, spectra)
    assert found.isfinite().all()
    assert (found.softmax(1)[:, 3] == 0).all()


def test_the_window_is_part_of_the_state(pixels):
    spectra, targets = pixels
    model = KernelClassifier(8, 3, supports=150).fit(torch.stack([spectra.flip(0), spectra.flip(0), spectra]), targets)
    other = KernelClassifier(8, 3, supports=150)
    other.load_state_dict(model.state_dict())
    scene = spectra[:49].T.reshape(1, 8, 7, 7)
    assert model.radius == 2
    assert torch.equal(other(scene), model(scene))


def test_a_fit_is_the_same_each_time(pixels):
    one, other = (fitted(*pixels, supports=40).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_no_support_spectra_are_refused():
    with pytest.raises(ValueError, match="has 0 support spectra, allowed are 1 or more"):
        KernelClassifier(8, 3, supports=0)


def test_the_weights_are_solved_for_and_not_trained():
    assert not list(KernelClassifier(8, 3, supports=4).parameters())
