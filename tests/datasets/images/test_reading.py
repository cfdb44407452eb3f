import io
import logging
import struct
import subprocess
import sys
import zlib
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import rasterio
from PIL import Image as PillowImage
from PIL import ImageCms

from geovit.datasets.images import Image, open_image, write_image

unplaced = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # rasterio.open of the test itself


def save(path, made, **options):
    made.save(path, **options)
    return open_image(path)


def test_importing_needs_no_pillow():
    code = "import sys; sys.modules['PIL'] = None; import geovit.datasets as d; d.open_image('x.png')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "ImportError: images need Pillow: pip install 'geovit[restoration]'"


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".ppm"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_eight_bits_are_read_exactly(tmp_path, colors, suffix, mode):
    made = PillowImage.fromarray(colors).convert(mode)
    image = save(tmp_path / f"a{suffix}", made)
    np.testing.assert_array_equal(image.pixels, np.asarray(made).reshape(37, 53, -1))
    assert (image.pixels.dtype, image.alpha, image.grid, image.peak) == (np.uint8, None, None, 255)


@pytest.mark.parametrize(("suffix", "options"), [(".jpg", {"quality": 100, "subsampling": 0}), (".webp", {"lossless": True})])
def test_jpeg_and_webp_are_read(tmp_path, colors, suffix, options):
    image = save(tmp_path / f"a{suffix}", PillowImage.fromarray(colors), **options)
    with PillowImage.open(tmp_path / f"a{suffix}") as made:
        np.testing.assert_array_equal(image.pixels, made)
    assert image.format == {".jpg": "JPEG", ".webp": "WEBP"}[suffix]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_comes_apart(tmp_path, colors, suffix, mode):
    made = PillowImage.fromarray(colors).convert(mode)
    made.putalpha(PillowImage.fromarray(colors[..., 1]))
    image = save(tmp_path / f"a{suffix}", made)
    assert image.channels == len(mode) - 1
    np.testing.assert_array_equal(image.alpha, colors[..., 1])
    np.testing.assert_array_equal(image.pixels, np.asarray(made)[..., :-1])


def test_palettes_become_colours(tmp_path, colors):
    made = PillowImage.fromarray(colors).quantize(16)
    expected = np.asarray(made.convert("RGB"))
    for suffix in (".png", ".tif", ".bmp"):
        np.testing.assert_array_equal(save(tmp_path / f"a{suffix}", made).pixels, expected)
    image = save(tmp_path / "b.png", made, transparency=3)
    np.testing.assert_array_equal(image.alpha, np.where(np.asarray(made) == 3, 0, 255))
    np.testing.assert_array_equal(image.pixels, expected)


@pytest.mark.parametrize(("mode", "clear"), [("L", 120), ("RGB", (60, 80, 60)), ("1", 1)])
def test_one_transparent_colour_becomes_alpha(tmp_path, colors, mode, clear):
    made = PillowImage.fromarray(colors).convert(mode)
    image = save(tmp_path / "a.png", made, transparency=clear)
    values = np.asarray(made).reshape(37, 53, -1)
    np.testing.assert_array_equal(image.alpha == 0, (values == np.asarray(clear)).all(axis=-1))
    assert (image.alpha == 0).any()


@pytest.mark.parametrize(("suffix", "options"), [(".png", {}), (".tif", {}), (".tif", {"compression": "group4"})])
def test_one_bit_becomes_black_and_white(tmp_path, colors, suffix, options):
    made = PillowImage.fromarray(colors).convert("1")
    image = save(tmp_path / f"a{suffix}", made, **options)
    np.testing.assert_array_equal(image.pixels[..., 0], np.where(np.asarray(made), 255, 0))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_sixteen_bits_stay_sixteen_even_when_dark(tmp_path, deep, suffix, bands):
    for values in (deep[..., :bands], deep[..., :bands] % 200):
        alpha = values[..., -1] if bands in (2, 4) else None
        pixels = values if alpha is None else values[..., :-1]
        write_image(tmp_path / f"a{suffix}", Image(pixels=pixels, alpha=alpha), overwrite=True)
        image = open_image(tmp_path / f"a{suffix}")
        assert (image.pixels.dtype, image.peak, image.format) == (np.uint16, 65535, {".png": "PNG", ".tif": "TIFF"}[suffix])
        np.testing.assert_array_equal(image.pixels, pixels)
        np.testing.assert_array_equal(image.alpha, alpha)


