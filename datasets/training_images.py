"""The training images of the default restoration model: photographs that free packages hold, and generated ones.

    python -m geovit.datasets.training_images PACKAGES OUT

reads the packages named in ``PHOTOGRAPHS`` from a folder (wheels from ``pip download --no-deps``, Debian packages from
``apt-get download``) and writes OUT/train and OUT/validation. No package is installed, and nothing of them is executed.
"""

import bz2
import io
import lzma
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .generated_images import generated_image

GENERATED = 80


@dataclass(frozen=True)
class Photograph:
    """Where a photograph is, and whose.

    Args:
        package: start of the package's file name, with the version that was used.
        member: of its archive.
        author, licence: as the package states them.
        shrink: by which factors it is used: what cameras write is softer than its pixels, and has traces of JPEG.
        validation: whether it is held out.
    """

    package: str
    member: str
    author: str
    licence: str
    shrink: Sequence[int] = (1,)
    validation: bool = False


_LOMIRI = ("lomiri-wallpapers-16.04_20.04.0-2_all.deb", "./usr/share/backgrounds/")
_SKIMAGE = ("scikit_image-0.26.0-", "skimage/data/")
_SKLEARN = ("scikit_learn-1.9.1-", "sklearn/datasets/images/")
_SCIPY = ("scipy-1.9.3-", "scipy/misc/")


def _from(source: tuple[str, str], name: str, author: str, licence: str, *shrink: int, validation: bool = False) -> Photograph:
    return Photograph(source[0], source[1] + name, author, licence, shrink or (1,), validation)


PHOTOGRAPHS: tuple[Photograph, ...] = (
    _from(_LOMIRI, "aitzgorri_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi", "CC-BY-4.0", 2, 3),
    _from(_LOMIRI, "friends_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi", "CC-BY-4.0", 2, 3),
    _from(_LOMIRI, "life_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi", "CC-BY-4.0", 2, 3),
    _from(_LOMIRI, "picosdeeuropa_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi", "CC-BY-4.0", 2, 3),
    _from(_LOMIRI, "sunset_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi", "CC-BY-4.0", 3, 5),
    _from(_LOMIRI, "Picture_0B_by_freespace.jpg", 'Trevor "Freespace"', "CC-BY-4.0", 2, 3),
    _from(_LOMIRI, "Picture_1A_by_freespace.jpg", 'Trevor "Freespace"', "CC-BY-4.0", 1, 2),
    _from(_LOMIRI, "Wine_by_Jakkub_Mede.jpg", "Jakub Mede", "CC-BY-4.0", 2, 4),
    _from(_LOMIRI, "seeding_by_Clements_Engelhardt.jpg", "Clemens Engelhardt", "CC0-1.0", 3, 5),
    _from(_SKIMAGE, "astronaut.png", "NASA", "public domain"),
    _from(_SKIMAGE, "rocket.jpg", "SpaceX", "public domain"),
    _from(_SKIMAGE, "camera.png", "Lav Varshney", "CC0-1.0"),
    _from(_SKIMAGE, "brick.png", "CC0Textures", "CC0-1.0"),
    _from(_SKIMAGE, "grass.png", "linolafett", "CC0-1.0"),
    _from(_SKIMAGE, "gravel.png", "CC0Textures", "CC0-1.0"),
    _from(_SKLEARN, "flower.jpg", "danielbuechele, vultilion", "CC-BY-2.0"),
    _from(_SCIPY, "face.dat", "public-domain-image.com", "public domain"),
    _from(_SKIMAGE, "chelsea.png", "Stefan van der Walt", "CC0-1.0", validation=True),
    _from(_SKIMAGE, "coffee.png", "Rachel Michetti", "CC0-1.0", validation=True),
    _from(_SKLEARN, "china.jpg", "danielbuechele", "CC-BY-2.0", validation=True),
)


def write_training_images(packages: str | Path, out: str | Path, *, generated: int = GENERATED) -> None:
    """Write the photographs and ``generated`` images as PNG: OUT/train and OUT/validation. The same everywhere.

    Raises:
        FileNotFoundError: if a package is not in the folder.
        ValueError: if a package lacks its photograph.
    """
    packages, out = Path(packages), Path(out)
    for folder in ("train", "validation"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for photograph in PHOTOGRAPHS:
        picture = _picture(_unpack(_package(packages, photograph.package), photograph.member), photograph.member)
        stem = photograph.member.rpartition("/")[2].partition(".")[0]
        for factor in photograph.shrink:
            small = picture.resize((picture.width // factor, picture.height // factor), Image.Resampling.LANCZOS)
            small.save(out / ("validation" if photograph.validation else "train") / f"{stem}_{factor}.png")
    for number in range(generated):
        made = generated_image(np.random.default_rng([2, number]))
        Image.fromarray(made).save(out / "train" / f"generated_{number:03d}.png")


def _package(folder: Path, start: str) -> Path:
    found = sorted(folder.glob(f"{start}*"))
    if not found:
        wanted = ", ".join(dict.fromkeys(photograph.package for photograph in PHOTOGRAPHS))
        raise FileNotFoundError(f"no file {start}* in {folder}: wanted are {wanted}")
    return found[0]


def _unpack(package: Path, member: str) -> bytes:
    """Read a file out of a wheel (a zip archive) or a Debian package (an ar archive with a tar archive in it)."""
    try:
        if package.suffix == ".whl":
            with zipfile.ZipFile(package) as wheel:
                return wheel.read(member)
        with tarfile.open(fileobj=io.BytesIO(lzma.decompress(_ar_member(package, b"data.tar.xz")))) as tar:
            file = tar.extractfile(member)
            return file.read() if file else b""
    except (KeyError, zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError) as error:
        raise ValueError(f"{package} does not hold {member}") from error


def _ar_member(package: Path, name: bytes) -> bytes:
    data, start = package.read_bytes(), 8
    while start < len(data):
        header = data[start : start + 60]
        size = int(header[48:58])
        if header[:16].rstrip(b" /") == name:
            return data[start + 60 : start + 60 + size]
        start += 60 + size + size % 2
    raise KeyError(name)


def _picture(data: bytes, member: str) -> Image.Image:
    if member.endswith(".dat"):  # SciPy's raccoon: raw bytes of 768 x 1024 x 3
        pixels: NDArray[np.uint8] = np.frombuffer(bz2.decompress(data), np.uint8).reshape(768, 1024, 3)
        return Image.fromarray(pixels)
    return Image.open(io.BytesIO(data)).convert("RGB")


if __name__ == "__main__":
    write_training_images(*sys.argv[1:3])
