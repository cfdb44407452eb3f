import errno
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image as PillowImage

from geovit.datasets.images import Image, check_format, open_image, write_image


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg", ".bmp", ".ppm"])
@pytest.mark.parametrize("shape", [(37, 53), (1, 1), (1, 300)])
def test_eight_bits_come_back(tmp_path, suffix, shape):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image = Image(pixels=np.stack([rows % 256, columns % 256, (rows + columns) % 256], axis=-1).astype(np.uint8))
    write_image(tmp_path / f"a{suffix}", image)
    error = np.abs(open_image(tmp_path / f"a{suffix}").pixels.astype(int) - image.pixels)
    assert error.mean() < {".jpg": 2, ".webp": 3}.get(suffix, 1e-9)
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bands", [1, 3])
def test_alpha_and_grey_come_back(tmp_path, colors, suffix, bands):
    write_image(tmp_path / f"a{suffix}", Image(pixels=colors[..., :bands], alpha=colors[..., 2]))
    image = open_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(image.pixels, colors[..., :bands])
    np.testing.assert_array_equal(image.alpha, colors[..., 2])
    with PillowImage.open(tmp_path / f"a{suffix}") as other:
        assert other.mode == ("LA" if bands == 1 else "RGBA")


def test_webp_keeps_alpha(tmp_path, colors):
    write_image(tmp_path / "a.webp", Image(pixels=colors, alpha=colors[..., 2]))
    np.testing.assert_array_equal(open_image(tmp_path / "a.webp").alpha, colors[..., 2])


@pytest.mark.parametrize("bands", [1, 3])
def test_floats_come_back(tmp_path, bands):
    pixels = np.random.default_rng(0).normal(size=(300, 20, bands)).astype(np.float32)
    write_image(tmp_path / "a.tif", Image(pixels=pixels))
    np.testing.assert_array_equal(open_image(tmp_path / "a.tif").pixels, pixels)


def test_quality_matters_and_good_jpegs_keep_full_chroma(tmp_path, data_dir):
    image = open_image(data_dir / "restoration/Set5/HR/bird.png")
    for quality in (50, 95):
        write_image(tmp_path / f"{quality}.jpg", image, quality=quality)
    assert (tmp_path / "50.jpg").stat().st_size < (tmp_path / "95.jpg").stat().st_size / 2
    with PillowImage.open(tmp_path / "95.jpg") as made:
        assert [layer[1:3] for layer in made.layer] == [(1, 1)] * 3
    with pytest.raises(ValueError, match="quality 0: expected 1 to 100"):
        write_image(tmp_path / "x.jpg", image, quality=0)


GREY = np.zeros((4, 4, 1), np.uint8)
RGB = np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "image", "words"),
    [
        ("a.gif", Image(pixels=RGB), "unknown suffix '.gif', expected one of .png"),
        ("a", Image(pixels=RGB), "unknown suffix ''"),
        ("a.jpg", Image(pixels=RGB, alpha=GREY[..., 0]), r"no transparency; PNG \(.png\), TIFF \(.tif\) and WebP"),
        ("a.jpg", Image(pixels=RGB.astype(np.uint16)), r"JPEG holds no uint16 pixels; PNG \(.png\) and TIFF \(.tif\) hold them"),
        ("a.webp", Image(pixels=RGB.astype(np.uint16)), "WEBP holds no uint16"),
        ("a.png", Image(pixels=RGB.astype(np.float32)), r"PNG holds no float32 pixels; TIFF \(.tif\) holds them"),
        ("a.png", Image(pixels=RGB.astype(np.int16)), "PNG holds no int16"),
        ("a.png", Image(pixels=np.zeros((4, 4, 8), np.uint8)), "PNG holds 1 or 3 bands, not 8"),
        ("a.pgm", Image(pixels=RGB), "PGM holds grey only"),
        ("a.webp", Image(pixels=np.zeros((1, 16384, 3), np.uint8)), "sides up to 16383, not 16384"),
        ("a.jpg", Image(pixels=np.zeros((1, 65536, 1), np.uint8)), "sides up to 65535, not 65536"),
    ],
)
def test_what_a_format_cannot_hold_is_told_in_one_line(tmp_path, name, image, words):
    with pytest.raises(ValueError, match=words) as caught:
        write_image(tmp_path / name, image)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_it_can_be_told_before_the_work(tmp_path):
    assert check_format(tmp_path / "a.PNG", Image(pixels=RGB)) == "PNG"


def test_what_lies_beside_the_pixels_is_left_out_with_a_warning(tmp_path, icc, caplog):
    write_image(tmp_path / "a.bmp", Image(pixels=RGB, icc=icc, nodata=0))
    assert "BMP has no place for the nodata value, colour profile, left out" in caplog.text


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_nothing_is_overwritten_unasked(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="exists"):
        write_image(path, Image(pixels=RGB))
    assert path.read_text() == "mine"
    write_image(path, Image(pixels=RGB), overwrite=True)
    assert open_image(path).shape == (4, 4)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_rights(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="Permission denied"):
        write_image(tmp_path / "a.png", Image(pixels=RGB))


def test_a_missing_folder(tmp_path):
    with pytest.raises(OSError, match="is not a folder"):
        write_image(tmp_path / "none" / "a.png", Image(pixels=RGB))


CODE = """
import resource, sys, numpy as np
from geovit.datasets.images import Image, write_image
kind, path, limit = sys.argv[1:]
pixels = np.random.default_rng(0).integers(0, 256, (700, 700, 3)).astype(kind)
image = Image(pixels=pixels, icc=bytes(1000))
print("ready", flush=True)
if limit != "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
write_image(path, image, overwrite=True)
"""


def start(kind, path, limit=0):
    command = [sys.executable, "-c", CODE, kind, str(path), str(limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


KINDS = [("uint8", "a.png"), ("uint16", "a.png"), ("uint16", "a.tif"), ("uint8", "a.jpg")]


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path, kind, name):
    path = tmp_path / name
    path.write_text("old")
    with start(kind, path, 100_000) as process:
        _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith(f"OSError: cannot write {path}: ")
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert path.read_text() == "old"


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_killed_half_way_the_file_is_absent_or_complete(tmp_path, kind, name):
    path = tmp_path / name
    with start(kind, path) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not path.exists() or open_image(path).shape == (700, 700)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(PillowImage.Image, "save", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_image(tmp_path / "a.png", Image(pixels=RGB))
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