def png(*chunks):
    parts = [struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_sixteen_bit_transparent_colour_is_compared_in_sixteen_bits(tmp_path):
    # 0x0102 and 0x01FF are one colour to whoever looks at the upper eight bits.
    rows = b"\0" + struct.pack(">6H", 0x0102, 0x0102, 0x0102, 0x01FF, 0x0102, 0x0102)
    chunks = (b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)), (b"tRNS", struct.pack(">3H", 0x0102, 0x0102, 0x0102))
    (tmp_path / "a.png").write_bytes(png(*chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")))
    np.testing.assert_array_equal(open_image(tmp_path / "a.png").alpha, [[0, 65535]])


def test_float_tiff(tmp_path):
    values = np.random.default_rng(0).random((5, 6), dtype=np.float32)
    image = save(tmp_path / "a.tif", PillowImage.fromarray(values))
    assert (image.pixels.dtype, image.peak, image.format) == (np.float32, 1.0, "TIFF")
    np.testing.assert_array_equal(image.pixels[..., 0], values)


@unplaced
def test_white_is_zero_and_premultiplied_tiff(tmp_path):
    profile = {"driver": "GTiff", "height": 4, "width": 4, "dtype": "uint16"}
    values = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000
    with rasterio.open(tmp_path / "w.tif", "w", **profile, count=1, photometric="MINISWHITE") as dst:
        dst.write(values, 1)
    with rasterio.open(tmp_path / "p.tif", "w", **profile, count=4, photometric="RGB", alpha="PREMULTIPLIED") as dst:
        dst.write(np.stack([values // 4, values // 5, values, values]))
    np.testing.assert_array_equal(open_image(tmp_path / "w.tif").pixels[..., 0], 65535 - values)
    image = open_image(tmp_path / "p.tif")
    np.testing.assert_array_equal(image.pixels[0, 1:].reshape(3, 3), [[16384, 13107, 65535]] * 3)
    np.testing.assert_array_equal(image.pixels[0, 0], 0)


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", TURNS)
def test_orientation_is_applied_once(tmp_path, colors, exif, orientation):
    exif[0x0112] = orientation
    made = PillowImage.fromarray(colors)
    for suffix in (".png", ".tif", ".jpg", ".webp"):
        image = save(tmp_path / f"a{suffix}", made, exif=exif, **({"lossless": True} if suffix == ".webp" else {}))
        expected = TURNS[orientation](colors)
        assert np.abs(image.pixels.astype(int) - expected).max() <= (40 if suffix == ".jpg" else 0)
        write_image(tmp_path / f"b{suffix}", image, overwrite=True)
        again = open_image(tmp_path / f"b{suffix}")
        assert again.shape == expected.shape[:2]
        with PillowImage.open(tmp_path / f"b{suffix}") as written:
            assert written.getexif().get(0x0112, 1) == 1


def test_orientation_of_sixteen_bits(tmp_path, deep):
    turned = PillowImage.Exif()
    turned[0x0112] = 6
    write_image(tmp_path / "a.png", Image(pixels=deep[..., :3], alpha=deep[..., 3], exif=turned.tobytes()))
    image = open_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, TURNS[6](deep[..., :3]))
    np.testing.assert_array_equal(image.alpha, TURNS[6](deep[..., 3]))
    grey = save(tmp_path / "a.tif", PillowImage.fromarray(deep[..., 0]), exif=turned)
    np.testing.assert_array_equal(grey.pixels[..., 0], TURNS[6](deep[..., 0]))


@pytest.mark.parametrize(("suffix", "bits"), [(".png", 8), (".png", 16), (".tif", 8), (".tif", 16), (".jpg", 8), (".webp", 8)])
def test_profile_and_exif_are_kept(tmp_path, colors, deep, icc, exif, suffix, bits):
    pixels = colors if bits == 8 else deep[..., :3]
    made = PillowImage.fromarray(colors)
    source = save(tmp_path / "s.jpg", made, exif=exif, icc_profile=icc)  # turned, so it is 53 high and 37 wide
    write_image(tmp_path / f"a{suffix}", Image(pixels=pixels, icc=source.icc, exif=source.exif))
    image = open_image(tmp_path / f"a{suffix}")
    assert image.icc == icc
    with PillowImage.open(tmp_path / f"a{suffix}") as other:  # as other programs see it
        assert other.info["icc_profile"] == icc
        read = other.getexif()
        assert read[0x010F] == "A camera"
        assert read.get_ifd(0x8825)[2] == (48.0, 8.0, 2.5)
        part = read.get_ifd(0x8769)
        assert (part[0x9003], part[0xA002], part[0xA003]) == ("2026:01:02 03:04:05", 53, 37)
        other.load()
    again = PillowImage.Exif()
    again.load(image.exif)
    assert (again[0x010F], again.get_ifd(0x8825)[1], again.get_ifd(0x8769)[0xA002]) == ("A camera", "N", 53)


def test_a_tiff_keeps_no_tags_of_its_storage(tmp_path, colors, exif):
    image = save(tmp_path / "a.tif", PillowImage.fromarray(colors), compression="tiff_lzw", software="x")
    block = PillowImage.Exif()
    block.load(image.exif)
    assert dict(block) == {305: "x"}


def test_cmyk_becomes_rgb_with_a_note(tmp_path, colors, caplog):
    image = save(tmp_path / "a.jpg", PillowImage.fromarray(colors).convert("CMYK"), quality=100)
    assert np.abs(image.pixels.astype(int) - colors).max() < 12
    assert "CMYK without a usable colour profile" in caplog.text


def test_lab_goes_through_the_profile(tmp_path, icc, caplog):
    color = np.full((4, 4, 3), (200, 90, 40), dtype=np.uint8)
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(PillowImage.fromarray(color), to_lab)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    image = save(tmp_path / "a.tif", lab, icc_profile=profile)
    assert np.abs(image.pixels.astype(int) - color).max() <= 3
    assert "converted to sRGB" in caplog.text


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_the_first_of_several_pictures_is_read_with_a_warning(tmp_path, colors, suffix, caplog):
    frames = [PillowImage.fromarray(np.roll(colors, i, axis=2)) for i in range(3)]
    options = {"lossless": True} if suffix == ".webp" else {}
    image = save(tmp_path / f"a{suffix}", frames[0], save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(image.pixels, colors)
    assert "holds 3" in caplog.text
    assert "the first is taken" in caplog.text


def test_overviews_and_masks_are_no_pages(data_dir, caplog):
    with caplog.at_level(logging.WARNING):
        open_image(data_dir / "satellite/rasterio_tests/cogeo.tif")
    assert not caplog.records


def test_real_photographs(data_dir):
    image = open_image(data_dir / "restoration/Set5/HR/bird.png")
    assert (image.pixels.shape, image.pixels.dtype, image.format) == ((288, 288, 3), np.uint8, "PNG")
    rain = open_image(data_dir / "restoration/ddn_rain_pairs/1rain.jpg")
    block = PillowImage.Exif()
    block.load(rain.exif)
    assert "Photoshop" in block[305]
    grey = open_image(data_dir / "restoration/Set14/HR/bridge.png")
    assert grey.channels == 1


# What is wrong, and says so in one line


def fails(path, words, **options):
    with pytest.raises(ValueError, match=words) as caught:
        open_image(path, **options)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_image(tmp_path):
    (tmp_path / "a.png").write_text("not an image at all")
    (tmp_path / "b.png").touch()
    (tmp_path / "c.gif").write_bytes(b"GIF89a" + bytes(50))
    fails(tmp_path / "a.png", "not an image")
    fails(tmp_path / "b.png", "0 bytes")
    fails(tmp_path / "c.gif", "expected PNG, JPEG, TIFF, WebP")
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_image(tmp_path / "missing.png")
    with pytest.raises(FileNotFoundError, match="a folder"):
        open_image(tmp_path)


def files_of_each_format(folder, colors, deep):
    made = PillowImage.fromarray(np.random.default_rng(0).integers(0, 256, colors.shape).astype(np.uint8))
    kinds = {
        "a.png": {}, "a.jpg": {}, "progressive.jpg": {"progressive": True}, "a.webp": {}, "lossless.webp": {"lossless": True},
        "a.tif": {}, "lzw.tif": {"compression": "tiff_lzw"}, "deflate.tif": {"compression": "tiff_deflate"}, "a.bmp": {},
        "a.ppm": {},
    }  # fmt: skip
    for name, options in kinds.items():
        made.save(folder / name, **options)
    made.quantize(16).save(folder / "palette.tif")
    for name in ("deep.png", "deep.tif"):
        write_image(folder / name, Image(pixels=deep[..., :3]))
    return sorted(folder.iterdir())


def test_a_truncated_file_of_any_format_is_told_wherever_it_ends(tmp_path, colors, deep):
    for path in files_of_each_format(tmp_path, colors, deep):
        whole = path.read_bytes()
        open_image(path)
        for length in {*range(1, 13), *range(17, len(whole), len(whole) // 17), *range(len(whole) - 13, len(whole))}:
            path.write_bytes(whole[:length])
            if path.suffix == ".bmp" and length == len(whole) - 1:
                continue  # a byte of padding, without which nothing is lost
            fails(path, "truncated|damaged|not an image|0 bytes|not a raster|cannot be read")


class OneLine(Exception):  # noqa: N818 - it is as it should be
    pass


@contextmanager
def one_line(path):
    try:
        yield
    except ValueError as error:
        if str(path) in str(error) and "\n" not in str(error):
            raise OneLine from error
        raise


def test_damaged_files_give_pixels_or_one_line(tmp_path, colors, deep):
    rng = np.random.default_rng(0)
    for path in files_of_each_format(tmp_path, colors, deep):
        whole = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        for _ in range(12):
            broken = whole.copy()
            broken[rng.integers(0, min(len(broken), 300), 5)] = rng.integers(0, 256, 5)
            path.write_bytes(broken.tobytes())
            with suppress(OneLine), one_line(path):
                open_image(path, max_pixels=10**6)


def test_a_bomb_is_refused_before_its_pixels_are_made(tmp_path):
    rows = zlib.compress(bytes(1000))
    for bits in (8, 16):
        header = struct.pack(">IIBBBBB", 40000, 40000, bits, 2, 0, 0, 0)
        (tmp_path / "a.png").write_bytes(png((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")))
        fails(tmp_path / "a.png", r"40000 x 40000 pixels, more than the limit of 1073741824")
    PillowImage.new("1", (2000, 2000)).save(tmp_path / "b.tif", compression="group4")
    fails(tmp_path / "b.tif", "2000 x 2000 pixels, more than the limit of 1000", max_pixels=1000)


def test_a_large_image_is_no_bomb(tmp_path):
    # Pillow by itself warns of more than 9459 pixels a side, and refuses more than 13377.
    PillowImage.new("L", (14000, 13500)).save(tmp_path / "a.png", compress_level=1)
    assert open_image(tmp_path / "a.png").shape == (13500, 14000)


@unplaced
@pytest.mark.parametrize("dtype", ["int32", "float64", "uint32", "complex64"])
def test_other_types_are_refused(tmp_path, dtype):
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", count=1, height=3, width=3, dtype=dtype) as dst:
        dst.write(np.ones((1, 3, 3), dtype))
    fails(tmp_path / "a.tif", f"{dtype}, expected one of uint8, uint16, int16, float32")


@unplaced
def test_odd_depths_are_refused(tmp_path):
    (tmp_path / "a.ppm").write_bytes(b"P6 2 2 1023\n" + bytes(24))
    (tmp_path / "b.pgm").write_bytes(b"P5 2 2 65535\n" + bytes(8))
    fails(tmp_path / "a.ppm", "more than 8 bits")
    fails(tmp_path / "b.pgm", "more than 8 bits")
    with rasterio.open(tmp_path / "c.tif", "w", driver="GTiff", count=1, height=3, width=3, dtype="uint16", nbits=12) as dst:
        dst.write(np.ones((1, 3, 3), "uint16"))
    fails(tmp_path / "c.tif", "12 bits")


def test_a_damaged_exif_block_costs_no_pixels(tmp_path, colors, caplog):
    buffer = io.BytesIO()
    PillowImage.fromarray(colors).save(buffer, "PNG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xffgarbage")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(open_image(tmp_path / "a.png").pixels, colors)
