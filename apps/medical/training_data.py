"""Prepared cases, cached in memory and on disk, and the crops of them that a network learns from.

No trainer is imported here: these are datasets and a sampler for ``torch.utils.data.DataLoader``.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ...datasets import atomic
from ...datasets.cases import Case, read_case
from .augmentation import AugmentationConfig, Augmentations, Batch
from .facts import Progress
from .plan import Plan
from .preparation import prepare, prepare_labels

logger = logging.getLogger(__name__)

_VERSION = 1  # of the files; one more whenever preparation gives other voxels
_PLACES = 4096  # voxels of each target that are kept to choose crops by
_SHOWN_KEY = 20


@dataclass(frozen=True)
class PreparedCase:
    """A case as ``prepare`` and ``prepare_labels`` make it.

    Args:
        name: of the case.
        voxels: (channels, x, y, z) float32.
        label: uint8, (1, x, y, z) or (regions, x, y, z).
        affine: (4, 4) float64.
        places: of each target, voxels that belong to it: (n, 3) int32, evenly chosen, at most 4096.
    """

    name: str
    voxels: Tensor
    label: Tensor
    affine: Tensor
    places: tuple[Tensor, ...]

    @property
    def bytes(self) -> int:
        """That its tensors take."""
        return sum(x.numel() * x.element_size() for x in (self.voxels, self.label, *self.places))


class PreparedCases(Sequence[PreparedCase]):
    """Cases, prepared when they are first asked for.

    Args:
        cases: with label maps.
        plan: that they are prepared by.
        memory: bytes of prepared cases that are kept; what comes after that is read or prepared each time.
        folder: where prepared cases are written as safetensors, and read from by the next run. Their names have a hash of the
            files' content and of what the plan says of preparation, so that nothing outdated is read. None: nothing is written.
    """

    def __init__(self, cases: Sequence[Case], plan: Plan, *, memory: int = 4 * 2**30, folder: Path | None = None) -> None:
        if unlabelled := [case.name for case in cases if case.label is None]:
            raise ValueError(f"{unlabelled[0]} has no label to learn from")
        self._cases, self._plan = tuple(cases), plan
        self._memory, self._folder = memory, folder
        self._kept: dict[int, PreparedCase] = {}
        self._used = 0

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, index: int) -> PreparedCase:  # type: ignore[override]
        """Return a case, from memory, from disk or from its files.

        Raises:
            FileNotFoundError, ValueError: as of ``read_case``, ``prepare`` and ``prepare_labels``.
        """
        if index in self._kept:
            return self._kept[index]
        found = self._load(self._cases[index])
        if self._used + found.bytes <= self._memory:
            self._kept[index] = found
            self._used += found.bytes
        return found

    def fill(self, progress: Progress | None = None) -> None:
        """Prepare all cases now: before training, and before a data loader starts processes, which then share the memory."""
        for number in range(len(self)):
            self[number]
            if progress is not None:
                progress(number + 1, len(self))
        if self._kept and (rest := len(self) - len(self._kept)):
            made = "prepared" if self._folder is None else "read"
            logger.warning("%d of %d cases do not fit in the memory allowed and are %s anew each time", rest, len(self), made)

    def _load(self, case: Case) -> PreparedCase:
        if self._folder is None:
            return prepare_case(case, self._plan)
        name = re.sub(r"[^\w.-]", "_", case.name)
        path = self._folder / f"{name}-{_key(case, self._plan)[:_SHOWN_KEY]}.safetensors"
        if path.is_file():
            try:
                return _read(path, case.name)
            except (SafetensorError, OSError, KeyError) as error:
                logger.warning("%s cannot be read and is made anew (%s)", path, error)
        found = prepare_case(case, self._plan)
        self._folder.mkdir(parents=True, exist_ok=True)
        places = {f"places.{number}": place for number, place in enumerate(found.places)}
        with atomic(path, overwrite=True) as temporary:
            save_file({"voxels": found.voxels, "label": found.label, "affine": found.affine, **places}, temporary)
        return found


def prepare_case(case: Case, plan: Plan) -> PreparedCase:
    """Read and prepare a case.

    Raises:
        FileNotFoundError, ValueError: as of ``read_case``, ``prepare`` and ``prepare_labels``; without label ValueError, too.
    """
    volume, labels = read_case(case)
    if labels is None:
        raise ValueError(f"{case.name} has no label to learn from")
    image = prepare(volume, plan)
    label = prepare_labels(volume, labels, plan, name=str(case.label))
    return PreparedCase(case.name, image.voxels, label, torch.from_numpy(image.affine), _places(label, plan))


def _places(label: Tensor, plan: Plan) -> tuple[Tensor, ...]:
    maps = label.numpy()
    found = []
    for number in range(len(plan.targets)):
        flat = np.flatnonzero(maps[number] if plan.regions else maps[0] == number + 1)
        every = max(1, -(-len(flat) // _PLACES))
        indices = np.unravel_index(flat[::every], maps.shape[1:])
        found.append(torch.from_numpy(np.stack(indices, axis=1).astype(np.int32)))
    return tuple(found)


def _read(path: Path, name: str) -> PreparedCase:
    with safe_open(path, framework="pt") as file:
        keys = set(file.keys())
        tensors = {key: file.get_tensor(key) for key in keys}
    places = tuple(tensors[f"places.{number}"] for number in range(len(keys) - 3))
    return PreparedCase(name, tensors["voxels"], tensors["label"], tensors["affine"], places)


def _key(case: Case, plan: Plan) -> str:
    """Hash of the content of the files and of all of the plan that preparation asks."""
    told = plan.to_dict()
    asked = {key: told[key] for key in ("channels", "regions", "orientation", "spacing", "antialias")}
    asked["targets"] = [target["values"] for target in told["targets"]]
    found = hashlib.blake2b(json.dumps([_VERSION, asked], sort_keys=True).encode())
    for path in (*case.images, case.label):
        for file in [] if path is None else sorted(path.iterdir()) if path.is_dir() else [path]:
            state = file.stat()
            found.update(_content(file, state.st_size, state.st_mtime_ns).encode())
    return found.hexdigest()


@lru_cache(maxsize=100_000)
def _content(file: Path, size: int, changed: int) -> str:
    """Hash of a file's content, computed anew if the file has changed."""
    found = hashlib.blake2b(f"{file.suffix}{size}".encode())
    with file.open("rb") as opened:
        while block := opened.read(2**20):
            found.update(block)
    return found.hexdigest()


