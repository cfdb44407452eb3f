"""From a state dict into a module: rename, compare, report."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Coverage:
    """What was loaded, and what was not.

    Args:
        tensors, elements: numbers of those that were loaded.
        renamed: how many of the tensors have another name in the file.
        verified: buffers of the file that follow from sizes: they were compared with the network's own, and are equal.
        dropped: tensors of the file that belong to something else than the network, by their names in the file.
        untouched: tensors of the network that the file does not have: they keep the values that they had.
    """

    tensors: int
    elements: int
    renamed: int = 0
    verified: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    untouched: tuple[str, ...] = ()

    def __str__(self) -> str:
        told = [f"{self.tensors} tensors, {self.elements:,} elements"]
        told += [f"{self.renamed} of them renamed"] if self.renamed else []
        told += [f"{len(self.verified)} buffers equal to those computed"] if self.verified else []
        told += [f"left out of the file: {_list('tensors', self.dropped)}"] if self.dropped else []
        told += (
            [f"not in the file, left as they were: {_list('tensors', self.untouched)}"] if self.untouched else ["none missing"]
        )
        return ", ".join([*told, "none unexpected"])


@dataclass(frozen=True)
class Loaded(Generic[M]):
    """A backbone or layer with published weights, the classifier behind it, if the weights had one, and what was loaded."""

    backbone: M
    head: nn.Linear | None
    coverage: Coverage


def rename(state: Mapping[str, Tensor], rules: Sequence[tuple[str, str | None]]) -> dict[str, Tensor]:
    """Return a state dict under new names.

    Args:
        state: tensors by name.
        rules: pairs of a regular expression and a replacement as in ``re.sub``, or None to drop the tensor. They are applied to
            each name one after the other.

    Raises:
        ValueError: if two tensors end under one name.
    """
    renamed: dict[str, Tensor] = {}
    for old, tensor in state.items():
        new: str | None = old
        for pattern, replacement in rules:
            if new is not None and re.search(pattern, new):
                new = None if replacement is None else re.sub(pattern, replacement, new)
        if new in renamed:
            raise ValueError(f"two tensors of the state dict would be named {new}, one of them is {old}")
        if new is not None:
            renamed[new] = tensor
    return renamed


@torch.no_grad()
def load_into(module: nn.Module, state: Mapping[str, Tensor]) -> Coverage:
    """Copy a state dict into a module, all of it or nothing.

    Raises:
        ValueError: if a tensor is missing, unexpected or of another shape; it names them and says how many there are.
    """
    own = module.state_dict()
    problems = {
        "missing": own.keys() - state.keys(),
        "unexpected": state.keys() - own.keys(),
        "of another shape": {
            f"{key} {list(state[key].shape)} instead of {list(own[key].shape)}"
            for key in own.keys() & state.keys()
            if own[key].shape != state[key].shape
        },
    }
    if any(problems.values()):
        raise ValueError("weights do not fit: " + "; ".join(_list(kind, names) for kind, names in problems.items() if names))
    module.load_state_dict(state)
    return Coverage(tensors=len(own), elements=sum(t.numel() for t in own.values()))


def _list(kind: str, names: Iterable[str]) -> str:
    first, *others = sorted(names)
    shown = [first, *others[:2]]
    more = f" and {len(others) - 2} more" if len(others) > 2 else ""
    return f"{len(others) + 1} {kind} ({', '.join(shown)}{more})"
