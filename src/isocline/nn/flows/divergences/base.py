"""What a flow needs to know of its field's Jacobian J: the trace, and perhaps its size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["Divergence", "FlowField", "Rate", "products", "pullback"]

FlowField = Callable[..., Tensor]
"""``field(t, z, *context) -> dz/dt``, shaped like z."""

_LOOPED = 3
"""Up to so many products one after another beat a `vmap` over them (2-64-64-2 MLP, 512 points)."""


class Rate(NamedTuple):
    """The field at one point, with what is known of its Jacobian there.

    Attributes:
        velocity: dz/dt, shape (batch, *shape).
        divergence: tr J of each sample, or an estimate, shape (batch,).
        squared_norm: the squared Frobenius norm of each sample's J, or an estimate, shape
            (batch,); None where it was not asked for.
    """

    velocity: Tensor
    divergence: Tensor
    squared_norm: Tensor | None = None


class Divergence(Protocol):
    """A way to the divergence. What it draws at random it draws once for each solve."""

    def noise(self, z: Tensor) -> tuple[Tensor, ...]:
        """Random tensors for one solve of states like `z`, shape (batch, *shape)."""

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
        """The field and its divergence at (t, z); with `norm` the size of the Jacobian too."""


def pullback(
    field: FlowField, t: Tensor, z: Tensor, context: tuple[Any, ...]
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor]]]:
    """The field, and the function v -> (J^T v,)."""
    found: Any = torch.func.vjp(lambda z: field(t, z, *context), z)
    return found[0], found[1]


def products(
    field: FlowField, t: Tensor, z: Tensor, context: tuple[Any, ...], vectors: Tensor
) -> tuple[Tensor, Sequence[Tensor]]:
    """The field, and the products J^T v with each of `vectors`, shape (m, batch, *shape).

    Reverse mode, for it was measured at half the time of forward mode on small and middling
    networks (2 to 10 dimensions, 512 points; 64 with Hutchinson's one vector), in training too.
    """
    velocity, pull = pullback(field, t, z, context)
    if len(vectors) <= _LOOPED:
        return velocity, [pull(vector)[0] for vector in vectors]
    found: Tensor = torch.func.vmap(lambda vector: pull(vector)[0])(vectors)
    return velocity, found.unbind()
