"""Direct: autograd records every operation of every step, rejected steps' too."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..apart import check_apart
from ..errors import GradientError, InputError
from ..integrate import Clock, integrate, integrate_samples
from ..problem import Plan, Problem
from ..samples import SamplePlan, SampleProblem
from ..solution import Statistics
from ..solvers.external import Boxed
from ..transforms import differentiating, mapped, unwrapped
from .base import Trajectory, stacked
from .samples import SampleTrajectory

__all__ = ["Direct", "recorded", "unrecorded"]


def recorded(problem: Problem, plan: Plan) -> Trajectory:
    """Integrate, for whoever records operations: autograd, or the transforms of `torch.func`.

    The transforms follow operations of their own level alone, and no `autograd.Function` could take
    a step again for all of them: so every exact adjoint does this under a transform.
    """
    clock = Clock(problem, plan.ts, problem.times)
    outcome = integrate(problem, plan, clock=clock)
    return Trajectory(outcome, stacked(outcome.rows, problem.y0), tuple(outcome.pieces))


def unrecorded(name: str, problem: Problem, plan: Plan) -> Trajectory:
    """Integrate under a transform that takes no derivatives, `vmap` alone, for the adjoint `name`.

    Raises:
        GradientError: if a derivative may be wanted.
        InputError: for a black box whose members differ.
    """
    with torch.enable_grad():
        start = problem.field(problem.y0.real.new_tensor(problem.t0), problem.y0)
    graphs = torch.is_grad_enabled() and any(
        unwrapped(tensor).requires_grad for tensor in (problem.y0, start)
    )
    if differentiating() or graphs or problem.times is not None:
        raise GradientError(
            f"{name} cannot be differentiated by the transforms of `torch.func`, nor in forward "
            "mode: it solves backward in time, which they do not follow. Use "
            "`adjoint=Checkpointed()` with a solver of isocline, or differentiate with "
            "`torch.autograd`."
        )
    if isinstance(plan.solver, Boxed) and (mapped(start) or mapped(problem.y0)):
        raise InputError(
            "solver",
            f"{plan.solver.name} under vmap",
            "a solver of isocline, such as Tsit5",
            "A black box works on NumPy vectors: lay the members into a batch of states for it.",
        )
    with torch.no_grad():
        outcome = integrate(problem, plan)
    return Trajectory(outcome, stacked(outcome.rows, problem.y0), tuple(outcome.pieces))


@dataclass(frozen=True, slots=True)
class Direct:
    """Backpropagation through the operations of the solver.

    Exact for the discrete solve, differentiable any number of times, and hungry: memory grows
    with steps times everything that the field's graph holds. Step lengths count as constants,
    as in every adjoint here: the controller's choice is not differentiated.
    """

    def run(self, problem: Problem, plan: Plan, stats: Statistics) -> Trajectory:
        """Integrate in grad mode; autograd does the rest."""
        return recorded(problem, plan)

    def run_samples(
        self, problem: SampleProblem, plan: SamplePlan, stats: Statistics
    ) -> SampleTrajectory:
        """Integrate each sample in grad mode."""
        with torch.no_grad():
            slopes = problem.field(problem.t0.to(problem.y0.real.dtype), problem.y0)
            check_apart(problem.field, problem.t0, problem.y0, slopes)
        outcome = integrate_samples(problem, plan)
        return SampleTrajectory(outcome, torch.cat(outcome.rows) if outcome.rows else None)

    def keeps(self, steps: int, state: int, step: int) -> tuple[int, int]:
        """Estimated bytes kept: the graph of every step."""
        return steps * (state + step), 0
