import pytest
import torch
from torch.nn import functional as F

from geovit.core.layers.embed import PatchEmbed, SpectralEmbed


@pytest.mark.parametrize("patch", [(4,), (2, 3), (2, 3, 1)])
def test_patch_embed_projects_each_patch(patch):
    embed = PatchEmbed(5, 7, patch=patch)
    x = torch.randn(2, 5, *(3 * p for p in patch))
    tokens = embed(x)
    assert tokens.shape == (2, *[3] * len(patch), 7)
    last = x[(slice(None), slice(None), *(slice(2 * p, None) for p in patch))].flatten(1)
    expected = F.linear(last, embed.proj.weight.flatten(1), embed.proj.bias)
    torch.testing.assert_close(tokens[(slice(None), *[-1] * len(patch))], expected)


@pytest.mark.parametrize("size", [(8, 9), (8,)])
def test_patch_embed_names_a_size_that_does_not_fit(size):
    with pytest.raises(ValueError, match="not a multiple of the patch"):
        PatchEmbed(1, 2, patch=(4, 4))(torch.zeros(1, 1, *size))


@pytest.mark.parametrize("bands", [1, 7, 200])
def test_spectral_embed_gives_one_token_for_each_pixel(bands):
    embed = SpectralEmbed(bands, 6, channels=(3, 4), kernels=(7, 3), strides=(3, 2), spatial=(1, 3))
    assert embed(torch.randn(2, bands, 5, 4)).shape == (2, 5, 4, 6)


def test_spectral_embed_is_the_stack_of_3d_convolutions():
    embed = SpectralEmbed(20, 6, channels=(3, 4), kernels=(7, 5), strides=(3, 2), spatial=(3, 5))
    image = torch.randn(2, 20, 6, 5)
    x = image[:, None]
    for conv, norm, pad in zip(embed.convs, embed.norms, [(1, 1, 1, 1, 3, 3), (2, 2, 2, 2, 2, 2)], strict=True):
        x = F.conv3d(F.pad(x, pad, mode="replicate"), conv.weight, conv.bias, stride=conv.stride)
        x = F.gelu(norm(x.movedim(1, -1))).movedim(-1, 1)
    expected = embed.norm(embed.proj(x.permute(0, 3, 4, 2, 1).flatten(3)))
    torch.testing.assert_close(embed(image), expected, rtol=1e-4, atol=1e-5)


def test_spectral_embed_sees_its_radius_and_no_farther():
    embed = SpectralEmbed(12, 6, spatial=(3, 5))
    assert embed.radius == 3
    image = torch.randn(1, 12, 15, 15, requires_grad=True)
    (grad,) = torch.autograd.grad(embed(image)[0, 7, 7, 0], image)
    seen = grad.abs().sum((0, 1)) > 0
    expected = torch.zeros(15, 15, dtype=torch.bool)
    expected[4:11, 4:11] = True
    assert torch.equal(seen, expected)


def test_spectral_embed_shows_no_frame_on_a_uniform_image():
    embed = SpectralEmbed(30, 6)
    uniform = torch.randn(1, 30, 1, 1).expand(-1, -1, 9, 9)
    tokens = embed(uniform)
    torch.testing.assert_close(tokens, tokens[:, 4:5, 4:5].expand_as(tokens))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (4,)}, r"lengths \[1, 2, 2, 2\]"),
        ({"kernels": (7, 4)}, r"kernels \[7, 4\] and spatial \[3, 3\] must be odd"),
    ],
)
def test_spectral_embed_names_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        SpectralEmbed(30, 6, **options)


def test_spectral_embed_names_a_wrong_number_of_bands():
    with pytest.raises(ValueError, match=r"\(1, 31, 5, 5\), expected \(batch, 30 bands"):
        SpectralEmbed(30, 6)(torch.zeros(1, 31, 5, 5))
