import numpy as np
import pytest
import torch

from geovit.core.layers.metre_position import MetrePosition, SpectralPosition
from geovit.core.layers.token_position import GridPosition, JoinedPosition, OrderPosition, SumPosition, TablePosition
from geovit.core.layers.tokenizers import Tokens


def tokens(spectral=3, rows=2, columns=5, dim=8, pitch=(10.0, 10.0), wavelengths=(443.0, 842.0, -1.0)):
    x = torch.zeros(len(pitch), spectral, rows, columns, dim, dtype=torch.float64)
    return Tokens(x, None if wavelengths is None else torch.tensor(wavelengths[:spectral]), torch.tensor(pitch))


def waves(positions, dim):
    angles = np.multiply.outer(positions, 10_000.0 ** (-np.arange(dim // 2) / (dim / 2)))
    return np.concatenate([np.sin(angles), np.cos(angles)], -1)


def test_the_same_distance_on_the_ground_is_the_same_for_every_pitch():
    fine, coarse = (MetrePosition(8)(tokens(rows=n, columns=n, pitch=(pitch,))) for n, pitch in ((5, 10.0), (3, 20.0)))
    torch.testing.assert_close(fine[:, :, ::2, ::2], coarse)


def test_images_of_a_batch_may_differ_in_pitch():
    both = MetrePosition(8)(tokens(pitch=(10.0, 30.0)))
    assert both.shape == (2, 1, 2, 5, 8)
    for image, pitch in zip(both, (10.0, 30.0), strict=True):
        torch.testing.assert_close(image[None], MetrePosition(8)(tokens(pitch=(pitch, pitch))))


def test_columns_come_before_rows():
    got = MetrePosition(8, unit=5.0)(tokens())[0, 0]
    want = np.concatenate(
        [
            np.broadcast_to(waves(2.0 * np.arange(5), 4), (2, 5, 4)),
            np.broadcast_to(waves(2.0 * np.arange(2), 4)[:, None], (2, 5, 4)),
        ],
        -1,
    )
    np.testing.assert_allclose(got.numpy(), want, atol=1e-12)
    grid = GridPosition(8)(tokens())
    torch.testing.assert_close(grid, MetrePosition(8, unit=10.0)(tokens())[:1])


def test_positions_have_a_weight():
    torch.testing.assert_close(MetrePosition(8, weight=0.1)(tokens()), 0.1 * MetrePosition(8)(tokens()))


def test_wavelengths_are_waves_and_polarisations_are_learned():
    position = SpectralPosition(8, unit=100.0).double()
    got = position(tokens())
    assert got.shape == (1, 3, 1, 1, 8)
    np.testing.assert_allclose(got[0, :2, 0, 0].detach().numpy(), waves(np.array([4.43, 8.42]), 8), atol=1e-6)
    torch.testing.assert_close(got[0, 2, 0, 0], position.radar[0])
    got[:, 2].sum().backward()
    assert position.radar.grad[0].all()
    assert not position.radar.grad[1:].any()
    assert not position(tokens(1, wavelengths=None)).any()


def test_polarisations_may_have_wavelengths():
    position = SpectralPosition(8, radar=(500.0, 600.0, 700.0, 800.0))
    torch.testing.assert_close(position(tokens())[:, 2], position(tokens(1, wavelengths=(500.0,)))[:, 0])
    assert not list(position.parameters())
    with pytest.raises(ValueError, match="got 2 wavelengths of radar, expected one for each of VV, VH, HH, HV"):
        SpectralPosition(8, radar=(1.0, 2.0))


def test_positions_add_and_join():
    where, which = GridPosition(8), OrderPosition(8)
    at = tokens()
    torch.testing.assert_close(SumPosition([where, which], scale=0.5)(at), (where(at) + which(at)) / 2)
    joined = JoinedPosition([GridPosition(4), OrderPosition(4)])(at)
    assert joined.shape == (1, 3, 2, 5, 8)
    torch.testing.assert_close(joined[..., 4:], OrderPosition(4)(at).expand(1, 3, 2, 5, 4))
    np.testing.assert_allclose(joined[0, :, 0, 0, 4:].numpy(), waves(np.arange(3), 4), atol=1e-12)
    with pytest.raises(ValueError, match="parts have dim 8, 4, expected one"):
        SumPosition([where, OrderPosition(4)])


def test_a_table_serves_grids_of_another_size():
    table = TablePosition(8, size=(1, 4, 10)).double()
    at = tokens(rows=4, columns=10)
    torch.testing.assert_close(table(at)[0], table.table)
    assert table(tokens()).shape == (1, 1, 2, 5, 8)
    with torch.no_grad():
        table.table.fill_(3.0)
    torch.testing.assert_close(table(tokens()), torch.full((1, 1, 2, 5, 8), 3.0, dtype=torch.float64))
    spectral = TablePosition(8, size=(3, 1, 1)).double()
    assert spectral(tokens()).shape == (1, 3, 1, 1, 8)
    with pytest.raises(ValueError, match="got 2 spectral tokens, the table has 3"):
        spectral(tokens(2))


@pytest.mark.parametrize(
    ("make", "told"),
    [(MetrePosition, "multiple of 4"), (GridPosition, "multiple of 4"), (SpectralPosition, "even"), (OrderPosition, "even")],
)
def test_widths_that_do_not_fit_are_named(make, told):
    with pytest.raises(ValueError, match=f"dim is 7, expected .*{told}"):
        make(7)
