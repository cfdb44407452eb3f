import logging

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from rasterio.crs import CRS
from rasterio.transform import Affine

import geovit
from geovit.apps.restoration.models import open_restorer
from geovit.apps.restoration.restoration import Restoration, restore, safe_precision
from geovit.datasets import Grid
from geovit.datasets.images import Image, open_image


@pytest.fixture
def photo():
    rows, columns = np.mgrid[:30, :40] / 40
    return (255 * np.stack([rows, columns, 1 - rows], -1)).astype(np.uint8)


@pytest.fixture
def enlarge(make_weights):
    """Restore an ``Image`` by 2, with a network for 3 channels unless told otherwise."""

    def enlarge(image, channels=3, scale=2, **options):
        return Restoration(open_restorer(make_weights(scale, channels)), device="cpu", **options)(image)

    return enlarge


def repeated(array, times=2):
    return array.repeat(times, 0).repeat(times, 1)


def far(a, b):
    return int(np.abs(a.astype(int) - b.astype(int)).max())


class TestKinds:
    def test_the_public_name(self):
        assert geovit.restore is restore

    def test_each_kind_comes_back_as_it_is(self, make_weights, photo, tmp_path):
        weights = make_weights()
        array = restore(photo, weights=weights)
        assert (array.shape, array.dtype) == ((60, 80, 3), np.uint8)
        assert far(array, repeated(photo)) < 25, "the network repeats pixels, more or less"
        picture = restore(PillowImage.fromarray(photo), weights=weights)
        assert (picture.mode, picture.size) == ("RGB", (80, 60))
        assert (np.asarray(picture) == array).all()
        tensor = restore(torch.from_numpy(photo).permute(2, 0, 1), weights=weights)
        assert (tensor.permute(1, 2, 0).numpy() == array).all()
        path = tmp_path / "a.png"
        PillowImage.fromarray(photo).save(path)
        assert (restore(path, weights=weights) == array).all()
        assert (restore(str(path), weights=weights, scale=2) == array).all()
        assert (restore(open_image(path), weights=weights).pixels == array).all()

    def test_floats_batches_and_grey_keep_type_and_axes(self, make_weights, photo):
        floats = restore(photo / np.float32(255), weights=make_weights())
        assert floats.dtype == np.float32
        assert np.abs(floats - restore(photo, weights=make_weights()) / 255).max() < 0.5 / 255 + 1e-5
        batch = restore(torch.rand(2, 1, 9, 8), weights=make_weights())
        assert (batch.shape, batch.dtype) == ((2, 1, 18, 16), torch.float32)
        assert restore(photo[..., 0], weights=make_weights()).shape == (60, 80)

    def test_16_bits_stay_16_bits(self, make_weights, photo):
        deep = photo.astype(np.uint16) * 257
        result = restore(deep, weights=make_weights())
        assert result.dtype == np.uint16
        assert far(result // 257, restore(photo, weights=make_weights())) <= 1
        assert len(np.unique(result)) > 256

    def test_one_pixel_is_an_image(self, make_weights):
        assert restore(np.full((1, 1, 3), 200, np.uint8), weights=make_weights()).shape == (2, 2, 3)

    def test_a_result_is_written_once(self, make_weights, photo, tmp_path):
        out = tmp_path / "r.png"
        made = restore(photo, weights=make_weights(), out=out)
        assert (np.asarray(PillowImage.open(out)) == made).all()
        with pytest.raises(FileExistsError):
            restore(photo, weights=make_weights(), out=out)
        with pytest.raises(FileExistsError):  # before anything is read or computed
            restore(photo, weights=tmp_path / "none.pth", out=out)
        with pytest.raises(ValueError, match="PNG holds no float32 pixels"):
            restore(photo / np.float32(255), weights=tmp_path / "none.pth", out=tmp_path / "new.png")
        with pytest.raises(ValueError, match="out is one file, but there are 2 images"):
            restore(torch.rand(2, 3, 9, 8), weights=make_weights(), out=out)

    def test_the_same_image_gives_the_same_bytes_in_tiles_and_again(self, make_weights, photo):
        once, again, tiled = (restore(photo, weights=make_weights(), tile=tile) for tile in ("auto", "auto", 24))
        assert (once == again).all()
        assert far(once, tiled) <= 1, "rounding of sums in another order"


class TestChannels:
    def test_grey_is_three_equal_channels_and_their_mean(self, enlarge, photo):
        grey = photo[..., :1] // 2 + 60  # so that nothing is clipped
        colour = enlarge(Image(pixels=grey.repeat(3, -1).astype(np.float32) / 255)).pixels
        made = enlarge(Image(pixels=grey)).pixels
        assert made.shape == (60, 80, 1)
        assert far(made[..., 0], np.rint(colour.mean(-1) * 255)) <= 1

    def test_a_network_for_grey_takes_colours_one_by_one(self, enlarge, photo):
        made = enlarge(Image(pixels=photo), channels=1).pixels
        for band in range(3):
            assert (made[..., band] == enlarge(Image(pixels=photo[..., band : band + 1]), channels=1).pixels[..., 0]).all()

    def test_bands_go_by_threes_and_the_last_is_repeated(self, enlarge, photo):
        bands = np.concatenate([photo, 255 - photo[..., :2]], -1)  # 5
        made = enlarge(Image(pixels=bands, format="GTiff")).pixels
        assert (made[..., :3] == enlarge(Image(pixels=photo)).pixels).all()
        rest = enlarge(Image(pixels=bands[..., [3, 4, 4]])).pixels
        assert (made[..., 3:] == rest[..., :2]).all()

    def test_other_numbers_must_fit(self, enlarge, photo):
        with pytest.raises(ValueError, match=r"b.tif has 3 channels, the weights \(CFSR\) take 5 and make 5"):
            enlarge(Image(pixels=photo, name="b.tif"), channels=5)
        assert enlarge(Image(pixels=photo[..., [0, 1, 2, 0, 1]]), channels=5).channels == 5


class TestAlpha:
    def test_colours_under_transparent_pixels_do_not_bleed(self, enlarge):
        pixels = np.zeros((20, 20, 3), np.uint8)
        pixels[:, :10], pixels[:, 10:] = (200, 0, 0), (0, 255, 0)  # the green is hidden
        alpha = np.where(np.arange(20) < 10, 255, 0).astype(np.uint8)[None].repeat(20, 0)
        made = enlarge(Image(pixels=pixels, alpha=alpha))
        other = enlarge(Image(pixels=np.where(alpha[..., None] > 0, pixels, 7).astype(np.uint8), alpha=alpha))
        assert (made.pixels == other.pixels).all(), "what is hidden changes nothing"
        assert made.alpha.shape == (40, 40)
        assert made.alpha[20, 5] > 240
        assert made.alpha[20, 35] < 15

    def test_a_hard_edge_leaves_no_fringe(self, enlarge, photo):
        rows, columns = np.mgrid[:30, :40]
        disc = (rows - 15) ** 2 + (columns - 20) ** 2 < 100
        made = enlarge(Image(pixels=np.full_like(photo, 128), alpha=np.where(disc, 255, 0).astype(np.uint8)))
        flat = enlarge(Image(pixels=np.full_like(photo, 128)))
        visible = made.alpha > 0
        assert far(made.pixels[visible], flat.pixels[visible]) == 0
        assert not made.pixels[~visible].any()
        near = torch.nn.functional.max_pool2d(torch.from_numpy(disc).float()[None], 3, 1, 1)[0].numpy() > 0
        assert not made.alpha[~repeated(near)].any(), "no specks around"

    def test_alpha_is_kept_where_the_size_stays(self, enlarge, photo):
        alpha = np.arange(1200, dtype=np.uint16).reshape(30, 40).clip(0, 255).astype(np.uint8)
        made = enlarge(Image(pixels=photo, alpha=alpha), scale=1)
        assert (made.alpha == alpha).all()

    def test_all_opaque_is_the_same_as_none(self, enlarge, photo):
        made = enlarge(Image(pixels=photo, alpha=np.full((30, 40), 255, np.uint8)))
        assert made.alpha.min() > 200


class TestRasters:
    def test_grid_and_nodata_follow(self, enlarge):
        grid = Grid(20, 30, CRS.from_epsg(32633), Affine(10, 0, 500000, 0, -10, 5000000))
        values = np.random.default_rng(0).uniform(0, 1, (20, 30, 4)).astype(np.float32)
        values[3:6, 7:9] = -9999
        values[0, 0, 2] = -9999  # of one band
        made = enlarge(Image(pixels=values, nodata=-9999, grid=grid, format="GTiff"))
        assert ((made.pixels == -9999) == repeated(values == -9999)).all()
        assert made.pixels[made.pixels != -9999].min() > -1, "nothing of nodata gets into its surroundings"
        assert (made.nodata, made.grid.shape) == (-9999, (40, 60))
        assert made.grid.transform == Affine(5, 0, 500000, 0, -5, 5000000)

    def test_masks_follow(self, enlarge, photo):
        mask = np.ones((30, 40), bool)
        mask[4:9] = False
        assert (enlarge(Image(pixels=photo, mask=mask)).mask == repeated(mask)).all()

    def test_values_of_any_range(self, enlarge):
        values = np.linspace(-300, 2500, 20 * 30 * 3, dtype=np.float32).reshape(20, 30, 3)
        made = enlarge(Image(pixels=values, format="GTiff"))
        assert np.abs(made.pixels - repeated(values)).max() < 0.1 * 2800
        given = enlarge(Image(pixels=values, format="GTiff"), value_range=(-300, 2500))
        np.testing.assert_allclose(given.pixels, made.pixels, atol=0.1)

    def test_nan_without_nodata_is_an_error(self, enlarge):
        values = np.zeros((5, 6, 1), np.float32)
        values[2, 3] = np.nan
        with pytest.raises(ValueError, match="a.tif: 1 pixels are NaN or infinite, the first at row 2, column 3"):
            enlarge(Image(pixels=values, name="a.tif"))
        assert np.isnan(enlarge(Image(pixels=values, nodata=np.nan)).pixels).sum() == 4


class TestPrecision:
    def test_an_unsafe_dtype_is_refused_with_its_reason(self, make_weights, monkeypatch):
        restorer = open_restorer(make_weights())
        monkeypatch.setattr(type(restorer.network), "unsafe", {torch.float16: "its residual overflows"}, raising=False)
        with pytest.raises(ValueError, match="precision is 'fp16', which CFSR does not stand: its residual overflows"):
            safe_precision(restorer, "fp16", torch.device("cpu"))

    def test_auto_turns_to_fp32_where_the_fast_one_is_unsafe(self, make_weights, monkeypatch, caplog):
        restorer = open_restorer(make_weights())
        monkeypatch.setattr(type(restorer.network), "unsafe", {torch.bfloat16: "too coarse"}, raising=False)
        monkeypatch.setattr("geovit.apps.restoration.restoration.resolve_precision", lambda *_: torch.bfloat16)
        with caplog.at_level(logging.INFO):
            assert safe_precision(restorer, "auto", torch.device("cuda")) == torch.float32
        assert "computing in fp32, not torch.bfloat16: too coarse" in caplog.text

    def test_memory_that_is_none(self, make_weights, photo):
        for limit in (0, -1, float("nan")):
            with pytest.raises(ValueError, match="max_memory is .*, expected gigabytes"):
                restore(photo, weights=make_weights(), max_memory=limit)
