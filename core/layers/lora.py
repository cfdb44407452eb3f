"""Low-rank adaptation of frozen linear layers."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops.linear import linear
from .linear import Linear

_log = logging.getLogger(__name__)

LINEAR_NAMES = ("qkv", "proj", "fc1", "fc2", "w1", "w2", "w3")


class LoRALinear(nn.Module):
    """A frozen linear layer plus a trainable low-rank update: y = W x + b + (alpha / rank) B A x.

    Source: Hu et al. 2021, section 4.1. B starts at zero, so that a fresh adapter changes nothing. An initialisation of the
    whole network after the adapters were added would undo that: initialise first.

    Raises:
        ValueError: if the rank is not within 1 and the layer's smaller width.
    """

    def __init__(self, base: nn.Linear, *, rank: int, alpha: float | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0 < rank <= self._largest_rank(base):
            raise ValueError(f"LoRA rank must lie in 1..{self._largest_rank(base)}, got {rank}")
        self.base = base.requires_grad_(False)
        self.scale = (rank if alpha is None else alpha) / rank
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.up = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        y: Tensor = self.base(x)
        return y + self._update(x)

    def adapters(self) -> dict[str, Tensor]:
        """The trainable tensors, by their names in the state dict."""
        return {"down": self.down, "up": self.up}

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """Fold the update into a copy of the base layer and return that plain layer."""
        weight = self.base.weight
        exact = torch.promote_types(weight.dtype, torch.float32)
        update = self.scale * self.up.to(exact) @ self.down.to(exact)
        return _layer((weight + update).to(weight.dtype), self.base.bias)

    def fuse(self) -> nn.Module:
        """Return a layer for inference that computes the same with fewer products."""
        return self.merge()

    @staticmethod
    def _largest_rank(base: nn.Linear) -> int:
        return min(base.in_features, base.out_features)

    def _update(self, x: Tensor) -> Tensor:
        return linear(linear(self.dropout(x), self.down), self.scale * self.up)


class GatedLoRALinear(LoRALinear):
    """LoRA with a gate for each output and a full-rank residual: y = W x + b + sigmoid(G x) * (alpha / rank) B A x + R x.

    Source: LoLA-SpecViT (arXiv 2506.17759). G and R are as large as W: this adapts well, but it is no low-rank method. R starts
    at zero; where B is zero the gate changes nothing.

    Args:
        base, rank, alpha, dropout: as in ``LoRALinear``.
        gate: whether there is a G; without it the update counts in full.
        residual: whether there is an R.
    """

    def __init__(
        self,
        base: nn.Linear,
        *,
        rank: int,
        alpha: float | None = None,
        dropout: float = 0.0,
        gate: bool = True,
        residual: bool = True,
    ) -> None:
        super().__init__(base, rank=rank, alpha=alpha, dropout=dropout)
        self.gate = nn.Parameter(torch.empty_like(base.weight)) if gate else None
        self.residual = nn.Parameter(torch.zeros_like(base.weight)) if residual else None
        if self.gate is not None:
            nn.init.kaiming_uniform_(self.gate, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        update = self._update(x)
        y = y + (update if self.gate is None else linear(x, self.gate).sigmoid() * update)
        return y if self.residual is None else y + linear(x, self.residual)

    def adapters(self) -> dict[str, Tensor]:
        optional = {"gate": self.gate, "residual": self.residual}
        return super().adapters() | {name: tensor for name, tensor in optional.items() if tensor is not None}

    @torch.no_grad()
    def fold_residual(self) -> None:
        """Add R to the frozen weight and remove it: the same result with one product less. A second call does nothing."""
        if self.residual is not None:
            self.base.weight += self.residual
            self.residual = None

    def merge(self) -> nn.Linear:
        """As in ``LoRALinear``, with R. A layer with a gate is not linear in x and raises ValueError: use ``fuse``."""
        if self.gate is not None:
            raise ValueError("a gated LoRA layer cannot be merged: its update is multiplied by sigmoid(G x), use fuse()")
        merged = super().merge()
        if self.residual is not None:
            merged.weight.data += self.residual
        return merged

    def fuse(self) -> nn.Module:
        return self.merge() if self.gate is None else FusedGatedLinear(self)

    @staticmethod
    def _largest_rank(base: nn.Linear) -> int:
        # The published network has rank 16 on a head of 9 classes.
        return max(base.in_features, base.out_features)


class FusedGatedLinear(nn.Module):
    """A ``GatedLoRALinear`` for inference: [W + R; G; A] x in one product, then sigmoid, B and the sum."""

    weight: Tensor
    up: Tensor
    bias: Tensor | None

    def __init__(self, layer: GatedLoRALinear) -> None:
        super().__init__()
        if layer.gate is None:
            raise ValueError("FusedGatedLinear needs a layer with a gate; merge() one without")
        weight = layer.base.weight if layer.residual is None else layer.base.weight + layer.residual
        bias = layer.base.bias
        self.sizes = [layer.base.out_features, layer.base.out_features, len(layer.down)]
        self.register_buffer("weight", torch.cat([weight, layer.gate, layer.down]).detach())
        self.register_buffer("up", (layer.scale * layer.up).detach())
        self.register_buffer("bias", None if bias is None else F.pad(bias.detach(), (0, sum(self.sizes[1:]))))

    def forward(self, x: Tensor) -> Tensor:
        y, gate, low = torch.split(linear(x, self.weight, self.bias), self.sizes, dim=-1)
        return torch.addcmul(y, gate.sigmoid(), linear(low, self.up))


def add_lora(
    module: nn.Module,
    *,
    rank: int,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: Sequence[str] = LINEAR_NAMES,
    variant: Literal["low_rank", "gated"] = "low_rank",
    keep: Sequence[str] = (),
) -> int:
    """Adapt linear layers of a network in place and freeze the rest of it.

    Args:
        module: the network. Its linear layers whose last name part is in ``targets`` are replaced.
        rank: as in ``LoRALinear``.
        alpha: as in ``LoRALinear``.
        dropout: as in ``LoRALinear``.
        targets: names of linear layers.
        variant: "low_rank" for ``LoRALinear``, "gated" for ``GatedLoRALinear``.
        keep: patterns such as "*norm*" or "head.*" of parameters that stay as trainable as they are, by their full names before
            the call. The adapted layers' own weights are frozen in any case.

    Returns:
        The number of layers adapted.

    Raises:
        ValueError: for an unknown variant, or if no layer matches; it lists the linear layers' names.
    """
    kinds = {"low_rank": LoRALinear, "gated": GatedLoRALinear}
    if variant not in kinds:
        raise ValueError(f"LoRA: variant is {variant!r}, expected one of {', '.join(kinds)}")
    linears = {name: m for name, m in module.named_modules() if isinstance(m, nn.Linear)}
    chosen = {name: m for name, m in linears.items() if name.rpartition(".")[2] in targets}
    if not chosen:
        names = ", ".join(sorted({name.rpartition(".")[2] for name in linears})) or "none"
        raise ValueError(f"LoRA: no linear layer is named {' or '.join(targets)}; the network's linear layers are named: {names}")
    for name, parameter in module.named_parameters():
        if not any(fnmatchcase(name, pattern) for pattern in keep):
            parameter.requires_grad_(False)
    _log.info("LoRA of rank %d on %d linear layers", rank, len(chosen))
    make = partial(kinds[variant], rank=rank, alpha=alpha, dropout=dropout)
    return _replace(module, {name: make(layer) for name, layer in chosen.items()})


def merge_lora(module: nn.Module) -> int:
    """Replace every adapted layer of a network by its merged plain layer, in place; return how many there were.

    Raises:
        ValueError: if a layer has a gate. Then nothing is changed.
    """
    return _replace(module, {name: layer.merge() for name, layer in _adapted(module)})


def fuse_lora(module: nn.Module) -> int:
    """Replace every adapted layer of a network by its fused form for inference, in place; return how many there were."""
    return _replace(module, {name: layer.fuse() for name, layer in _adapted(module)})


def lora_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Return the adapters alone, to be saved as a small file: the trained tensors and the scale of every adapted layer."""
    state: dict[str, Tensor] = {}
    for name, layer in _adapted(module):
        state |= {f"{name}.{part}": tensor.detach().clone() for part, tensor in layer.adapters().items()}
        state[f"{name}.scale"] = torch.tensor(layer.scale, dtype=torch.float64)
    return state


