"""A span of no length: t0 == t1, so every saved state is y0."""

from __future__ import annotations

import torch
from torch import Tensor

from ..problem import Plan, Problem
from .loop import Outcome

__all__ = ["stand_still"]


def stand_still(problem: Problem, plan: Plan) -> Outcome:
    """The outcome of solving from t0 to t0; its rows carry y0's gradient and the times'."""
    y0, save, times = problem.y0, plan.save, problem.times
    found = Outcome(problem.t0, y0)
    ends = [problem.t1] if save.keeps_t1 or save.steps else []
    starts = [problem.t0] if save.t0 else []
    found.times = [*starts, *plan.ts, *ends]
    rows = [y0] * len(found.times)
    if times is not None:
        # dy/dt is the field there, although no step is taken.
        with torch.no_grad():
            slope = problem.field(y0.real.new_tensor(problem.t0), y0)
        moved: list[Tensor] = [*times.ts, *([times.t1] if ends else [])]
        rows[len(starts) :] = [y0 + (time - times.t0).to(y0) * slope for time in moved]
    if plan.reduce is None:
        found.rows = [torch.stack(rows)] if rows else []
    else:
        found.reduced = list(map(plan.reduce, problem.traced(found.times, plan.ts), rows))
    return found
