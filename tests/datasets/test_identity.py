"""Which files an input consists of, and what tells one from another."""

import os

import numpy as np
import pytest
import rasterio
from affine import Affine

from geovit.datasets import identity
from geovit.datasets.identity import SAMPLED, SHA256, content_of, differs, files_of, identify


@pytest.fixture
def envi(tmp_path):
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 4e5, 0, -10, 6e6)}
    with rasterio.open(tmp_path / "s.dat", "w", driver="ENVI", height=2, width=3, count=1, dtype="uint8", **place) as dst:
        dst.write(np.ones((1, 2, 3), np.uint8))
    return tmp_path


def test_an_envi_scene_is_header_and_data_however_it_is_named(envi):
    names = {os.path.basename(name) for name in files_of(str(envi / "s.dat"))}
    assert {"s.dat", "s.hdr"} <= names
    assert {os.path.basename(name) for name in files_of(str(envi / "s.hdr"))} == names


def test_keys_and_layers_are_left_out(tmp_path):
    for name in ("a.mat", "b.gpkg"):
        (tmp_path / name).write_bytes(b"1")
    assert files_of(f"{tmp_path}/a.mat:key") == [f"{tmp_path}/a.mat"]
    assert files_of(f"{tmp_path}/b.gpkg:layer") == [f"{tmp_path}/b.gpkg"]


def test_a_folder_is_all_its_files_and_a_url_none(tmp_path):
    (tmp_path / "store" / "deep").mkdir(parents=True)
    (tmp_path / "store" / "deep" / "x").write_text("x")
    (tmp_path / "store" / "a").write_text("a")
    assert [name[len(str(tmp_path)) :] for name in files_of(str(tmp_path / "store"))] == ["/store/a", "/store/deep/x"]
    assert files_of("https://example.org/scene.tif") == []
    assert files_of("/vsicurl/https://example.org/scene.tif") == []


def test_folders_of_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "_MOST_FILES", 2)
    for name in "abc":
        (tmp_path / name).write_text(name)
    with pytest.raises(ValueError, match="3 files, at most 2 can be told apart"):
        files_of(str(tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are of Unix")
def test_pipes_and_devices_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert files_of(str(tmp_path / "pipe")) == files_of("/dev/zero") == []


def test_large_files_are_sampled_and_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "_WHOLE_BYTES", 2**20)
    file = tmp_path / "large"
    content = bytearray(np.random.default_rng(0).bytes(5 * 2**20 + 7))
    file.write_bytes(content)
    before = identify(file)
    assert before.method == SAMPLED
    content[-1] ^= 1
    file.write_bytes(content)
    assert differs(file, before.as_dict()) == "other content of the same size"
    (tmp_path / "small").write_bytes(content[: 2**20])
    assert identify(tmp_path / "small").method == SHA256


def test_an_input_that_was_touched_or_moved_says_the_same(tmp_path):
    (tmp_path / "a").write_bytes(b"scene")
    before = content_of(tmp_path / "a")
    os.utime(tmp_path / "a", (1, 1))
    (tmp_path / "a").rename(tmp_path / "b")
    assert content_of(tmp_path / "b") == before
    (tmp_path / "b").write_bytes(b"Scene")
    assert content_of(tmp_path / "b") != before
    assert content_of(None) is None


def test_what_is_named_beside_a_file_decides_too(tmp_path):
    for name in ("a.mat", "b.mat"):
        (tmp_path / name).write_bytes(b"1")
    a, b = f"{tmp_path}/a.mat", f"{tmp_path}/b.mat"
    sources = [a, f"{a}:x", f"{a}:y", f"{a},{b}", f"{a}+{b}", "https://example.org/a.tif", "https://example.org/b.tif"]
    assert len({str(content_of(source)) for source in sources}) == len(sources)
    assert content_of(f"{b}:x") == content_of(f"{a}:x")


def test_a_model_of_openvino_is_both_of_its_files(tmp_path):
    (tmp_path / "m.xml").write_text("<net/>")
    (tmp_path / "m.bin").write_bytes(b"weights")
    before = content_of(tmp_path / "m.xml")
    (tmp_path / "m.bin").write_bytes(b"Weights")
    assert content_of(tmp_path / "m.xml") != before


def test_large_inputs_are_read_in_places(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "_WHOLE_BYTES", 2**20)
    monkeypatch.setattr(identity, "_PLACES", 8)
    content = np.random.default_rng(0).bytes(4 * 2**20 + 7)
    file = tmp_path / "large"
    told = []
    for change in (None, 0, len(content) - 1, 2**17):
        changed = bytearray(content)
        if change is not None:
            changed[change] ^= 1
        file.write_bytes(changed)
        told.append(content_of(file)["digest"])
    whole, head, end, between = told
    assert len({whole, head, end}) == 3
    assert between == whole  # no place is looked at there
    assert content_of(file)["bytes"] == len(content)
