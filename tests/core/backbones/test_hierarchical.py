from functools import partial

import pytest
import torch
from torch import nn

from geovit.core.backbones.hierarchical import Pyramid, hierarchical
from geovit.core.blocks.metaformer import mlp_block
from geovit.core.layers.downsample import StridedConv
from geovit.core.layers.mixers import window


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
    with pytest.raises(ValueError, match=r"depths \(2,\)"):
        small(depths=(2,))
    with pytest.raises(ValueError, match="1 stages, 1 downs and 1 dims"):
        Pyramid(nn.Identity(), [[]], downs=[nn.Identity()], dims=[8])
