import os

import pytest

from geovit.datasets import find_images
from geovit.datasets.images import output_path, output_paths


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.JPG", "c.tif", ".hidden.png", "notes.txt", "sub/d.webp", "sub/.e.png", "x[1].png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "in" / "folder.png").mkdir()
    return tmp_path / "in"


def names(paths):
    return [path.name for path in paths]


def test_a_folder_is_its_images_sorted(folder):
    assert names(find_images([folder])) == ["a.JPG", "b.png", "c.tif", "x[1].png"]


def test_globs(folder):
    assert names(find_images([f"{folder}/*.png"])) == ["b.png", "x[1].png"]
    assert names(find_images([f"{folder}/**/*"])) == ["a.JPG", "b.png", "c.tif", "d.webp", "x[1].png"]
    assert names(find_images([f"{folder}/x[1].png"])) == ["x[1].png"]  # a name comes before a pattern


def test_the_order_is_that_of_the_inputs_and_each_is_there_once(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert names(find_images(["c.tif", "./c.tif", folder / "sub" / ".." / "c.tif", "."])) == [
        "c.tif",
        "a.JPG",
        "b.png",
        "x[1].png",
    ]
    os.symlink("c.tif", "link.tif")
    assert names(find_images(["link.tif", "c.tif"])) == ["link.tif"]


def test_a_file_that_is_named_is_taken_whatever_its_name(folder):
    assert names(find_images([folder / "notes.txt", folder / ".hidden.png"])) == ["notes.txt", ".hidden.png"]


def test_an_input_that_is_nothing_is_told(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for given, words in (
        (folder / "none.png", "no such file or folder"),
        (tmp_path / "empty", "no image in this folder"),
        (f"{folder}/*.bmp", "no image matches this pattern"),
    ):
        with pytest.raises(FileNotFoundError, match=words) as caught:
            find_images([folder, given])
        assert str(given) in str(caught.value)


def test_where_results_go(tmp_path):
    source = tmp_path / "photo.jpg"
    assert output_path(source, ending="_x2") == tmp_path / "photo_x2.jpg"
    assert output_path(source, tmp_path / "out") == tmp_path / "out" / "photo.jpg"
    assert output_path(source, "out", ".png", ending="_x4").as_posix() == "out/photo_x4.png"
    with pytest.raises(ValueError, match="its result would replace it"):
        output_path(source)
    with pytest.raises(ValueError, match="its result would replace it"):
        output_path(source, tmp_path / "x" / "..")
    with pytest.raises(ValueError, match="cannot write suffix '.gif', expected one of .png"):
        output_path(source, suffix=".gif")


def test_two_inputs_of_one_name_never_share_a_result(tmp_path):
    inputs = [tmp_path / "a" / "x.png", tmp_path / "b" / "x.png"]
    assert output_paths(inputs, ending="_x2") == [tmp_path / "a" / "x_x2.png", tmp_path / "b" / "x_x2.png"]
    with pytest.raises(ValueError, match=r"a/x.png and .*b/x.png would both be written to .*out/x.png"):
        output_paths(inputs, tmp_path / "out")
    with pytest.raises(ValueError, match="would both be written"):
        output_paths([tmp_path / "x.png", tmp_path / "x.jpg"], tmp_path / "out", ".tif")


def test_no_result_replaces_an_input(tmp_path):
    with pytest.raises(ValueError, match="would replace an input"):
        output_paths([tmp_path / "x.png", tmp_path / "x_x2.png"], ending="_x2")
