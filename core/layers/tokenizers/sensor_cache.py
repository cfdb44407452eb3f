"""Weights that follow from wavelengths, made once for each sensor."""

import weakref
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

_SENSORS = 32  # random subsets of bands come without end, and each may be as large as a layer

Made = tuple[Tensor, ...]


class SensorCache:
    """Tensors made of a module's parameters and a sensor's wavelengths, kept while they stay valid.

    They are kept in evaluation only, and only where no gradient is to reach the parameters. They are made anew when a parameter
    is replaced, moved or written to. What is written past autograd's count of versions, through ``.data``, is not seen: the owner
    calls ``clear`` in ``train``, so that it is at the latest when training goes over to evaluation.

    A copy of a cache is an empty one.
    """

    def __init__(self) -> None:
        self._made: OrderedDict[object, tuple[list[weakref.ref[Tensor]], Made]] = OrderedDict()

    def __reduce__(self) -> tuple[type["SensorCache"], tuple[()]]:
        return SensorCache, ()

    def __len__(self) -> int:
        """Return of how many sensors the weights are kept."""
        return len(self._made)

    def clear(self) -> None:
        """Forget everything."""
        self._made.clear()

    def get(self, owner: nn.Module, wavelengths: Tensor, make: Callable[[Tensor], Made]) -> Made:
        """Return ``make(wavelengths)``, of now or of before.

        Args:
            owner: the module whose parameters ``make`` reads.
            wavelengths: (bands,).
            make: returns tensors which follow from these two alone.
        """
        if owner.training or torch.compiler.is_compiling():
            return make(wavelengths)
        parameters = list(owner.parameters())
        learning = torch.is_grad_enabled() and any(p.requires_grad for p in parameters)
        # A tensor of inference mode has no count of versions, a sharded one no address.
        if learning or any(p.is_inference() or type(p) not in (nn.Parameter, Tensor) for p in parameters):
            return make(wavelengths)
        inference = torch.is_inference_mode_enabled()
        state = tuple((id(p), p._version, p.data_ptr(), p.dtype, p.device) for p in parameters)  # noqa: SLF001 - torch's own docs name it
        key = (tuple(wavelengths.tolist()), wavelengths.device, inference, state)
        found = self._made.get(key)
        if found is not None and all(ref() is p for ref, p in zip(found[0], parameters, strict=True)):
            self._made.move_to_end(key)
            return found[1]
        with torch.no_grad():
            made = make(wavelengths)
        self._made[key] = [weakref.ref(p) for p in parameters], made
        while len(self._made) > _SENSORS:
            self._made.popitem(last=False)
        return made
