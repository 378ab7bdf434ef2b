"""Direct: autograd records every operation of every step, rejected steps' too."""

from __future__ import annotations

from dataclasses import dataclass

from ..integrate import Clock, integrate
from ..problem import Plan, Problem
from ..solution import Statistics
from .base import Trajectory, stacked

__all__ = ["Direct"]


@dataclass(frozen=True, slots=True)
class Direct:
    """Backpropagation through the operations of the solver.

    Exact for the discrete solve, differentiable any number of times, and hungry: memory grows
    with steps times everything that the field's graph holds. Step lengths count as constants,
    as in every adjoint here: the controller's choice is not differentiated.
    """

    def run(self, problem: Problem, plan: Plan, stats: Statistics) -> Trajectory:
        """Integrate in grad mode; autograd does the rest."""
        clock = Clock(problem, plan.ts, problem.times)
        outcome = integrate(problem, plan, clock=clock)
        return Trajectory(outcome, stacked(outcome.rows, problem.y0), tuple(outcome.pieces))

    def keeps(self, steps: int, state: int, step: int) -> tuple[int, int]:
        """Estimated bytes kept: the graph of every step."""
        return steps * (state + step), 0
