"""The names and shapes that a published implementation gives to the tensors of a module of ours, both ways."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .load import Coverage, load_into


@dataclass(frozen=True)
class Layout:
    """How published tensors correspond to those of a module, one to one.

    Args:
        rules: pairs of a regular expression and a replacement as in ``re.sub``, applied one after the other to a name of ours;
            they end at the published name.
        computed: a regular expression that finds published names of buffers which follow from sizes. They are not loaded.
        pointwise: a regular expression that finds our names of matrices that are 1 x 1 convolutions there: with two more axes.
            Tensors of more axes that it finds are left as they are.
        channels: a regular expression that finds our names of vectors over channels that are (1, channels, 1, 1) there.
        merged: a regular expression that finds our names of tensors whose first two axes are one there.
    """

    rules: Sequence[tuple[str, str]]
    computed: str | None = None
    pointwise: str | None = None
    channels: str | None = None
    merged: str | None = None

    def published_name(self, own: str) -> str:
        """Translate a name of ours."""
        for pattern, replacement in self.rules:
            own = re.sub(pattern, replacement, own)
        return own

    def to_ours(self, module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return published tensors by our names; those without a counterpart keep theirs. Gradients pass.

        Raises:
            ValueError: if two tensors of the module have one published name.
        """
        own_state = module.state_dict()
        own_names = {self.published_name(own): own for own in own_state}
        if len(own_names) < len(own_state):
            raise ValueError("two tensors of the module have one published name")
        ours = {}
        for name, tensor in state.items():
            if self.computed and re.search(self.computed, name) and name not in own_names:
                continue
            own = own_names.get(name, name)
            if tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
                if self._is(self.pointwise, own):
                    tensor = tensor.flatten(1)
                elif self._is(self.channels, own) and len(tensor) == 1:
                    tensor = tensor.flatten()
            elif self._is(self.merged, own) and own in own_state:
                apart = own_state[own].shape[:2]
                tensor = torch.unflatten(tensor, 0, apart) if tensor.shape[:1] == (apart.numel(),) else tensor
            ours[own] = tensor
        return ours

    def to_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a module's tensors under the published names and shapes, without the buffers that follow from sizes."""
        published = {}
        for own, tensor in state.items():
            if self._is(self.pointwise, own) and tensor.ndim == 2:
                tensor = tensor[:, :, None, None]
            elif self._is(self.channels, own):
                tensor = tensor[None, :, None, None]
            elif self._is(self.merged, own):
                tensor = tensor.flatten(0, 1)
            published[self.published_name(own)] = tensor
        return published

    def buffers(self, published: Mapping[str, Tensor], image: int | None = None) -> dict[str, Tensor]:
        """Return the buffers that the published program stores beside these tensors of ``to_published`` and wants to load.

        Args:
            published: tensors by their published names.
            image: pixels on a side of the images that the published network is constructed for, on which some depend.
        """
        return {}

    def load(self, module: nn.Module, state: Mapping[str, Tensor]) -> Coverage:
        """Copy a published state dict into a module, all of it or nothing.

        Raises:
            ValueError: if a tensor is missing, unexpected or of another shape.
        """
        return load_into(module, self.to_ours(module, state))

    @staticmethod
    def _is(pattern: str | None, own: str) -> bool:
        return pattern is not None and re.search(pattern, own) is not None
