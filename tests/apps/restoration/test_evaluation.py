"""`geovit evaluate restoration`: known scores, and the protocol beside them."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from geovit.apps.cli import main
from geovit.apps.restoration.evaluation import evaluate


@pytest.fixture
def images(tmp_path):
    """Two images in a folder, of sizes that are no multiples of 2."""
    folder = tmp_path / "images"
    folder.mkdir()
    y, x = np.mgrid[:41, :53]
    for number in range(2):
        planes = 120 + 100 * np.sin(x / (3 + number)), 120 + 90 * np.cos(y / 4), (4 * x + 5 * y) % 256
        Image.fromarray(np.stack(planes, -1).astype(np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize(("scale", "bicubic", "cfsr"), [(2, 33.67, 38.07), (4, 28.43, 32.33)])
def test_published_cfsr_has_its_score_on_set5(data_dir, tmp_path, scale, bicubic, cfsr):
    weights = data_dir / "checkpoints" / "cfsr" / f"CFSR_x{scale}.pth"
    folder = data_dir / "restoration" / "Set5"
    out = tmp_path / "scores.json"
    assert main(["evaluate", "restoration", str(folder / "HR"), f"--weights={weights}", f"--out={out}", "--device=cpu"]) == 0
    report = json.loads(out.read_text())
    assert report["methods"] == ["bicubic", "cfsr"]
    assert report["mean"]["bicubic"]["psnr"] == pytest.approx(bicubic, abs=0.01)
    assert report["mean"]["cfsr"]["psnr"] == pytest.approx(cfsr, abs=0.01)
    assert len(report["images"]) == 5
    protocol = report["protocol"]
    assert (protocol["scale"], protocol["crop"], protocol["channels"], protocol["tile"]) == (scale, scale, "luma", "whole image")
    assert protocol["weights"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    given = evaluate(str(folder / "HR"), low=str(folder / "LR_bicubic" / f"X{scale}"), model="bicubic", scale=scale)
    assert given.report["mean"]["bicubic"] == report["mean"]["bicubic"], "what was made is what MATLAB made"


def test_tiles_leave_the_score_as_it_is_and_are_told(data_dir):
    weights = data_dir / "checkpoints" / "cfsr" / "CFSR_x4.pth"
    image = str(data_dir / "restoration" / "Set5" / "HR" / "bird.png")
    whole, tiled = (evaluate(image, weights=weights, tile=tile, device="cpu").report for tile in (0, 160))
    assert tiled["mean"]["cfsr"]["psnr"] == pytest.approx(whole["mean"]["cfsr"]["psnr"], abs=1e-3)
    assert tiled["protocol"]["tile"]["side"] == 160
    assert tiled["protocol"]["tile"]["overlap"] > 0


def test_degraded_photographs_have_their_known_scores(data_dir):
    folder = data_dir / "restoration"
    blurred = evaluate(f"{folder}/gopro_pairs/*_sharp1.png", low=f"{folder}/gopro_pairs/*_blur1.png", model="bicubic", scale=1)
    assert [row["input"]["psnr"] for row in blurred.report["images"]] == pytest.approx([25.11, 24.05], abs=0.005)
    rainy = folder / "ddn_rain_pairs"
    report = evaluate(f"{rainy}/*ground_truth.jpg", low=f"{rainy}/*rain.jpg", model="bicubic", scale=1).report
    assert [row["input"]["psnr"] for row in report["images"]] == pytest.approx([25.3, 19.5, 19.5], abs=0.05)
    assert (report["protocol"]["channels"], report["protocol"]["crop"]) == ("rgb", 0)


def test_the_table_has_a_row_for_each_image_and_the_mean(images, capsys):
    assert main(["evaluate", "restoration", str(images), "--model=bicubic", "--scale=2"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert lines[0][0] == "x2,"
    assert lines[1] == ["image", "bicubic", "PSNR", "SSIM"]
    assert [line[0] for line in lines[2:]] == ["0", "1", "mean"]


def test_channels_and_crop_are_the_users_choice(images):
    luma, rgb = (evaluate(str(images), model="bicubic", scale=2, channels=c, crop=0).report for c in ("luma", "rgb"))
    assert (luma["protocol"]["channels"], rgb["protocol"]["channels"], rgb["protocol"]["crop"]) == ("luma", "rgb", 0)
    assert luma["mean"]["bicubic"]["psnr"] != rgb["mean"]["bicubic"]["psnr"]


def test_equal_images_are_infinitely_good_and_the_file_is_still_json(images, tmp_path, capsys):
    out = tmp_path / "scores.json"
    arguments = [str(images), f"--low={images}", "--model=bicubic", "--scale=1", f"--out={out}"]
    assert main(["evaluate", "restoration", *arguments]) == 0
    assert "inf" in capsys.readouterr().out
    assert json.loads(out.read_text())["mean"]["input"] == {"psnr": None, "ssim": 1.0}
    assert main(["evaluate", "restoration", *arguments]) == 2
    assert "exists: pass --overwrite" in capsys.readouterr().err


def test_grey_images_are_compared_as_colour_images_are(images, tmp_path):
    grey = tmp_path / "grey.png"
    Image.open(images / "0.png").convert("L").save(grey)
    colour = tmp_path / "colour.png"
    Image.open(grey).convert("RGB").save(colour)
    first, second = (evaluate(str(path), model="bicubic", scale=2).report["mean"] for path in (grey, colour))
    assert first == second


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "bicubic"}, "bicubic has any scale: name one"),
        ({"model": "bicubic", "scale": 1}, "scale is 1, and no degraded images are given"),
        ({"model": "bicubic", "scale": 0}, "scale is 0: expected a whole number from 1 on"),
        ({"model": "bicubic", "scale": 2, "crop": -1}, "crop is -1"),
        ({"model": "bicubic", "scale": 2, "crop": 20}, "0.png: 40 x 52 pixels with 20 cut off at each edge"),
        ({"model": "bicubic", "scale": 50}, "0.png: 41 x 53 pixels are less than the scale of 50"),
    ],
)
def test_what_cannot_be_measured_is_told(images, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(str(images), **options)


def test_images_of_another_kind_are_told(images, tmp_path):
    deep = tmp_path / "deep.png"
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(deep)
    with pytest.raises(ValueError, match="1 channel of uint16, expected 8 bits"):
        evaluate(str(deep), model="bicubic", scale=2)
    small = tmp_path / "small.png"
    Image.new("RGB", (20, 20)).save(small)
    with pytest.raises(ValueError, match=r"20 x 20 pixels at scale 2 are not the 40 x 52 of 0.png"):
        evaluate(str(images / "0.png"), low=str(small), model="bicubic", scale=2)
