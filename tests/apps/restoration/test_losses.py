import pytest
import torch
from torch.nn import functional as F

from geovit.apps.restoration.losses import Loss, LossConfig, VGGFeatures, charbonnier, frequency_loss, negative_psnr


@pytest.fixture
def images():
    return torch.rand(2, 3, 8, 10, dtype=torch.float64, requires_grad=True), torch.rand(2, 3, 8, 10, dtype=torch.float64)


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    """Weights in torchvision's layout: a VGG19 that nobody trained."""
    from torchvision.models import vgg19

    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    with torch.device("meta"):
        shapes = {f"features.{name}": value.shape for name, value in vgg19(weights=None).features.state_dict().items()}
    state = {name: torch.randn(shape) * (2 / max(shape[1:].numel(), 9)) ** 0.5 for name, shape in shapes.items()}
    torch.save(state | {"classifier.0.bias": torch.zeros(3)}, path)
    return path


@pytest.mark.parametrize("loss", [charbonnier, frequency_loss, negative_psnr, F.l1_loss])
def test_gradients_are_those_of_the_loss(images, loss):
    restored, target = images
    assert torch.autograd.gradcheck(lambda x: loss(x, target), (restored,))


def test_losses_have_their_known_values():
    a, b = torch.zeros(2, 1, 4, 4), torch.full((2, 1, 4, 4), 0.1)
    assert charbonnier(a, b).item() == pytest.approx((0.01 + 1e-6) ** 0.5)
    assert charbonnier(a, a).item() == pytest.approx(1e-3)
    assert negative_psnr(a, b).item() == pytest.approx(-20, abs=1e-4)
    # A constant has one frequency: 16 pixels of 0.1 in one of 4 x 3 complex numbers, of two parts each.
    assert frequency_loss(a, b).item() == pytest.approx(1.6 / 24)


def test_configured_loss_is_the_weighted_sum(images):
    restored, target = (image.float() for image in images)
    loss = Loss(LossConfig(pixels="charbonnier", pixel_weight=2.0, frequency_weight=0.5))
    expected = 2 * charbonnier(restored, target) + 0.5 * frequency_loss(restored, target)
    torch.testing.assert_close(loss(restored, target), expected)
    assert loss(restored.bfloat16(), target).dtype == torch.float32


def test_perceptual_loss_compares_features_of_a_local_file(vgg_file):
    features = VGGFeatures(vgg_file)
    assert len(features.features) == 35
    assert not any(parameter.requires_grad for parameter in features.parameters())
    target = torch.rand(1, 3, 32, 32)
    restored = (target + 0.1 * torch.rand(1, 3, 32, 32)).requires_grad_()
    assert features(target, target).item() == 0
    loss = Loss(LossConfig(pixel_weight=0, perceptual_weight=1.0, perceptual_weights=vgg_file))(restored, target)
    (gradient,) = torch.autograd.grad(loss, restored)
    step = gradient / gradient.norm() * 1e-2
    assert loss > 0
    assert features(restored.detach() - step, target) < loss


def test_perceptual_loss_takes_grey_images(vgg_file):
    assert VGGFeatures(vgg_file)(torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32)) > 0


def test_file_of_something_else_is_refused(tmp_path):
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="missing"):
        Loss(LossConfig(perceptual_weight=1.0, perceptual_weights=tmp_path / "other.pth"))


@pytest.mark.parametrize("weights", [{"pixel_weight": -1.0}, {"pixel_weight": 0.0}])
def test_impossible_weights_are_named(weights):
    with pytest.raises(ValueError, match="the losses' weights are"):
        LossConfig(**weights)
