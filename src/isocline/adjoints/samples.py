"""The part of the adjoint protocol that per-sample stepping asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from ..integrate import SampleOutcome
from ..samples import SamplePlan, SampleProblem
from ..solution import Statistics

__all__ = ["SampleAdjoint", "SampleTrajectory"]


@dataclass(slots=True)
class SampleTrajectory:
    """A solve's answer, carrying its gradient.

    Attributes:
        outcome: statuses, counts, and where the rows belong.
        rows: saved states, shape (rows, width); None if there are none.
    """

    outcome: SampleOutcome
    rows: Tensor | None

    @classmethod
    def of(
        cls, outcome: SampleOutcome, rows: Tensor, times: Tensor, states: Tensor
    ) -> SampleTrajectory:
        """What was taken out of an outcome, put back with a gradient; see `taken_out`."""
        happened = outcome.happened
        sizes = [len(samples) for samples, *_ in happened]
        parts = zip(happened, times.split(sizes), states.split(sizes), strict=True)
        outcome.happened = [(samples, hits, t, y) for (samples, hits, *_), t, y in parts]
        return cls(outcome, rows if len(rows) else None)


@runtime_checkable
class SampleAdjoint(Protocol):
    """A way to differentiate a solve in which each sample has its own steps."""

    def run_samples(
        self, problem: SampleProblem, plan: SamplePlan, stats: Statistics
    ) -> SampleTrajectory:
        """Solve, remember what the gradient needs, and count backward work into `stats`."""
