"""Which files make up a case, told by their names, where there are no labels to go by."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from .case import Case, some
from .folders import stem

logger = logging.getLogger(__name__)


def group_cases(paths: Sequence[Path], channels: Sequence[str], endings: Sequence[str] | None = None) -> list[Case]:
    """Group images into cases: one file each, or one for each channel.

    Files of one case are in one folder, and their names are that of the case and an ending for the channel, after one of "-_.":
    ``a_0000.nii.gz`` and ``a_0001.nii.gz``, or ``a-t1.nii.gz`` and ``a-t2.nii.gz``. Where there is nothing but the ending, as in
    ``a/t1.nii.gz``, the folder names the case. If no file has such an ending, each is a case with all channels.

    Args:
        paths: files, or folders of DICOM series.
        channels: names of the channels that are wanted, in order.
        endings: of the files, in the order of the channels; capitals do not matter. Default: 0000, 0001, ..., or the names.

    Returns:
        The cases in the order of their first files; other files than those with an ending are then left out, and told of.

    Raises:
        ValueError: the number of endings is not that of the channels, a channel is missing, or two files are one channel.
    """
    if endings is not None and (len(endings) != len(channels) or len({ending.lower() for ending in endings}) < len(endings)):
        raise ValueError(
            f"{', '.join(endings)}: expected {len(channels)} different endings of file names, for {', '.join(channels)}"
        )
    if len(channels) == 1 and endings is None:
        return [Case(name=stem(path), images=(path,)) for path in paths]
    numbers = [f"{index:04}" for index in range(len(channels))]
    for chosen in [numbers, channels] if endings is None else [endings]:
        groups, others = _grouped(paths, chosen)
        # A single file that happens to end with the name of a channel is a case of its own.
        if groups and (endings is not None or max(map(len, groups.values())) > 1):
            if others:
                logger.info("left out, for lack of an ending as _%s: %s", chosen[0], some([path.name for path in others]))
            return [_case(folder, name, files, chosen, channels) for (folder, name), files in groups.items()]
    if endings is not None:
        raise ValueError(f"no file name ends with any of {', '.join(f'_{ending}' for ending in endings)}")
    return [Case(name=stem(path), images=(path,)) for path in paths]


def _grouped(paths: Sequence[Path], endings: Sequence[str]) -> tuple[dict[tuple[Path, str], dict[str, Path]], list[Path]]:
    """Files by folder and name of their case, then by ending; and those without."""
    groups: dict[tuple[Path, str], dict[str, Path]] = {}
    others = []
    for path in paths:
        matches = ((ending, re.fullmatch(rf"(?:(.+)[-_.])?{re.escape(ending)}", stem(path), re.IGNORECASE)) for ending in endings)
        ending, match = next(((ending, match) for ending, match in matches if match), ("", None))
        if match is None:
            others.append(path)
            continue
        files = groups.setdefault((path.parent, match[1] or ""), {})
        if ending in files:
            raise ValueError(f"{files[ending]} and {path.name} are both channel {ending} of one case")
        files[ending] = path
    return groups, others


def _case(folder: Path, name: str, files: dict[str, Path], endings: Sequence[str], channels: Sequence[str]) -> Case:
    told = name or folder.resolve().name
    for ending, channel in zip(endings, channels, strict=True):
        if ending not in files:
            meant = "" if ending == channel else f", a file that ends with _{ending}"
            raise ValueError(f"{folder / name}: channel {channel} is missing{meant}")
    return Case(name=told, images=tuple(files[ending] for ending in endings))