@torch.no_grad()
def load_lora(module: nn.Module, state: Mapping[str, Tensor]) -> int:
    """Put saved adapters on a network, in place; return how many layers they adapt.

    Plain linear layers that the adapters name are adapted first, with the rank and the variant of the saved tensors.

    Raises:
        ValueError: if the file and the network do not adapt the same layers, or if shapes differ. Then no weight is changed.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        name, _, part = key.rpartition(".")
        groups.setdefault(name, {})[part] = tensor
    modules = dict(module.named_modules())
    layers = {name: _fitting(name, modules.get(name), parts) for name, parts in groups.items()}
    left = [name for name, _ in _adapted(module) if name not in groups]
    if not groups or left:
        raise ValueError(f"LoRA: the file holds {len(groups)} adapters, none for: {', '.join(left) or 'any layer'}")
    for name, layer in layers.items():
        layer.scale = float(groups[name]["scale"])
        for part, tensor in layer.adapters().items():
            tensor.copy_(groups[name][part])
    return _replace(module, layers)


def _adapted(module: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    return ((name, m) for name, m in module.named_modules() if isinstance(m, LoRALinear))


def _replace(module: nn.Module, layers: Mapping[str, nn.Module]) -> int:
    for name, layer in layers.items():
        module.set_submodule(name, layer)
    return len(layers)


def _fitting(name: str, layer: nn.Module | None, parts: Mapping[str, Tensor]) -> LoRALinear:
    """Return the layer, adapted if it is plain, after a check that the parts of an adapter belong to it."""
    if not {"down", "up", "scale"} <= parts.keys() <= {"down", "up", "scale", "gate", "residual"}:
        raise ValueError(f"LoRA: the file's tensors of {name or 'no layer'} are {', '.join(sorted(parts))}: not an adapter's")
    adapted = layer if isinstance(layer, LoRALinear) else None
    if isinstance(layer, nn.Linear):
        rank = len(parts["down"])
        if {"gate", "residual"} & parts.keys():
            adapted = GatedLoRALinear(layer, rank=rank, gate="gate" in parts, residual="residual" in parts)
        else:
            adapted = LoRALinear(layer, rank=rank)
    if adapted is None:
        raise ValueError(
            f"LoRA: the file adapts {name}, which is {'absent' if layer is None else 'no linear layer'} in the network"
        )
    expected = {part: tensor.shape for part, tensor in adapted.adapters().items()} | {"scale": torch.Size()}
    given = {part: tensor.shape for part, tensor in parts.items()}
    if expected != given:
        shapes = [", ".join(f"{k} {list(v)}" for k, v in sorted(s.items())) for s in (given, expected)]
        raise ValueError(f"LoRA: the file's adapter of {name} has {shapes[0]}; the network's has {shapes[1]}")
    return adapted


def _layer(weight: Tensor, bias: Tensor | None) -> Linear:
    layer = Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone())
    return layer
