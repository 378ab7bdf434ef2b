"""The exact divergence, by one product with the Jacobian for each dimension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .base import FlowField, Rate, products

__all__ = ["ExactDivergence"]


@dataclass(frozen=True)
class ExactDivergence:
    """tr J row by row: as many products as dimensions, looped for few and vectorised for more."""

    def noise(self, z: Tensor) -> tuple[Tensor, ...]:
        """Nothing is random."""
        return ()

    def __call__(
        self,
        field: FlowField,
        t: Tensor,
        z: Tensor,
        context: tuple[Any, ...],
        noise: tuple[Tensor, ...],
        *,
        norm: bool = False,
    ) -> Rate:
        """The field, its divergence, and the squared norm of its Jacobian if asked."""
        size = z[0].numel()
        units = torch.eye(size, dtype=z.dtype, device=z.device)
        units = units.view(size, 1, *z.shape[1:]).expand(size, *z.shape)
        velocity, rows = products(field, t, z, context, units)
        rows = [row.reshape(len(z), size) for row in rows]
        divergence = sum((row[:, i] for i, row in enumerate(rows)), start=z.new_zeros(len(z)))
        if not norm:
            return Rate(velocity, divergence)
        return Rate(velocity, divergence, torch.stack(rows).square().sum((0, 2)))
