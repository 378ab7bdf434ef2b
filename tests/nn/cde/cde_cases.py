"""Batches for the tests of paths and neural CDEs."""

import torch
from torch import Tensor

from isocline.irregular import IrregularBatch


def ragged(
    lengths: tuple[int, ...] = (7, 1, 12, 3),
    features: int = 2,
    observed: float = 0.7,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> IrregularBatch:
    """Series with times of their own in [0, 1) and some of their values missing."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    times = [uniform(rows).sort().values.to(dtype) for rows in lengths]
    values = [2 * uniform(rows, features).to(dtype) - 1 for rows in lengths]
    mask = [uniform(rows, features) < observed for rows in lengths]
    return IrregularBatch.collate(times, values, mask)
