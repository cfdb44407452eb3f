import pytest
import torch

from geovit.core.layers.downsample import PatchMerging, StridedConv, merge_order


def test_first_axis_is_fastest_in_swin():
    assert merge_order("first_fastest", 2) == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert merge_order("last_fastest", 2) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert merge_order("monai", 2) == merge_order("first_fastest", 2)


def test_volumes_have_four_orders():
    orders = [merge_order(order, 3) for order in ("first_fastest", "last_fastest", "monai", "monai_1_4")]
    assert [len(set(order)) for order in orders] == [8, 8, 8, 6]
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize("norm_first", [True, False])
def test_merging_joins_the_tokens_of_a_patch(norm_first):
    layer = PatchMerging(2, 3, norm_first=norm_first).double()
    x = torch.randn(1, 3, 4, 2, dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    patch = torch.cat([x[0, 2, 2], zero, x[0, 2, 3], zero])
    expected = layer.proj(layer.norm(patch)) if norm_first else layer.norm(layer.proj(patch))
    torch.testing.assert_close(layer(x)[0, 1, 1], expected)


def test_unknown_order_is_named():
    with pytest.raises(ValueError, match="'swin', expected"):
        PatchMerging(2, 3, order="swin")


def test_strided_convolution_pads_to_whole_patches_only_where_patches_do_not_overlap():
    x = torch.randn(1, 7, 6, 2)
    assert StridedConv(2, 3, kernel=4, stride=4)(x).shape == (1, 2, 2, 3)
    assert StridedConv(2, 3, kernel=3, stride=2, padding=1)(x).shape == (1, 4, 3, 3)


def test_norm_first_norms_what_comes_in():
    layer = StridedConv(4, 3, norm_first=True)
    x = torch.randn(1, 4, 4, 4)
    torch.testing.assert_close(layer(x), layer.conv(layer.norm(x).movedim(-1, 1)).movedim(1, -1))
    image = StridedConv(4, 3, image=True, norm=None)
    torch.testing.assert_close(image(x.movedim(-1, 1)), image.conv(x.movedim(-1, 1)).movedim(1, -1))
