"""Which way a problem is solved: by the loop, step by step, or by something else at one go."""

from __future__ import annotations

import torch

from ..problem import Plan, Problem
from ..solvers.external import Boxed, no_steps
from . import loop
from .black_box import solve_black_box
from .clock import Clock
from .loop import Outcome, Recorder
from .whole import WholeRecorder, WholeSolver

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
    found = _whole(problem, plan, clock, recorder)
    if found is not None:
        return found
    if not isinstance(plan.solver, Boxed):
        return loop.integrate(problem, plan, clock=clock, recorder=recorder)
    if torch.is_grad_enabled() or clock is not None or recorder is not None:
        no_steps(plan.solver.name)
    return solve_black_box(problem, plan, plan.solver)


def _whole(
    problem: Problem, plan: Plan, clock: Clock | None, recorder: Recorder | None
) -> Outcome | None:
    """The outcome of a solve that its solver took at one go; None if it has to be the loop."""
    if not isinstance(plan.solver, WholeSolver) or (clock is not None and clock.recording):
        return None
    if recorder is None:
        whole = plan.solver.whole(problem, plan, record=False)
    elif isinstance(recorder, WholeRecorder):
        whole = plan.solver.whole(problem, plan, record=True)
        if whole is not None:
            recorder.taken_whole(whole)
    else:
        return None
    return None if whole is None else whole.outcome
