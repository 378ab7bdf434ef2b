"""Hutch++: the divergence in a random subspace exactly, and the rest by Hutchinson's estimate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....errors import InputError
from .base import FlowField, Rate, pullback
from .noise import NoiseName, check_noise, draw

__all__ = ["HutchPlusPlus"]


@dataclass(frozen=True)
class HutchPlusPlus:
    """Meyer, Musco, Musco and Woodruff (2021, "Hutch++", algorithm 1), for J^T.

    A third of the products finds a subspace in which J^T does most of its work, a third takes the
    trace there exactly, and a third estimates what is left. The subspace is held constant in the
    gradient, which leaves that unbiased (the estimate is, for any subspace) and spares the
    derivative of a QR factorisation, which does not exist where J is rank-deficient.

    Attributes:
        samples: products with the Jacobian for each evaluation, at least 3; beyond three times
            the dimension more are of no use.
        noise_name: "rademacher" (signs) or "gaussian".

    Raises:
        InputError: for an unknown noise or fewer than three samples.
    """

    samples: int = 6
    noise_name: NoiseName = "rademacher"

    def __post_init__(self) -> None:
        check_noise(self.noise_name)
        if self.samples < 3:
            raise InputError("samples", str(self.samples), "at least 3, a third for each purpose")

    def noise(self, z: Tensor) -> tuple[Tensor, ...]:
        """Vectors that find the subspace, and vectors for the rest: (k, batch, *shape) each."""
        third = self.samples // 3
        subspace = draw(self.noise_name, min(third, z[0].numel()), z)
        return subspace, draw(self.noise_name, third, z)

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
        """The field and an estimate of its divergence, and of its Jacobian's squared norm."""
        sketch, rest = noise
        velocity, pull = pullback(field, t, z, context)

        def flat(vectors: Tensor) -> Tensor:
            return vectors.reshape(len(vectors), len(z), z[0].numel())

        def apply(vectors: Tensor) -> Tensor:
            found: Tensor = torch.func.vmap(lambda vector: pull(vector)[0])(vectors)
            return flat(found)

        with torch.no_grad():
            # QR wants (batch, dimension, k).
            seen = apply(sketch).permute(1, 2, 0)
            basis = torch.linalg.qr(seen).Q
            inside = basis.permute(2, 0, 1)
            others = flat(rest)
            along = torch.einsum("bdk,mbd->mbk", basis, others)
            outside = others - torch.einsum("bdk,mbk->mbd", basis, along)
        exact = (apply(inside.reshape(sketch.shape)) * inside).sum((0, 2))
        estimated = (apply(outside.reshape(rest.shape)) * outside).sum(2).mean(0)
        size = apply(rest).square().sum(2).mean(0) if norm else None
        return Rate(velocity, exact + estimated, size)
