"""Solves that are taken at one go in the place of the loop, as compiled code can."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from ..problem import Plan, Problem
from .loop import Outcome

__all__ = ["Whole", "WholeRecorder", "WholeSolver"]


class Whole(ABC):
    """A solve that was taken at one go.

    Attributes:
        outcome: what the loop would have found.
    """

    outcome: Outcome

    @abstractmethod
    def steps(self) -> list[tuple[float, float, int, int]]:
        """Accepted steps: their ends, and from which to which row of output each gave.

        Rows that were saved before the first step do not count.
        """

    @abstractmethod
    def states(self) -> list[Tensor]:
        """States at the ends of the steps, one more than there are steps; once forgotten, y0."""

    @abstractmethod
    def pull(self, cotangents: Tensor, totals: Sequence[Tensor]) -> Tensor:
        """Walk back.

        Args:
            cotangents: of the rows that steps gave, shape (rows, N).
            totals: what the gradients of the tensors that the steps depend on are added to.

        Returns:
            The cotangent of the state at the start, shape (N,).
        """

    @abstractmethod
    def forget(self) -> None:
        """Let go of all states but the first. There is no walk back after that."""

    @property
    @abstractmethod
    def forgotten(self) -> bool:
        """Whether `forget` was called."""


class WholeSolver(ABC):
    """A solver that can take a whole solve at one go."""

    @abstractmethod
    def whole(self, problem: Problem, plan: Plan, record: bool) -> Whole | None:
        """The solve, or None where it has to be taken step by step.

        Args:
            problem, plan: what and how; the solver of the plan is this one.
            record: whether it will be walked back over.
        """


class WholeRecorder(ABC):
    """A `Recorder` that can be told of a whole solve."""

    @abstractmethod
    def taken_whole(self, whole: Whole) -> None:
        """All steps were taken at one go."""
