"""What features of an encoder are measured against: statistics of bands, and random convolutions."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F


def band_statistics(values: NDArray[np.float32], cell: int) -> NDArray[np.float32]:
    """Mean and standard deviation of each band in each cell: (bands, height, width) to (rows, columns, 2 bands).

    Pixels without data (NaN) do not count; a cell without any is 0.
    """
    parts = _cells(values, cell)
    there = np.isfinite(parts)
    count = np.maximum(there.sum(-1), 1)
    known = np.where(there, parts, 0).astype(np.float64)
    mean = known.sum(-1) / count
    deviation = np.sqrt((np.where(there, known - mean[..., None], 0) ** 2).sum(-1) / count)
    return np.concatenate([mean, deviation], axis=0).astype(np.float32).transpose(1, 2, 0)


def random_convolutions(
    values: NDArray[np.float32], cell: int, *, features: int = 512, kernel: int = 3, bias: float = -1.0, seed: int = 0
) -> NDArray[np.float32]:
    """Random convolutional features, averaged over each cell: (bands, height, width) to (rows, columns, features).

    Filters of normally distributed weights and a bias; what is above 0 makes one half of the features, what is below the other.
    Nothing is fitted. Source: Rolf et al. 2021 (MOSAIKS), section "Methods"; size and bias of the filters are those of torchgeo's
    ``RCF``, which sees each cell alone where this sees a pixel beyond. Bands should be around 0 with a deviation around 1.

    Args:
        values: no data (NaN) is taken as 0.
        cell: pixels on a side.
        features: a multiple of 2.
        kernel: pixels on a side of the filters.
        bias: of all filters.
        seed: of the filters.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(features // 2, len(values), kernel, kernel, generator=generator)
    x = torch.from_numpy(np.nan_to_num(values, nan=0.0))[None]
    response = F.conv2d(x, weight, torch.full((len(weight),), bias), padding="same")
    parts = [F.avg_pool2d(F.relu(sign * response), cell) for sign in (1, -1)]
    return torch.cat(parts, dim=1)[0].permute(1, 2, 0).numpy()


def _cells(values: NDArray[np.float32], cell: int) -> NDArray[np.float32]:
    bands, height, width = values.shape
    rows, columns = height // cell, width // cell
    parts = values[:, : rows * cell, : columns * cell].reshape(bands, rows, cell, columns, cell)
    return parts.transpose(0, 1, 3, 2, 4).reshape(bands, rows, columns, -1)
