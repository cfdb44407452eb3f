"""The names and shapes that a published implementation gives to the tensors of a module of ours, both ways."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from .load import Coverage, load_into


@dataclass(frozen=True)
class Layout:
    """How published tensors correspond to those of a module, one to one.

    Args:
        rules: pairs of a regular expression and a replacement as in ``re.sub``, applied one after the other to a name of ours;
            they end at the published name.
        computed: a regular expression that finds published names of buffers which follow from sizes. They are not loaded.
        pointwise: a regular expression that finds our names of matrices that are 1 x 1 convolutions there: with two more axes. What
            else it finds is left as it is.
        merged: a regular expression that finds our names of tensors whose first two axes are one there.
    """

    rules: Sequence[tuple[str, str]]
    computed: str | None = None
    pointwise: str | None = None
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
            flat = self._is_pointwise(own) and tensor.ndim == 4 and tensor.shape[2:] == (1, 1)
            ours[own] = tensor.flatten(1) if flat else tensor
            if own in own_state and self._is_merged(own) and tensor.shape[:1] == (own_state[own].shape[:2].numel(),):
                ours[own] = tensor.unflatten(0, own_state[own].shape[:2])
        return ours

    def to_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a module's tensors under the published names and shapes, without the buffers that follow from sizes."""
        published = {}
        for own, tensor in state.items():
            shaped = tensor[:, :, None, None] if self._is_pointwise(own) and tensor.ndim == 2 else tensor
            published[self.published_name(own)] = shaped.flatten(0, 1) if self._is_merged(own) else shaped
        return published

    def buffers(self, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the buffers that the published program stores beside these tensors of ``to_published`` and wants to load."""
        return {}

    def load(self, module: nn.Module, state: Mapping[str, Tensor]) -> Coverage:
        """Copy a published state dict into a module, all of it or nothing.

        Raises:
            ValueError: if a tensor is missing, unexpected or of another shape.
        """
        return load_into(module, self.to_ours(module, state))

    def _is_pointwise(self, own: str) -> bool:
        return self.pointwise is not None and re.search(self.pointwise, own) is not None

    def _is_merged(self, own: str) -> bool:
        return self.merged is not None and re.search(self.merged, own) is not None
