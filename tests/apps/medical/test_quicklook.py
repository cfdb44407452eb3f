import matplotlib.image
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from geovit.apps.medical.plan import Channel
from geovit.apps.medical.quicklook import write_quicklook
from geovit.datasets.volumes import Volume

SPACING = (1.0, 1.5, 3.0)
NAMES = {1: "$one$", 7: "seven"}


def stored(voxels_RAS, labels_RAS, codes):
    """The same patient with other axes in the file."""
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    affine = np.diag([*SPACING, 1.0]) @ inv_ornt_aff(turn, voxels_RAS.shape)
    volume = Volume(voxels=np.ascontiguousarray(apply_orientation(voxels_RAS, turn))[None], affine=affine)
    return volume, np.ascontiguousarray(apply_orientation(labels_RAS, turn))


@pytest.fixture
def draw(tmp_path):
    def draw(volume, labels, **options):
        write_quicklook(tmp_path / "a.png", volume, labels, names=NAMES, overwrite=True, **options)
        return matplotlib.image.imread(tmp_path / "a.png")[..., :3]

    return draw


@pytest.fixture
def patient():
    """A right-handed, forward-looking head: brighter to the right, the front and the top."""
    x, y, z = np.meshgrid(*(np.linspace(0, 1, n, dtype=np.float32) for n in (40, 30, 16)), indexing="ij")
    voxels = 1 + 4 * x + 2 * y + z
    labels = np.zeros(voxels.shape, np.uint8)
    labels[25:35, 18:26, 8:13] = 1
    labels[8:14, 5:12, 8:13] = 7
    return voxels, labels


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SAR", "PIR"])
def test_the_picture_does_not_depend_on_the_axes_of_the_file(draw, patient, codes):
    expected = draw(*stored(*patient, "RAS"))
    assert (draw(*stored(*patient, codes)) == expected).all()


def test_right_is_on_the_left_and_contours_have_colours(draw, patient):
    picture = draw(*stored(*patient, "LPS"))
    panel = picture[:, : picture.shape[1] // 3]
    colourful = panel.max(-1) - panel.min(-1) > 0.3
    assert colourful.any()
    grey = np.where(colourful, np.nan, panel[..., 0])
    rows = slice(picture.shape[0] // 3, 2 * picture.shape[0] // 3)
    columns = np.nanmean(grey[rows], axis=0)
    shown = np.flatnonzero(columns > 0.15)
    quarter = len(shown) // 4
    assert columns[shown[:quarter]].mean() > columns[shown[-quarter:]].mean() + 0.2
    red = (panel[..., 0] > 0.7) & (panel[..., 1] < 0.3)  # the first label, to the right and in front
    assert np.argwhere(red)[:, 1].mean() < panel.shape[1] / 2


def test_the_window_is_that_of_the_plan(draw, patient):
    volume, labels = stored(*patient, "RAS")
    narrow = draw(volume, labels, channel=Channel(name="CT", scheme="range", low=7.9, high=8.0))
    assert narrow.mean() < draw(volume, labels).mean()


@pytest.mark.parametrize("size", [(12, 10, 1), (3, 200, 5), (1, 1, 1)])
def test_flat_long_and_empty_volumes(draw, size):
    volume = Volume(voxels=np.zeros((1, *size), np.int16), affine=np.diag([*SPACING, 1.0]))
    assert draw(volume, np.zeros(size, np.uint8)).size
    assert draw(volume, np.ones(size, np.uint8)).size


def test_many_labels_are_listed_as_far_as_there_is_room(draw):
    labels = np.arange(60, dtype=np.uint16).reshape(60, 1, 1).repeat(8, 1).repeat(8, 2)
    volume = Volume(voxels=labels[None].astype(np.int16), affine=np.eye(4))
    assert draw(volume, labels).size