class TrainingCrops(Dataset[Batch]):
    """Crops of cases, drawn and altered at random.

    An item's index is a pair (epoch, number), as ``CropSampler`` gives it, and its content follows from that and the seed alone:
    not from what was drawn before, nor from the process that draws it. A training that is resumed sees what it would have seen.

    Args:
        cases: to cut from.
        plan: whose ROI is cut.
        augmentation: how crops are chosen and altered.
        seed: of everything.
    """

    def __init__(
        self, cases: PreparedCases, plan: Plan, augmentation: AugmentationConfig | None = None, *, seed: int = 0
    ) -> None:
        if not len(cases):
            raise ValueError("no cases to train with")
        self._cases, self._seed = cases, seed
        self._augment = Augmentations(augmentation or AugmentationConfig(), plan)

    def __getitem__(self, index: tuple[int, int]) -> Batch:
        """Return {"image": (channels, *roi) float32, "label": (1 or regions, *roi) uint8}."""
        epoch, number = index
        turn, place = divmod(number, len(self._cases))
        order = _generator(self._seed, epoch, turn, 0).permutation(len(self._cases))
        case = self._cases[int(order[place])]
        return self._augment(case.voxels, case.label, case.places, _generator(self._seed, epoch, number, 1))


def _generator(*key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(list(key)))


class CropSampler(Sampler[tuple[int, int]]):
    """Indices of ``TrainingCrops``: (epoch, 0), (epoch, 1), ...; cases come in a new order, each as often as any other.

    Lightning calls ``set_epoch``; others have to.

    Args:
        crops: in an epoch, on all devices together.
        rank: of this device.
        devices: how many there are.
    """

    def __init__(self, crops: int, *, rank: int = 0, devices: int = 1) -> None:
        self._crops, self._rank, self._devices = crops, rank, devices
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw those of another epoch from now on."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        yield from ((self._epoch, number) for number in range(self._rank, self._crops, self._devices))

    def __len__(self) -> int:
        return len(range(self._rank, self._crops, self._devices))
