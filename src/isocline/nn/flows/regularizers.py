"""Penalties on the way that a flow takes, integrated as further states of the same solve.

They keep trajectories straight and fields smooth, so that a solver needs fewer steps (Finlay,
Jacobsen, Nurbekyan and Oberman 2020, "How to train your neural ODE").
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

from ...errors import InputError
from .divergences import Rate

__all__ = ["JacobianNorm", "KineticEnergy", "Regularizer", "need_norm"]


class Regularizer(Protocol):
    """The rate at which a penalty grows along a trajectory."""

    @property
    def weight(self) -> float:
        """What its integral is multiplied by."""

    @property
    def needs_norm(self) -> bool:
        """Whether it reads `Rate.squared_norm`."""

    def __call__(self, rate: Rate) -> Tensor:
        """The rate, not negative, shape (batch,)."""


def need_norm(regularizers: Iterable[Regularizer]) -> bool:
    """Whether any of them reads `Rate.squared_norm`."""
    return any(regularizer.needs_norm for regularizer in regularizers)


def _check_weight(weight: Any) -> None:
    if not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
        raise InputError("weight", str(weight), "a finite number of at least 0")


@dataclass(frozen=True)
class KineticEnergy:
    """The integral of |dz/dt|^2: least for straight lines at constant speed.

    Attributes:
        weight: what the integral is multiplied by.
    """

    weight: float
    needs_norm: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_weight(self.weight)

    def __call__(self, rate: Rate) -> Tensor:
        """Squared length of the velocity."""
        return rate.velocity.reshape(len(rate.velocity), -1).square().sum(1)


@dataclass(frozen=True)
class JacobianNorm:
    """The integral of the Jacobian's squared Frobenius norm, or of its estimate.

    Attributes:
        weight: what the integral is multiplied by.
    """

    weight: float
    needs_norm: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_weight(self.weight)

    def __call__(self, rate: Rate) -> Tensor:
        """Squared norm of the Jacobian."""
        assert rate.squared_norm is not None
        return rate.squared_norm
