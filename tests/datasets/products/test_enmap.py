import os

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.windows import Window

from geovit.datasets import open_scene


@pytest.fixture
def numbers():
    values = np.random.default_rng(0).integers(100, 9000, (6, 20, 25)).astype(np.int16)
    values[:, :3] = -32768
    return values


@pytest.fixture
def folder(products, numbers, tmp_path):
    return products.write_enmap(tmp_path / "product", numbers)


@pytest.mark.parametrize("name", ["", "METADATA.XML", "SPECTRAL_IMAGE.TIF"])
def test_folder_metadata_and_image_open_the_same(products, folder, numbers, name):
    scene = open_scene(folder / (products.ENMAP_STEM + name) if name else folder)
    assert scene.bands == (1, 2, 4, 3, 5, 6)  # the detectors overlap
    np.testing.assert_allclose(scene.wavelengths, sorted(products.ENMAP_WAVELENGTHS))
    np.testing.assert_allclose(scene.fwhm, [6.1, 6.2, 6.4, 6.3, 6.5, 6.6])
    assert scene.grid.crs.to_epsg() == 32633
    assert scene.grid.transform == Affine(30, 0, 380000, 0, -30, 5810000)
    assert (scene.nodata, scene.numbers.scalings) == (-32768, ((0.0001, 0.0),))
    pixels = scene.read()
    assert np.isnan(pixels[:, :3]).all()
    np.testing.assert_array_equal(pixels[:, 3:], numbers[[0, 1, 3, 2, 4, 5], 3:])
    np.testing.assert_array_equal(scene.read(Window(4, 2, 7, 9)), pixels[:, 2:11, 4:11])


def test_an_image_without_nodata_tag_has_it_from_the_product(products, numbers, tmp_path):
    scene = open_scene(products.write_enmap(tmp_path / "p", numbers, nodata=None))
    assert np.isnan(scene.read()[:, :3]).all()
    assert np.isfinite(scene.read()[:, 3:]).all()


@pytest.mark.parametrize("image", ["SPECTRAL_IMAGE_COG.tiff", "SPECTRAL_IMAGE_COG.TIF"])
def test_the_cloud_optimised_image_of_the_portal_is_found(products, numbers, tmp_path, image):
    folder = products.write_enmap(tmp_path / "p", numbers, image=image, named=products.ENMAP_STEM + "SPECTRAL_IMAGE.TIF")
    assert open_scene(folder).num_bands == open_scene(folder / (products.ENMAP_STEM + image)).num_bands == 6


@pytest.mark.parametrize("name", ["../outside.tif", "/etc/passwd", "sub/a.tif", "..", "/vsicurl/http://host/a.tif", "C:\\a.tif"])
def test_metadata_cannot_name_a_file_elsewhere(products, numbers, tmp_path, name):
    folder = products.write_enmap(tmp_path / "p", numbers, named=name)
    with pytest.raises(ValueError, match="expected the name of a file in its folder"):
        open_scene(folder)


def test_entities_are_not_read(folder, products):
    path = folder / f"{products.ENMAP_STEM}METADATA.XML"
    bomb = '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;&b;">]>'
    path.write_text(path.read_text().replace("<level_X", f"{bomb}<level_X", 1))
    with pytest.raises(ValueError, match="has a document type, which is not read"):
        open_scene(folder)


def test_what_is_wrong_is_said(products, numbers, tmp_path):
    folder = products.write_enmap(tmp_path / "a", numbers, wavelengths=(400.0, 500.0))
    with pytest.raises(ValueError, match=r"describes 2 bands, .*TIF has 6"):
        open_scene(folder)
    with pytest.raises(ValueError, match="expected all above 0"):
        open_scene(products.write_enmap(tmp_path / "b", numbers, wavelengths=(0.0,) * 6))
    folder = products.write_enmap(tmp_path / "c", numbers)
    os.remove(folder / f"{products.ENMAP_STEM}SPECTRAL_IMAGE.TIF")
    with pytest.raises(FileNotFoundError, match=r"no .*SPECTRAL_IMAGE\.TIF beside it"):
        open_scene(folder)
    folder = products.write_enmap(tmp_path / "d", numbers)
    path = folder / f"{products.ENMAP_STEM}METADATA.XML"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match="truncated or not XML"):
        open_scene(folder)
    folder = products.write_enmap(tmp_path / "e", numbers)
    (folder / f"{products.ENMAP_STEM}METADATA.XML").rename(folder / "X-METADATA.XML")
    products.write_enmap(folder, numbers)
    with pytest.raises(ValueError, match="several products"):
        open_scene(folder)


def test_an_image_alone_is_a_plain_raster(products, folder):
    os.remove(folder / f"{products.ENMAP_STEM}METADATA.XML")
    path = folder / f"{products.ENMAP_STEM}SPECTRAL_IMAGE.TIF"
    assert open_scene(path).wavelengths is None
    with rasterio.open(path) as src:
        assert src.count == 6
