"""The divergence that the field itself knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .base import FlowField, Rate

__all__ = ["ClosedForm"]


@dataclass(frozen=True)
class ClosedForm:
    """From ``field.with_divergence(t, z, *context) -> (dz/dt, divergence)``."""

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
        """The field and its divergence; it does not know the size of the Jacobian."""
        velocity, divergence = field.with_divergence(t, z, *context)  # type: ignore[attr-defined]
        return Rate(velocity, divergence)
