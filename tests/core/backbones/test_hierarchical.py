from functools import partial

import pytest
import torch
from torch import nn

from geovit.core.backbones.hierarchical import Pyramid, hierarchical, patch_stem
from geovit.core.blocks.metaformer import mlp_block
from geovit.core.layers.downsample import StridedConv
from geovit.core.layers.mixers import MIXERS, neighborhood, window


def small(**options):
    torch.manual_seed(0)
    settings = {"dims": (8, 16), "depths": (2, 1), "heads": (2, 4)}
    return hierarchical(3, **{**settings, **options}).double().eval()


@pytest.mark.parametrize(("axes", "size", "coarse"), [(2, (37, 30), (5, 4)), (3, (13, 8, 5), (2, 1, 1))])
def test_any_size_gives_features_of_each_stage(axes, size, coarse):
    model = small(axes=axes, mixer=("window", "shifted_window"))
    fine = tuple(-(-n // 4) for n in size)
    features = model.features(torch.randn(2, 3, *size, dtype=torch.float64))
    assert [tuple(f.shape) for f in features] == [(2, *fine, 8), (2, *coarse, 16)]


def test_tokens_are_the_normed_last_features():
    model, x = small(), torch.randn(1, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(model(x), model.features(x)[-1])
    torch.testing.assert_close(model(x).mean(-1), torch.zeros(1, 4, 4, dtype=torch.float64))


def test_size_filled_up_with_zeros_equals_a_zero_padded_image():
    model, x = small(), torch.randn(1, 3, 30, 29, dtype=torch.float64)
    torch.testing.assert_close(model(x), model(nn.functional.pad(x, (0, 3, 0, 2))))


def test_mixers_take_turns_and_know_where_they_stand():
    seen = []

    def spy(dim, *, heads, axes, stage, index):
        seen.append((dim, heads, axes, stage, index))
        return nn.Identity()

    model = small(mixer=[spy, partial(window, size=3)], depths=(3, 2))
    assert seen == [(8, 2, 2, 0, 0), (8, 2, 2, 0, 2), (16, 4, 2, 1, 0)]
    assert [block.mixer.window for block in model.stages[0] if hasattr(block.mixer, "window")] == [(3, 3)]


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("name", MIXERS)
def test_every_mixer_fits_odd_sizes_and_has_the_gradient_of_its_output(name, axes):
    size, dims = (13, 15, 14)[:axes], (6, 12)
    model = small(mixer=name, axes=axes, dims=dims, depths=(1, 1), heads=(6, 6), stem=partial(patch_stem, patch=1))
    x = torch.randn(1, 3, *size, dtype=torch.float64, requires_grad=True)
    tensors = [x, *model.parameters()]
    directions = [torch.randn_like(t) for t in tensors]
    weight = torch.randn(1, *(-(-n // 2) for n in size), 12, dtype=torch.float64)

    def objective(step: float) -> torch.Tensor:
        moved = [t + step * d for t, d in zip(tensors, directions, strict=True)]
        names = [name for name, _ in model.named_parameters()]
        y = torch.func.functional_call(model, dict(zip(names, moved[1:], strict=True)), (moved[0],))
        assert y.shape == weight.shape
        return (y * weight).sum()

    grads = torch.autograd.grad(objective(0.0), tensors)
    slope = sum((g * d).sum() for g, d in zip(grads, directions, strict=True)).item()
    with torch.no_grad():
        assert slope == pytest.approx((objective(1e-6) - objective(-1e-6)).item() / 2e-6, rel=1e-5)


def test_stage_smaller_than_a_neighborhood_is_told():
    with pytest.raises(ValueError, match=r"kernel=7.*the axis has 4 positions, expected at least 7"):
        small(mixer="neighborhood")(torch.randn(1, 3, 32, 32, dtype=torch.float64))
    assert small(mixer=partial(neighborhood, kernel=3))(torch.randn(1, 3, 32, 32, dtype=torch.float64)).shape == (1, 4, 4, 16)


def test_drop_path_rises_over_all_stages():
    rates = [block.drop_path.rate for stage in small(depths=(2, 3), drop_path=0.4).stages for block in stage]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_parts_can_be_replaced():
    conv = partial(StridedConv, kernel=3, stride=2, padding=1)
    model = small(downsample=conv, stem=partial(conv, image=True), block=partial(mlp_block, mlp_ratio=1.5), norm="rms")
    assert model(torch.randn(1, 3, 20, 20, dtype=torch.float64)).shape == (1, 5, 5, 16)
    assert model.stages[1][0].channel_mixer.fc1.out_features == 24


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match=r"did you mean window"):
        small(mixer="windw")
    with pytest.raises(ValueError, match="mixer is empty"):
        small(mixer=())
    with pytest.raises(ValueError, match=r"depths \(2,\)"):
        small(depths=(2,))
    with pytest.raises(ValueError, match="1 stages, 1 downs and 1 dims"):
        Pyramid(nn.Identity(), [[]], downs=[nn.Identity()], dims=[8])
