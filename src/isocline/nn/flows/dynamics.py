"""The ODE of a flow: the state, its log-volume, and what is integrated beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .divergences import Divergence, FlowField
from .regularizers import Regularizer, need_norm

__all__ = ["Dynamics", "Guided"]


@dataclass(frozen=True)
class Dynamics:
    """dz/dt = f(t, z), dl/dt = div f, and one rate for each regulariser.

    Solved in either direction, l gains the log-determinant of the map from start to end (Chen et
    al. 2018, theorem 1): volumes grow at the rate of the divergence.

    Attributes:
        field: f.
        divergence: how to find its divergence.
        regularizers: what else to integrate.
    """

    field: FlowField
    divergence: Divergence
    regularizers: Sequence[Regularizer] = ()

    def start(self, z: Tensor) -> tuple[Tensor, ...]:
        """The state from which to solve: z, shape (batch, *shape), and zeros, shape (batch,)."""
        return (z, *(z.new_zeros(len(z)) for _ in range(1 + len(self.regularizers))))

    def __call__(
        self, t: Tensor, state: tuple[Tensor, ...], noise: tuple[Tensor, ...], *context: Any
    ) -> tuple[Tensor, ...]:
        """The rates of all."""
        norm = need_norm(self.regularizers)
        rate = self.divergence(self.field, t, state[0], context, noise, norm=norm)
        penalties = (regularizer(rate) for regularizer in self.regularizers)
        return (rate.velocity, rate.divergence, *penalties)


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance (Ho and Salimans 2022): f(c0) + s (f(c) - f(c0)).

    Attributes:
        field: the conditional field.
        scale: s; 1 is the field itself, more insists on the context.
        null: c0, the context that stands for none, broadcast against the context.
    """

    field: FlowField
    scale: float | Tensor
    null: Tensor

    def __call__(self, t: Tensor, z: Tensor, context: Tensor) -> Tensor:
        """Both contexts in one call of the field."""
        null = self.null.to(context).expand_as(context)
        t = torch.cat([t, t]) if t.ndim else t
        both = self.field(t, torch.cat([z, z]), torch.cat([null, context]))
        without, given = both.chunk(2)
        return torch.lerp(without, given, self.scale)
