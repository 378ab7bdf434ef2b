"""Hutchinson's estimate of the divergence: E[v^T J v] = tr J (Hutchinson 1990; FFJORD 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....errors import InputError
from .base import FlowField, Rate, products
from .noise import NoiseName, check_noise, draw

__all__ = ["Hutchinson"]


@dataclass(frozen=True)
class Hutchinson:
    """One product with the Jacobian whatever the dimension: unbiased, and noisy.

    The vectors are drawn once for each solve, so that the solver sees a smooth field (Grathwohl
    et al. 2019, "FFJORD", section 3.1). The size of the Jacobian is estimated by the same
    products, E|J^T v|^2 (Finlay et al. 2020).

    Attributes:
        noise_name: "rademacher" (signs) or "gaussian".
        samples: number of vectors, at least 1.

    Raises:
        InputError: for an unknown noise or fewer than one sample.
    """

    noise_name: NoiseName = "rademacher"
    samples: int = 1

    def __post_init__(self) -> None:
        check_noise(self.noise_name)
        if self.samples < 1:
            raise InputError("samples", str(self.samples), "at least 1")

    def noise(self, z: Tensor) -> tuple[Tensor, ...]:
        """The vectors, shape (samples, batch, *shape)."""
        return (draw(self.noise_name, self.samples, z),)

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
        """The field, and estimates of its divergence and of its Jacobian's squared norm."""
        (vectors,) = noise
        velocity, found = products(field, t, z, context, vectors)
        rows = torch.stack(list(found)).reshape(len(vectors), len(z), -1)
        divergence = (rows * vectors.reshape(rows.shape)).sum(2).mean(0)
        return Rate(velocity, divergence, rows.square().sum(2).mean(0) if norm else None)
