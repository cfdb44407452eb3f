"""Damage to files: bytes, text, numbers, names of files, and the structure of HDF5. All of it from a seeded generator."""

import re
import shutil
from pathlib import Path

import h5py
import numpy as np

TEXT = {".hdr", ".xml", ".vrt", ".json", ".geojson", ".csv", ".nhdr", ".zattrs", ".zarray", ".zgroup", ".cpg", ".prj", ".qml"}
_NUMBERS = (
    "0",
    "-1",
    "1",
    "65536",
    "2147483647",
    "4294967296",
    "99999999999999999999",
    "1e308",
    "-1e308",
    "nan",
    "inf",
    "0.5",
    "",
)
_INTEGERS = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def mutate(rng: np.random.Generator, path: Path, canaries: list[str]) -> None:
    """Damage a file in place, in one to three ways. ``canaries`` are names of files that must not be read."""
    for _ in range(int(rng.integers(1, 4))):
        hdf5 = path.is_file() and path.read_bytes()[:8] == b"\x89HDF\r\n\x1a\n"
        if hdf5 and rng.random() < 0.5:
            try:
                _structure(rng, path, canaries)
            except (OSError, RuntimeError, ValueError, KeyError, TypeError):  # damaged before
                path.write_bytes(_bytes(rng, path.read_bytes()))
        elif path.suffix.lower() in TEXT or path.name.lower() in TEXT:
            path.write_text(_text(rng, path.read_text(errors="replace"), canaries), errors="replace")
        else:
            path.write_bytes(_bytes(rng, path.read_bytes()))


def _bytes(rng: np.random.Generator, data: bytes) -> bytes:
    size = max(len(data), 1)
    # Headers are at the beginning mostly, sometimes at the end.
    near = [min(size, 512), min(size, 4096), size][int(rng.integers(3))]
    at = int(rng.integers(near))
    if rng.random() < 0.1:
        at = size - 1 - int(rng.integers(min(size, 512)))
    length = int(2 ** rng.integers(0, 9))
    changed = bytearray(data or b"\0")
    match int(rng.integers(8)):
        case 0:  # flip some bits
            for _ in range(int(rng.integers(1, 9))):
                changed[int(rng.integers(near))] ^= 1 << int(rng.integers(8))
        case 1:
            return bytes(changed[:at])
        case 2:
            changed[at : at + length] = bytes(len(changed[at : at + length]))
        case 3:
            changed[at : at + length] = rng.bytes(len(changed[at : at + length]))
        case 4:  # a part once more
            changed[at:at] = changed[at : at + length]
        case 5:
            del changed[at : at + length]
        case 6:  # a number at its end of the range
            width, order = int(rng.choice([1, 2, 4, 8])), str(rng.choice(["little", "big"]))
            number = int(rng.choice(np.array(_INTEGERS, dtype=np.uint64))) % 256**width
            changed[at : at + width] = number.to_bytes(width, order)  # type: ignore[arg-type]
        case _:  # parts exchanged
            other = int(rng.integers(size))
            changed[at : at + length], changed[other : other + length] = (
                changed[other : other + length],
                changed[at : at + length],
            )
    return bytes(changed)


def _text(rng: np.random.Generator, text: str, canaries: list[str]) -> str:
    def change(pattern: str, replacement: str) -> str:
        found = list(re.finditer(pattern, text))
        if not found:
            return text[: int(rng.integers(len(text) + 1))]
        one = found[int(rng.integers(len(found)))]
        return text[: one.start()] + replacement + text[one.end() :]

    match int(rng.integers(10)):
        case 0 | 1 | 2:
            return change(r"-?\d+(\.\d+)?", str(rng.choice(_NUMBERS)))
        case 3 | 4:  # what looks like a file, or any word
            files = r"[\w./:-]*\.(tif|tiff|img|raw|dat|jp2|vrt|nii(\.gz)?|json|zarr|bin)\b"
            return change(files if re.search(files, text) else r"\w+", canaries[int(rng.integers(len(canaries)))])
        case 5:
            return change(r"[\w.]+", str(rng.choice(["", "x" * 5000, "\u00e9\u4e2d", "null", "true", "[]", "{}", "%s", "\0"])))
        case 6:
            return change(r"[<>{}\[\],:=\"/]", str(rng.choice(["", "{", "}", "<", ">", '"', ",", "="])))
        case 7:
            lines = text.splitlines(keepends=True)
            at = int(rng.integers(len(lines) or 1))
            return "".join(
                lines[:at] + lines[at + 1 :] if rng.random() < 0.5 else lines[:at] + lines[at : at + 1] * 3 + lines[at:]
            )
        case 8:
            return text[: int(rng.integers(len(text) + 1))]
        case _:
            return _bytes(rng, text.encode()).decode(errors="replace")


def _structure(rng: np.random.Generator, path: Path, canaries: list[str]) -> None:
    local = [name for name in canaries if "://" not in name]
    canary = local[int(rng.integers(len(local)))]
    with h5py.File(path, "a") as file:
        names: list[str] = []
        file.visit(names.append)
        name = names[int(rng.integers(len(names)))]
        node = file[name]
        shape = tuple(getattr(node, "shape", ()) or ())
        match int(rng.integers(9)):
            case 0:
                del file[name]
            case 1:
                del file[name]
                file[name] = h5py.ExternalLink(canary, "/" + name)
            case 2:
                del file[name]
                file[name] = h5py.SoftLink("/" + names[int(rng.integers(len(names)))])
            case 3 if shape:
                del file[name]
                file.create_dataset(name, shape, "u2", external=[(canary, 0, h5py.h5f.UNLIMITED)])
            case 4 if shape:
                layout = h5py.VirtualLayout(shape=shape, dtype="f4")
                layout[...] = h5py.VirtualSource(canary, "/" + name, shape=shape)
                del file[name]
                file.create_virtual_dataset(name, layout)
            case 5:  # another shape or type of numbers
                del file[name]
                other = [(), (0,), (3,), (7, 0, 4), (2, 3), (4, 5, 6), shape[::-1], (2**20, 2**20, 4)][int(rng.integers(8))]
                file.create_dataset(name, other, rng.choice(["f8", "u1", "i8", "c8", "S4", "?"]))
            case 6:
                group = node if rng.random() < 0.5 else file
                if len(group.attrs):
                    key = list(group.attrs)[int(rng.integers(len(group.attrs)))]
                    value = [np.nan, -1, "text", b"\xff\xfe", np.zeros(0), np.arange(100), 1e308, "\0", h5py.Empty("f4"), ""]
                    group.attrs[key] = value[int(rng.integers(len(value)))]
            case 7:
                if len(file.attrs):
                    del file.attrs[list(file.attrs)[int(rng.integers(len(file.attrs)))]]
            case _:
                file.move(name, name + "_")


def copy_of(seed: Path, to: Path) -> None:
    """A fresh copy of the folder of a seed."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(seed, to)
