"""The part of the adjoint protocol that per-sample stepping asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from ..errors import GradientError
from ..integrate import SampleOutcome
from ..samples import SamplePlan, SampleProblem
from ..solution import Statistics

__all__ = ["SampleAdjoint", "SampleTrajectory", "demand_no_events"]


@dataclass(slots=True)
class SampleTrajectory:
    """A solve's answer, carrying its gradient.

    Attributes:
        outcome: statuses, counts, and where the rows belong.
        rows: saved states, shape (rows, width); None if there are none.
    """

    outcome: SampleOutcome
    rows: Tensor | None


@runtime_checkable
class SampleAdjoint(Protocol):
    """A way to differentiate a solve in which each sample has its own steps."""

    def run_samples(
        self, problem: SampleProblem, plan: SamplePlan, stats: Statistics
    ) -> SampleTrajectory:
        """Solve, remember what the gradient needs, and count backward work into `stats`."""


def demand_no_events(name: str, plan: SamplePlan) -> None:
    """Refuse events, for an adjoint of this name that does not go back through them.

    Raises:
        GradientError: if there are any.
    """
    if plan.events:
        raise GradientError(
            f'{name} does not go back through events with stepping="per_sample": use '
            "`adjoint=Checkpointed()` or `Direct()`, or solve under `torch.no_grad()`."
        )
