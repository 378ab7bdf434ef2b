"""Which way a problem is solved: by the loop, step by step, or by a black box at one go."""

from __future__ import annotations

import torch

from ..problem import Plan, Problem
from ..solvers.external import Boxed, no_steps
from . import loop
from .black_box import solve_black_box
from .clock import Clock
from .loop import Outcome, Recorder

__all__ = ["integrate"]


def integrate(
    problem: Problem, plan: Plan, *, clock: Clock | None = None, recorder: Recorder | None = None
) -> Outcome:
    """Solve a problem as planned.

    Args:
        problem, plan: what and how.
        clock: hands out times; by default as floats.
        recorder: told of every accepted step.

    Returns:
        The outcome; a failure is a status, never an exception.

    Raises:
        GradientError: if a graph or the steps of a black box are to be recorded.
    """
    if not isinstance(plan.solver, Boxed):
        return loop.integrate(problem, plan, clock=clock, recorder=recorder)
    if torch.is_grad_enabled() or clock is not None or recorder is not None:
        no_steps(plan.solver.name)
    return solve_black_box(problem, plan, plan.solver)
