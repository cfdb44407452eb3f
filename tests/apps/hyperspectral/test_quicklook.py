import numpy as np
import pytest
from matplotlib.image import imread
from rasterio.windows import Window

from geovit.apps.hyperspectral.quicklook import natural_colours, preview_shape, write_quicklook
from geovit.datasets import ClassInfo

RED, BLUE = (255, 0, 0), (0, 0, 255)


def draw(tmp_path, scene, index, names=("roof", "water")):
    classes = [ClassInfo(value, name, color) for value, name, color in zip((1, 2), names, (RED, BLUE), strict=True)]
    shape = preview_shape(*index.shape)
    rows, columns = (np.arange(small) * size // small for small, size in zip(shape, index.shape, strict=True))
    natural = natural_colours(scene, Window(0, 0, index.shape[1], index.shape[0]), shape)
    write_quicklook(tmp_path / "q.png", natural, index[rows][:, columns], classes, name="scene", title="map")
    return imread(tmp_path / "q.png")[:, :, :3]


def share(image, color):
    return np.isclose(image, np.array(color) / 255, atol=0.02).all(-1).mean()


@pytest.mark.parametrize("wavelengths", [None, np.linspace(450, 2400, 7)])
def test_classes_have_their_colours_and_nodata_none(tmp_path, make_scene, wavelengths):
    cube = np.random.default_rng(0).random((7, 40, 60), dtype=np.float32)
    cube[:, :20] = np.nan
    index = np.full((40, 60), -1, dtype=np.int32)
    index[20:, :30], index[20:, 30:] = 0, 1
    image = draw(tmp_path, make_scene(cube, wavelengths), index)
    assert share(image, RED) == pytest.approx(share(image, BLUE), abs=0.01)
    assert share(image, RED) > 0.03
    assert share(image, (255, 255, 255)) > 0.4


@pytest.mark.parametrize("shape", [(1, 1), (4000, 10), (10, 4000), (1300, 1300)])
def test_the_picture_s_size_is_bounded_whatever_the_scene_s(tmp_path, make_scene, shape):
    scene = make_scene(np.ones((3, *shape), dtype=np.float32))
    assert max(draw(tmp_path, scene, np.zeros(shape, dtype=np.int32)).shape) < 1500


def test_any_name_may_stand_in_the_legend(tmp_path, make_scene):
    scene = make_scene(np.ones((3, 20, 20), dtype=np.float32))
    index = np.zeros((20, 20), dtype=np.int32)
    plain = draw(tmp_path, scene, index)
    odd = draw(tmp_path, scene, index, names=("_a $\\frac$", "<b> & 100 % {x}"))
    assert plain.shape[0] == odd.shape[0]


def test_a_scene_without_data_gives_a_white_picture(tmp_path, make_scene):
    scene = make_scene(np.full((3, 20, 20), np.nan, dtype=np.float32))
    image = draw(tmp_path, scene, np.full((20, 20), -1, dtype=np.int32))
    assert share(image, (255, 255, 255)) > 0.8
