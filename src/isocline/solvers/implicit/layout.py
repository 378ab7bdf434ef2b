"""Where the samples of a packed state lie, for those who treat each sample as a block."""

from __future__ import annotations

import torch
from torch import Tensor

from ...state import Packing

__all__ = ["Layout"]


class Layout:
    """A packed vector as a matrix with one row for each sample.

    A complex number counts as two real ones, one after the other: vectors here are real.

    Attributes:
        samples: number of samples; 1 for a state without a batch.
        size: numbers that make up one sample.
        widths: how many of them each leaf has; empty leaves do not count.
        resolution: machine precision of each leaf's own dtype.
    """

    def __init__(self, packing: Packing) -> None:
        parts = 2 if packing.dtype.is_complex else 1
        self.samples = packing.batch or 1
        leaves = [pair for pair in zip(packing.sizes, packing.dtypes, strict=True) if pair[0]]
        self.widths = [parts * size // self.samples for size, _ in leaves]
        self.size = sum(self.widths)
        self.resolution = [torch.finfo(dtype.to_real()).eps for _, dtype in leaves]

    def rows(self, vectors: Tensor) -> Tensor:
        """Vectors (..., N) as (..., samples, size)."""
        lead, samples = vectors.shape[:-1], self.samples
        if len(self.widths) == 1:
            return vectors.view(*lead, samples, self.size)
        leaves = vectors.split([samples * width for width in self.widths], -1)
        return torch.cat([leaf.view(*lead, samples, -1) for leaf in leaves], -1)

    def packed(self, rows: Tensor) -> Tensor:
        """Rows (..., samples, size) as vectors (..., N)."""
        lead = rows.shape[:-2]
        if len(self.widths) == 1:
            return rows.reshape(*lead, -1)
        leaves = rows.split(self.widths, -1)
        return torch.cat([leaf.reshape(*lead, -1) for leaf in leaves], -1)

    def largest(self, vectors: Tensor) -> Tensor:
        """The largest size of a number in each leaf of each sample: (m, N) to (samples, leaves)."""
        sizes = self.rows(vectors).abs().amax(0)
        if len(self.widths) == 1:
            return sizes.amax(-1, keepdim=True)
        return torch.stack([leaf.amax(-1) for leaf in sizes.split(self.widths, -1)], -1)

    def spread(self, values: Tensor) -> Tensor:
        """One value for each leaf of each sample, (samples, leaves), as rows (samples, size)."""
        if len(self.widths) == 1:
            return values.expand(self.samples, self.size)
        leaves = zip(values.split(1, -1), self.widths, strict=True)
        return torch.cat([leaf.expand(-1, width) for leaf, width in leaves], -1)
