import numpy as np
import pytest
from PIL import Image

from geovit.datasets.pairs import find_pairs, read_pairs


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


def test_targets_of_given_sources_lose_what_is_over_too(folder):
    root, write = folder
    pixels, half = write("high/a.png", (9, 8)), write("low/a.png", (4, 4))
    (pair,) = read_pairs(str(root / "high"), str(root / "low"), scale=2, channels=1)
    np.testing.assert_array_equal(pair.target[..., 0], pixels[:8])
    np.testing.assert_array_equal(pair.source[..., 0], half)


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
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        read_pairs(str(root / "none"), scale=1, channels=1)


@pytest.fixture
def make(tmp_path):
    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


def told(pairs, folder):
    return [(pair.name, *(path and str(path.relative_to(folder)) for path in (pair.high, pair.low))) for pair in pairs]


def test_a_folder_alone(make):
    folder = make("b.png", "a.JPG", "notes.txt", ".hidden.png")
    assert told(find_pairs(str(folder)), folder) == [("a", "a.JPG", None), ("b", "b.png", None)]


def test_folders_pair_by_name_with_or_without_a_factor(make):
    folder = make("high/a.png", "high/b.png", "low/a.jpg", "low/b.png", "x4/ax4.png", "x4/bx4.png")
    assert told(find_pairs(f"{folder}/high", f"{folder}/low"), folder) == [
        ("a", "high/a.png", "low/a.jpg"),
        ("b", "high/b.png", "low/b.png"),
    ]
    assert [pair.low.name for pair in find_pairs(f"{folder}/high", f"{folder}/x4")] == ["ax4.png", "bx4.png"]


def test_a_name_that_ends_like_a_factor_is_a_name(make):
    folder = make("high/onyx4.png", "high/onyx.png", "low/onyx4.png", "low/onyx.png")
    assert [(pair.high.name, pair.low.name) for pair in find_pairs(f"{folder}/high", f"{folder}/low")] == [
        ("onyx.png", "onyx.png"),
        ("onyx4.png", "onyx4.png"),
    ]


def test_patterns_pair_by_what_the_stars_stand_for(make):
    folder = make("1rain.jpg", "1ground_truth.jpg", "2rain.jpg", "2ground_truth.jpg")
    assert told(find_pairs(f"{folder}/*ground_truth.jpg", f"{folder}/*rain.jpg"), folder) == [
        ("1", "1ground_truth.jpg", "1rain.jpg"),
        ("2", "2ground_truth.jpg", "2rain.jpg"),
    ]


def test_two_files_are_a_pair_whatever_their_names(make):
    folder = make("sharp.png", "blurred.png")
    assert told(find_pairs(f"{folder}/sharp.png", f"{folder}/blurred.png"), folder) == [("sharp", "sharp.png", "blurred.png")]


def test_what_has_no_partner_is_told(make):
    folder = make("high/a.png", "high/b.png", "low/a.png", "low/c.png", "twice/a.png", "twice/a.jpg")
    with pytest.raises(ValueError, match=r"2 of the images in .*high and .*low are without partner: b, c"):
        find_pairs(f"{folder}/high", f"{folder}/low")
    with pytest.raises(ValueError, match=r"twice: a.jpg and a.png would both be called a"):
        find_pairs(f"{folder}/twice")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_pairs(f"{folder}/nowhere")
