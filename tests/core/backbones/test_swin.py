import pytest
import torch

from geovit.core.backbones.cswin import cswin
from geovit.core.backbones.davit import davit
from geovit.core.backbones.hierarchical import hierarchical
from geovit.core.backbones.swin import SwinSize, swin

SMALL = SwinSize(8, (2, 1), (2, 4))
PLAIN = {"dims": (8, 16), "depths": (2, 1), "heads": (2, 4)}


def test_published_sizes_have_the_published_number_of_parameters():
    # Without the classifiers: Swin-T of Liu et al. 2021 has 28.3 million parameters, 0.77 of them in the classifier.
    with torch.device("meta"):
        counts = [sum(p.numel() for p in swin(size).parameters()) for size in ("tiny", "small", "base", "large")]
        second = sum(p.numel() for p in swin("tiny", version=2, window=8).parameters())
    assert counts == [27_519_354, 48_837_258, 86_743_224, 194_995_476]
    assert second == 27_578_154


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("axes", "size"), [(2, (50, 37)), (3, (17, 24, 9)), (1, (45,))])
def test_any_image_of_one_to_three_axes(version, axes, size):
    model = swin(SMALL, version=version, axes=axes, window=3, channels=2).eval()
    fine = [-(-n // 4) for n in size]
    features = model.features(torch.randn(1, 2, *size))
    assert [f.shape[1:] for f in features] == [(*fine, 8), (*[-(-n // 2) for n in fine], 16)]


@pytest.mark.parametrize("version", [1, 2])
def test_gradients_reach_every_parameter(version):
    torch.manual_seed(0)
    model = swin(SMALL, version=version, window=3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model(torch.randn(1, 3, 33, 40)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_second_version_starts_as_the_identity():
    model = swin(SMALL, version=2, window=3)
    x = torch.randn(1, 6, 6, 8)
    assert torch.equal(model.stages[0](x), x)


def test_every_second_block_is_shifted_by_half_a_window():
    model = swin(SwinSize(8, (3, 2), (2, 2)), window=(4, 7))
    assert [block.mixer.shift for stage in model.stages for block in stage] == [(0, 0), (2, 2), (0, 0), (0, 0), (3, 3)]


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match=r"unknown size of Swin 'tin': did you mean tiny"):
        swin("tin")
    with pytest.raises(ValueError, match="version is 3"):
        swin(SMALL, version=3)
    with pytest.raises(ValueError, match="version is 1, pretrained_window"):
        swin(SMALL, pretrained_window=(2, 2))
    with pytest.raises(ValueError, match="for each of 2 stages"):
        swin(SMALL, window=(7, 7, 7))
    with pytest.raises(ValueError, match=r"split is \(1, 2\), expected one width for each of 4 stages"):
        cswin(split=(1, 2))
    with pytest.raises(ValueError, match="expected one or more of spatial, channel"):
        davit(mixers=("spatial", "chanel"))


def test_cswin_and_davit_take_any_image():
    shared = {"depths": (1, 2), "heads": (2, 4)}
    assert cswin(3, dim=8, split=(2, None), **shared)(torch.randn(1, 3, 50, 37)).shape == (1, 6, 5, 16)
    assert davit(3, dims=(8, 16), window=3, **shared)(torch.randn(1, 3, 50, 37)).shape == (1, 7, 5, 16)
    assert davit(2, dims=(8, 16), window=3, axes=3, **shared)(torch.randn(1, 2, 17, 8, 9)).shape == (1, 3, 1, 2, 16)


@pytest.mark.parametrize("kind", ["swin", "stripe"])
def test_compiles_whole(kind):
    torch.manual_seed(0)
    model = swin(SMALL, version=2, window=3) if kind == "swin" else hierarchical(3, **PLAIN, mixer=kind)
    image = torch.randn(1, 3, 40, 36)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image), model(image))
