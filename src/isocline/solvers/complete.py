"""Steppers that know the whole problem: what the loop and the adjoints leave to them.

A method proper knows nothing of tolerances and gradients. Something that stands in for one, such
as a compiled step, may be made for one problem, and then does at one go what the loop would ask
for piece by piece.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..state import Packing
from .base import DensePiece, Field, Memory, Step, Time
from .wrapped import WrappedSolver

__all__ = ["CompleteSolver", "CompleteStepper"]


class CompleteStepper(ABC):
    """A stepper that was told the tolerances, and what the field depends on.

    Its steps have `measured` set. It is asked for steps without a graph alone.
    """

    @property
    def combine(self) -> None:
        """Its steps show no errors that would have to be combined."""
        return None

    @abstractmethod
    def begin(self, t0: float, t1: float, y: Tensor) -> tuple[Memory, float]:
        """Memory for the first step, which has the slope; its length, NaN if that is not finite."""

    @abstractmethod
    def init(self, t: Time, y: Tensor, f0: Tensor | None = None) -> Memory:
        """Memory for the first step, of which the length is known."""

    @abstractmethod
    def step(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """One step with its error ratio."""

    @abstractmethod
    def advance(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """The same `y1`."""

    @abstractmethod
    def pull(
        self,
        t: float,
        t_next: float,
        y: Tensor,
        cotangent: Tensor,
        slopes: Tensor | None,
        totals: Sequence[Tensor],
    ) -> Tensor:
        """Pull cotangents of a step's end back to its start.

        Args:
            t, t_next: ends of the step.
            y: state at its start, shape (N,).
            cotangent: of the state at its end.
            slopes: of the rows of its interpolant, shape (rows, N); None where none counts.
            totals: what the gradient of each of `CompleteSolver.depends_on` is added to.
        """

    @abstractmethod
    def outline(self, t: float, t_next: float, y: Tensor) -> DensePiece:
        """The interpolant of a step from y, with zeros in the place of its slopes."""


class CompleteSolver(WrappedSolver, ABC):
    """A solver made for one problem, in the place of the method proper."""

    @property
    @abstractmethod
    def depends_on(self) -> tuple[Tensor, ...]:
        """Tensors requiring grad that the field depends on, besides t and y."""

    @property
    @abstractmethod
    def has_slopes(self) -> bool:
        """Whether its steps have interpolants."""

    @abstractmethod
    def versions(self) -> object:
        """What to remember at a solve, so that a change of a tensor is seen later."""

    @abstractmethod
    def demand_unchanged(self, versions: Any) -> None:
        """Raise GradientError if a tensor that the steps use was written to since."""

    @abstractmethod
    def bind(self, field: Field, packing: Packing) -> CompleteStepper:
        """The stepper; `field` and `packing` are those that the solver was made for."""
