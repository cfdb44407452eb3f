"""Self-distillation across sensors: a student that sees one sensor tells what its own average saw in another."""

import copy
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....core.backbones.token_encoder import Encoder
from ....core.layers.linear import Linear
from ....core.sensors.batch import SensorBatch
from .masking import Generators, noise


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """Settings of self-distillation.

    Args:
        weight: of its loss beside that of the reconstruction; 0 leaves it out.
        alone: without the loss of the reconstruction.
        hidden: share of the places that the student does not see.
        prototypes: what an image is sorted into.
        momentum: of the teacher at the start; it rises to 1 along half a cosine.
        student, teacher: temperatures of their softmax.
        centre: momentum of what the teacher tells on average, which is taken off.
    """

    weight: float = 0.0
    alone: bool = False
    hidden: float = 0.5
    prototypes: int = 512
    momentum: float = 0.99
    student: float = 0.1
    teacher: float = 0.04
    centre: float = 0.9

    def __post_init__(self) -> None:
        """Refuse what cannot train."""
        shares = (self.hidden, self.momentum, self.centre)
        if self.weight < 0 or not all(0 <= share < 1 for share in shares) or min(self.student, self.teacher) <= 0:
            raise ValueError(
                f"weight {self.weight}, hidden {self.hidden}, momentum {self.momentum}, centre {self.centre}, temperatures "
                f"{self.student} and {self.teacher}: allowed are a weight from 0 on, shares from 0 on and below 1, "
                "and positive temperatures"
            )
        if self.prototypes < 2 or (self.alone and not self.weight):
            raise ValueError(f"prototypes {self.prototypes}, weight {self.weight}: allowed are 2 or more, and a weight if alone")


class Distillation(nn.Module):
    """Student and teacher heads, and the teacher: the student's moving average.

    Source: Caron et al. 2021 (DINO), section 3.1, on the mean of the tokens. The views are the sensors of a place: what the
    teacher says of one, the student says of every other; of a single sensor, what the teacher says of the whole image.

    Args:
        encoder: the student.
        config: of the loss.
    """

    centre: Tensor

    def __init__(self, encoder: Encoder, config: DistillationConfig) -> None:
        super().__init__()
        assert isinstance(encoder, nn.Module)
        self.config = config
        self.head = nn.Sequential(
            Linear(encoder.dim, encoder.dim),
            nn.GELU(),
            Linear(encoder.dim, 64),
            _Unit(),
            Linear(64, config.prototypes, bias=False),
        )
        self.teacher = nn.ModuleList([copy.deepcopy(encoder), copy.deepcopy(self.head)])
        self.teacher.requires_grad_(requires_grad=False)
        self.register_buffer("centre", torch.zeros(config.prototypes))

    def forward(self, encoder: Encoder, batches: tuple[SensorBatch, ...], generator: Generators) -> Tensor:
        """Return the loss, the mean cross-entropy over images and pairs of views; in training the centre moves on.

        Args:
            encoder: the student.
            batches: normalised images of the same places.
            generator: of what the student does not see, on the CPU.
        """
        whole, whole_head = cast("Encoder", self.teacher[0]), self.teacher[1]
        with torch.no_grad():
            told = [whole_head(_pooled(whole, batch, None)).float() for batch in batches]
            targets = [((y - self.centre) / self.config.teacher).softmax(-1) for y in told]
        said = [self.head(_pooled(encoder, batch, self._hidden(encoder, batch, generator))).float() for batch in batches]
        logs = [(y / self.config.student).log_softmax(-1) for y in said]
        pairs = [(i, j) for i in range(len(batches)) for j in range(len(batches)) if i != j] or [(0, 0)]
        loss = torch.stack([-(targets[i] * logs[j]).sum(-1).mean() for i, j in pairs]).mean()
        if self.training:
            self._move_centre(torch.cat(told).mean(0))
        return loss

    def _hidden(self, encoder: Encoder, batch: SensorBatch, generator: Generators) -> Tensor | None:
        rows, columns = (size // encoder.patch for size in batch.values.shape[2:])
        count = round(self.config.hidden * rows * columns)
        if not count:
            return None
        rank = noise(len(batch.values), rows * columns, generator, batch.values.device).argsort(1).argsort(1)
        return (rank < count).reshape(-1, 1, rows, columns)

    def _move_centre(self, mean: Tensor) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(mean)
            mean = mean / torch.distributed.get_world_size()
        self.centre.lerp_(mean, 1 - self.config.centre)

    @torch.no_grad()
    def follow(self, encoder: Encoder, done: float) -> None:
        """Move the teacher towards the student.

        Args:
            encoder: the student.
            done: share of the training that lies behind.
        """
        assert isinstance(encoder, nn.Module)
        momentum = 1 - (1 - self.config.momentum) * (1 + float(torch.cos(torch.tensor(torch.pi * min(done, 1.0))))) / 2
        for mine, other in zip(self.teacher.parameters(), [*encoder.parameters(), *self.head.parameters()], strict=True):
            mine.lerp_(other, 1 - momentum)


class _Unit(nn.Module):
    """Vectors of length 1."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


def _pooled(encoder: Encoder, batch: SensorBatch, hidden: Tensor | None) -> Tensor:
    """Return the mean (batch, dim) over the tokens that are seen."""
    tokens = encoder.embed(batch.values, batch.wavelengths, batch.gsd, batch.valid.flatten(2).any(2))
    if hidden is not None:
        hidden = hidden.expand(tokens.x.shape[:4])
    encoded = encoder.encode(tokens, hidden)
    if hidden is None:
        return encoded.places().mean((1, 2))
    seen = (~hidden)[..., None].to(encoded.tokens.dtype)
    return (encoded.tokens * seen).sum((1, 2, 3)) / seen.sum((1, 2, 3))
