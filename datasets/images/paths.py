"""Which image files a user means, and where their results go."""

import glob
from collections.abc import Sequence
from pathlib import Path

from .writing import FORMATS


def find_images(inputs: Sequence[str | Path]) -> list[Path]:
    """Image files of files, folders and glob patterns, in the order of the inputs, each once.

    A file is taken whatever its name. Of a folder, the files in it (not in folders below) whose suffix is one of an image, by
    name, without hidden ones; of a pattern (``*``, ``?``, ``[...]``, ``**`` for folders at any depth) likewise what matches.

    Raises:
        FileNotFoundError: an input that is nothing, or has no image in it.
    """
    found: dict[Path, Path] = {}
    for given in inputs:
        path = Path(given)
        if path.is_file():
            matches = [path]
        elif path.is_dir():
            matches = sorted(file for file in path.iterdir() if _is_image(file))
            if not matches:
                raise FileNotFoundError(f"{path}: no image in this folder (looked for {', '.join(FORMATS)})")
        elif glob.has_magic(str(given)):
            matches = sorted(file for file in map(Path, glob.glob(str(given), recursive=True)) if _is_image(file))
            if not matches:
                raise FileNotFoundError(f"{given}: no image matches this pattern (looked for {', '.join(FORMATS)})")
        else:
            raise FileNotFoundError(f"{given}: no such file or folder")
        for match in matches:
            found.setdefault(match.resolve(), match)
    return list(found.values())


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in FORMATS and not path.name.startswith(".") and path.is_file()


def output_path(path: str | Path, out_dir: str | Path | None = None, suffix: str | None = None, *, ending: str = "") -> Path:
    """Where the result of one file goes: ``photo.jpg`` with ending ``_x2`` and suffix ``.png`` to ``out_dir/photo_x2.png``.

    Args:
        path: The input.
        out_dir: Folder of the result; beside the input if none is given.
        suffix: Suffix of the result, with its dot; that of the input if none is given.
        ending: What is added to the name.

    Raises:
        ValueError: the result would be the input itself, or a suffix that no image has.
    """
    path = Path(path)
    chosen = path.suffix if suffix is None else suffix
    if chosen.lower() not in FORMATS:
        raise ValueError(f"{path}: cannot write suffix {chosen!r}, expected one of {', '.join(FORMATS)}")
    result = (path.parent if out_dir is None else Path(out_dir)) / f"{path.stem}{ending}{chosen}"
    if result.resolve() == path.resolve():
        raise ValueError(f"{path}: its result would replace it; choose another folder, suffix or ending")
    return result


def output_paths(
    paths: Sequence[str | Path], out_dir: str | Path | None = None, suffix: str | None = None, *, ending: str = ""
) -> list[Path]:
    """``output_path`` of each of several files.

    Raises:
        ValueError: two of them would go to one file, or one would replace an input, or as for ``output_path``.
    """
    inputs = {Path(path).resolve(): path for path in paths}
    sources: dict[Path, str | Path] = {}
    results = []
    for path in paths:
        result = output_path(path, out_dir, suffix, ending=ending)
        place = result.resolve()
        if place in sources:
            raise ValueError(
                f"{sources[place]} and {path} would both be written to {result}; restore them into different folders"
            )
        if place in inputs:
            raise ValueError(f"{path}: its result {result} would replace an input; choose another folder, suffix or ending")
        sources[place] = path
        results.append(result)
    return results
