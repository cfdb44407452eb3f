import numpy as np
import pytest
from PIL import Image

from geovit.datasets.pairs import read_pairs


@pytest.fixture
def folder(tmp_path):
    def write(name, shape, kind="L"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 256, (*shape, *((3,) if kind == "RGB" else ())), np.uint8)
        Image.fromarray(pixels.astype(np.uint16) * 256 if kind == "I;16" else pixels).save(path)
        return pixels

    return tmp_path, write


def test_targets_are_cropped_to_whole_multiples_and_degraded(folder):
    root, write = folder
    pixels = write("high/a.png", (11, 14), "RGB")
    (pair,) = read_pairs(str(root / "high"), scale=4, channels=3, degrade=lambda target: target[::4, ::4])
    np.testing.assert_array_equal(pair.target, pixels[:8, :12])
    np.testing.assert_array_equal(pair.source, pixels[:8:4, :12:4])
    assert read_pairs(str(root / "high"), scale=4, channels=3)[0].source is None


def test_channels_are_those_of_the_network(folder):
    root, write = folder
    grey, colour = write("grey/a.png", (4, 4)), write("colour/a.png", (4, 4), "RGB")
    np.testing.assert_array_equal(read_pairs(str(root / "grey"), scale=1, channels=3)[0].target, np.stack([grey] * 3, -1))
    luma = read_pairs(str(root / "colour"), scale=1, channels=1)[0].target[..., 0]
    assert np.abs(luma - np.asarray(Image.fromarray(colour).convert("L")).astype(int)).max() <= 1
    with pytest.raises(ValueError, match="3 channels, but the network takes 4"):
        read_pairs(str(root / "colour"), scale=1, channels=4)


def test_pairs_that_do_not_fit_are_named(folder):
    root, write = folder
    write("high/a.png", (8, 8))
    write("low/a.png", (4, 3))
    with pytest.raises(ValueError, match=r"low/a.png: 4 x 3 pixels at scale 2 are not the 8 x 8 of a.png"):
        read_pairs(str(root / "high"), str(root / "low"), scale=2, channels=1)
    write("deep/a.png", (4, 4), "I;16")
    with pytest.raises(ValueError, match="deep/a.png holds uint16, but a.png uint8"):
        read_pairs(str(root / "high"), str(root / "deep"), scale=2, channels=1)
    with pytest.raises(ValueError, match="8 x 8 pixels are less than the scale of 9"):
        read_pairs(str(root / "high"), scale=9, channels=1)
    with pytest.raises(FileNotFoundError, match="no image at"):
        read_pairs(str(root / "none"), scale=1, channels=1)
