"""Backsolve: the paper's adjoint, one reverse solve of state, adjoint and parameter adjoint.

Chen, Rubanova, Bettencourt and Duvenaud (2018), algorithms 1 and 2. With a = dL/dy,

    da/dt = -a^T df/dy,   dL/dtheta = -int_{t1}^{t0} a^T df/dtheta dt,
    dL/dt_i = a(t_i)^T f(t_i, y_i),

solved backward together with y itself, in one sweep over all outputs (`sweep.py`); methods that
carry a memory from step to step, and black boxes, stop at each and start anew. Where an output was
saved, y is put right. Nothing else of the forward pass is remembered, so any black-box solver can
be differentiated, in memory independent of the number of steps. The gradient is that of the exact
solution, approximated to the reverse solve's tolerance: not that of the discrete solve, and wrong
where the reverse flow is unstable, of which a `GradientWarning` tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..capture import capture, with_tensors_of
from ..controllers.base import Controller
from ..errors import GradientError, InputError
from ..problem import Plan, Problem
from ..samples import SamplePlan, SampleProblem
from ..solution import Statistics
from ..solvers.base import Solver
from ..solvers.external import BlackBox, Boxed
from ..transforms import active
from .augmented import ReverseNorm
from .backsolved_lanes import backsolved_lanes
from .base import (
    Inputs,
    Trajectory,
    backward_work,
    check_single,
    once,
    stacked,
    tensors_of_times,
)
from .continuous import Continuous, Rows, check_coefficients, reverse_plan
from .direct import unrecorded
from .forward_states import integrate_and_keep
from .replayed_lanes import dependencies
from .reverse import Reverse
from .samples import SampleTrajectory
from .sweep import Anchor

__all__ = ["Backsolve"]


@dataclass(frozen=True, slots=True)
class Backsolve:
    """The paper's adjoint: memory flat in the number of steps, gradient approximate.

    Attributes:
        solver: method of the reverse solve, or its name, or a black box; None for the forward one.
        rtol, atol: tolerances of the reverse solve, numbers or vectors like the packed state; None
            for the forward ones.
        seminorm: leave the parameter adjoint out of the error norm (Kidger, Chen and Lyons 2021,
            "Hey, that's not an ODE"): it is a plain integral, so its error feeds back into
            nothing, and fewer steps serve.
        controller: chooses the steps of the reverse solve; None for the forward one.
        dt0: first step of the reverse solve. None for the forward one, unless there is a
            `controller`, which is then to choose it.
        max_steps: limit on attempted steps of the reverse solve, or from stop to stop where it
            stops; None for the forward one.
        norm: of the reverse solve, in place of the forward one's of state and adjoint each.
        parameters: the tensors besides y0 and times that are to receive a gradient; None for
            all that the field depends on.
        checkpoints: at most so many further states of the forward solve are kept, spread evenly
            over its steps (over time for a black box), at which the reverse solve puts y right.
    """

    solver: Solver | BlackBox | str | None = None
    rtol: float | Tensor | None = None
    atol: float | Tensor | None = None
    seminorm: bool = False
    controller: Controller | None = None
    dt0: float | None = None
    max_steps: int | None = None
    norm: ReverseNorm | None = None
    parameters: tuple[Tensor, ...] | None = None
    checkpoints: int = 0

    def __post_init__(self) -> None:
        count: Any = self.checkpoints
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise InputError("checkpoints", repr(count), "a whole number of states, 0 or more")

    def run(self, problem: Problem, plan: Plan, stats: Statistics) -> Trajectory:
        """Integrate without a graph and attach the reverse solve to the result."""
        if active():
            return unrecorded("Backsolve", problem, plan)
        if plan.save.dense:
            raise GradientError(
                "Backsolve keeps nothing of the steps, so dense output has no gradient under it: "
                "give the times as `SaveAt(ts=...)`, or "
                + (
                    "solve under `torch.no_grad()`."
                    if isinstance(plan.solver, Boxed)
                    else "use `adjoint=Checkpointed()`."
                )
            )
        check_coefficients(self, plan.solver)
        start = problem.y0.real.new_tensor(problem.t0)
        captured = capture(problem.field, start, problem.y0)
        reverse = reverse_plan(self, plan, norm=self.norm, seminorm=self.seminorm or None)
        solves = _Solves(replace(problem, f0=captured.value), plan, reverse, self, stats)
        inputs = Inputs(captured, problem.field.tensor_args)
        every = [problem.y0, *tensors_of_times(problem.times), *captured.tensors]
        rows = _Backsolved.apply(solves, inputs, *every)  # type: ignore[no-untyped-call]
        return Trajectory(solves.outcome, rows)

    def run_samples(
        self, problem: SampleProblem, plan: SamplePlan, stats: Statistics
    ) -> SampleTrajectory:
        """The same for samples with steps of their own, in both directions.

        The parameters' adjoint belongs to all samples, and to the error norm of none: `seminorm`
        says nothing here, and a `norm` is given states and adjoints of some samples, no parameters,
        and answers with a number for each sample.

        Raises:
            GradientError: where the time of an event has no derivative.
            InputError: for a method of the reverse solve that has no steps by samples.
        """
        check_coefficients(self, plan.solver)
        captured, problem = dependencies(problem)
        captured = with_tensors_of(captured, plan.events)
        return backsolved_lanes(self, problem, plan, captured, stats)

    def wanted(self, captured: Sequence[Tensor]) -> list[Tensor]:
        """Those of the captured tensors that are to receive a gradient."""
        if self.parameters is None:
            return list(captured)
        named = set(map(id, self.parameters))
        known = set(map(id, captured))
        if any(p.grad_fn is not None and id(p) not in known for p in self.parameters):
            return list(captured)  # its own leaves were captured in its place: keep them all
        return [tensor for tensor in captured if id(tensor) in named]

    def keeps(self, steps: int, state: int, step: int) -> tuple[int, int]:
        """Estimated bytes kept: the state at the end, and checkpoints."""
        return (1 + min(steps, self.checkpoints)) * state, 4 * state + step


class _Solves(Continuous):
    """The forward solve, and the reverse one of state and adjoints that differentiates it."""

    def __init__(
        self,
        problem: Problem,
        plan: Plan,
        reverse: Plan,
        settings: Backsolve,
        stats: Statistics,
    ) -> None:
        super().__init__(problem, plan, reverse, stats)
        self.settings = settings

    def forward(self) -> tuple[Tensor, Tensor]:
        """Integrate; the rows (T, N) and the checkpoints (k, N)."""
        outcome, kept = integrate_and_keep(self.problem, self.plan, self.settings.checkpoints)
        self.outcome, self.times_kept = outcome, [t for t, _ in kept]
        like = self.problem.y0
        return stacked(outcome.rows, like), stacked([y.unsqueeze(0) for _, y in kept], like)

    def sweep(
        self, anchors: Sequence[Anchor], captured: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Solve state and adjoints from the first anchor to t0."""
        wanted = self.settings.wanted(captured)
        reverse = Reverse(
            self.problem,
            self.reverse,
            anchors,
            (captured, wanted),
            norm=self.settings.norm,
            seminorm=self.settings.seminorm,
        )
        return reverse.run()


class _Backsolved(torch.autograd.Function):
    """Rows of a solve, differentiable in y0, times and captured tensors."""

    @staticmethod
    def forward(ctx: Any, solves: _Solves, inputs: Inputs, *every: Tensor | None) -> Tensor:
        rows, checkpoints = solves.forward()
        ctx.solves, ctx.inputs = solves, inputs
        # A copy of the rows: the next layer may well change them in place.
        ctx.save_for_backward(rows.clone(), checkpoints, *inputs.watched(every))
        return rows

    @staticmethod
    def backward(ctx: Any, g_rows: Tensor) -> tuple[Tensor | None, ...]:
        check_single("Backsolve", g_rows)
        solves: _Solves = ctx.solves
        inputs: Inputs = ctx.inputs
        rows, checkpoints, *saved = ctx.saved_tensors
        with backward_work(inputs, rows.device, solves.stats):
            saved_rows = Rows(solves.outcome.times, rows, g_rows)
            kept = Rows(solves.times_kept, checkpoints, torch.zeros_like(checkpoints))
            y0, times, parameters = solves.backward(saved_rows, kept, inputs.captured, solves.sweep)
        causes = [*saved[:4], *inputs.captured, g_rows]
        return (None, None, *once([y0, *times, *parameters], causes))
