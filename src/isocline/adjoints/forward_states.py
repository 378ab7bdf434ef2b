"""States of the forward solve that are kept for a reverse one, besides the output.

Where a flow contracts, an error of the reverse solve grows by about as much in each step that an
explicit method can take: so states are spread evenly over the steps, not over time.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..integrate import Outcome, Reach, Start, integrate
from ..problem import Plan, Problem
from ..solvers.base import Step
from ..solvers.external import Boxed
from .base import stacked

__all__ = ["integrate_and_keep"]

Kept = list[tuple[float, Tensor]]


def integrate_and_keep(problem: Problem, plan: Plan, count: int) -> tuple[Outcome, Kept]:
    """Solve as planned; the outcome, and at most `count` further times and packed states."""
    if not count:
        return integrate(problem, plan), []
    if isinstance(plan.solver, Boxed):
        return _stopping(problem, plan, count)
    keeper = _Keeper(count)
    return integrate(problem, plan, recorder=keeper), keeper.states


class _Keeper:
    """Keeps the ends of every so many steps; of twice as many whenever there are too many.

    Args:
        count: how many to keep at most.
    """

    def __init__(self, count: int) -> None:
        self.states: Kept = []
        self._limit, self._stride, self._steps = count, 1, 0

    def accepted(self, start: Start, reach: Reach, step: Step, rows: int) -> None:
        """Keep the end of an accepted step, if it is its turn."""
        self._steps += 1
        if reach.cut or self._steps % self._stride:
            return
        if len(self.states) == self._limit:
            # The first of them ended `stride` steps from t0: keep the second, the fourth, ...
            self.states, self._stride = self.states[1::2], 2 * self._stride
            if self._steps % self._stride or len(self.states) == self._limit:
                return
        self.states.append((reach.t_next, step.y1))


def _stopping(problem: Problem, plan: Plan, count: int) -> tuple[Outcome, Kept]:
    """A black box shows no steps: it is asked for more times than are handed on."""
    if plan.save.steps:  # every step is an output already
        return integrate(problem, plan), []
    span = problem.t1 - problem.t0
    times = [problem.t0 + span * (i + 1) / (count + 1) for i in range(count)]
    extra = set(times) - {problem.t0, problem.t1, *plan.ts}
    ts = tuple(sorted([*plan.ts, *extra], key=lambda t: problem.direction * t))
    save = replace(plan.save, t1=plan.save.keeps_t1)
    outcome = integrate(problem, replace(plan, ts=ts, save=save))
    rows = stacked(outcome.rows, problem.y0)
    kept = [(t, row) for t, row in zip(outcome.times, rows, strict=True) if t in extra]
    own = [row for row, t in enumerate(outcome.times) if t not in extra]
    outcome.times, outcome.rows = [outcome.times[row] for row in own], [rows[own]]
    return outcome, kept
