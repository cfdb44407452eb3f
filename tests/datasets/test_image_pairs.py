"""Which files belong together."""

import pytest

from geovit.datasets.image_pairs import find_pairs


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
