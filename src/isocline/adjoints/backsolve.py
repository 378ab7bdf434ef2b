"""Backsolve: the paper's adjoint, one reverse solve of state, adjoint and parameter adjoint.

Chen, Rubanova, Bettencourt and Duvenaud (2018), algorithms 1 and 2. With a = dL/dy,

    da/dt = -a^T df/dy,   dL/dtheta = -int_{t1}^{t0} a^T df/dtheta dt,
    dL/dt_i = a(t_i)^T f(t_i, y_i),

solved backward together with y itself, which is restarted from the saved value wherever one was
saved. Nothing else of the forward pass is remembered, so any black-box solver can be
differentiated, in memory independent of the number of steps. The gradient is that of the exact
solution, approximated to the reverse solve's tolerance: not that of the discrete solve, and wrong
where the reverse flow is unstable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..capture import Guard, capture
from ..controllers.base import Controller
from ..errors import GradientError, InputError
from ..holdings import held
from ..integrate import Outcome, integrate
from ..problem import Plan, Problem, SaveAt, autocast_off
from ..solution import ERRORS, Statistics, Status
from ..solvers.base import Solver
from ..solvers.external import BlackBox, Boxed
from ..solvers.wrapped import proper
from ..transforms import active
from ..validate import check_black_box, check_controller, check_solver
from .augmented import (
    AdjointField,
    ReverseNorm,
    adjoint_norm,
    by_parameter,
    extended,
    reverse_norm,
)
from .base import Inputs, Trajectory, once, stacked, tensors_of_times, without_hooks
from .direct import unrecorded

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
        max_steps: limit on attempted steps between two saved states; None for the forward one.
        norm: of the reverse solve, in place of the forward one's of state and adjoint each.
        parameters: the tensors besides y0 and times that are to receive a gradient; None for
            all that the field depends on.
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
        if any(tensor.requires_grad for tensor in held(proper(plan.solver))):
            raise GradientError(
                "the solver has parameters of its own, and the adjoint equation that Backsolve "
                "solves is that of the exact solution, which does not depend on them: use "
                "`adjoint=Checkpointed()`, or freeze them with `requires_grad_(False)`."
            )
        start = problem.y0.real.new_tensor(problem.t0)
        captured = capture(problem.field, start, problem.y0)
        solver = plan.solver if self.solver is None else check_solver(self.solver)
        reverse = self._reversed(plan, solver)
        solves = _Solves(replace(problem, f0=captured.value), plan, reverse, self, stats)
        inputs = Inputs(captured, problem.field.tensor_args)
        every = [problem.y0, *tensors_of_times(problem.times), *captured.tensors]
        rows = _Backsolved.apply(solves, inputs, *every)  # type: ignore[no-untyped-call]
        return Trajectory(solves.outcome, rows)

    def _reversed(self, plan: Plan, solver: Solver) -> Plan:
        """The plan of the reverse solve, as far as it does not depend on what was captured."""
        own = {"controller": self.controller, "dt0": self.dt0, "norm": self.norm}
        own["seminorm"] = self.seminorm or None
        check_black_box(solver, **{f"Backsolve.{name}": value for name, value in own.items()})
        controller, dt0 = plan.controller, plan.dt0 if self.dt0 is None else self.dt0
        if self.controller is not None:
            dt0 = self.dt0
            controller = check_controller(self.controller, solver, dt0)
        elif controller.adaptive and not solver.adaptive:
            raise InputError(
                "Backsolve.solver",
                f"{solver.name}, which has no error estimate, under an adaptive controller",
                "a solver with an error estimate, or `Backsolve(controller=Constant(), dt0=...)`",
            )
        return replace(
            plan,
            solver=solver,
            controller=controller,
            dt0=dt0,
            rtol=plan.rtol if self.rtol is None else self.rtol,
            atol=plan.atol if self.atol is None else self.atol,
            max_steps=plan.max_steps if self.max_steps is None else self.max_steps,
        )

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
        """Estimated bytes kept: the state at the end."""
        return state, 4 * state + step


class _Solves:
    """The forward solve, and the reverse one that differentiates it."""

    def __init__(
        self,
        problem: Problem,
        plan: Plan,
        reverse: Plan,
        settings: Backsolve,
        stats: Statistics,
    ) -> None:
        self.wants_times = problem.times is not None
        self.problem = replace(problem, y0=problem.y0.detach(), times=None)
        self.plan, self.reverse_plan, self.settings, self.stats = plan, reverse, settings, stats

    def forward(self) -> tuple[Tensor, Tensor]:
        """Integrate; the rows (T, N) and the state at the end (N,)."""
        self.outcome: Outcome = integrate(self.problem, self.plan)
        return stacked(self.outcome.rows, self.problem.y0), self.outcome.y

    def backward(
        self, rows: Tensor, end: Tensor, captured: Sequence[Tensor], g_rows: Tensor
    ) -> tuple[Tensor, list[Tensor | None], list[Tensor | None]]:
        """Gradients of y0, of (t0, t1, ts), and of the captured tensors."""
        problem, outcome = self.problem, self.outcome
        reverse = _Reverse(problem, self.reverse_plan, captured, self.settings)
        t, y = outcome.t_end, end
        adjoint = torch.zeros_like(y)
        g_times: dict[int, Tensor] = {}  # of the rows' own times
        first = int(self.plan.save.t0)  # that row is y0 itself, whatever t0 is
        for index in self._backward_in_time(first):
            _, adjoint = reverse.solve(t, outcome.times[index], y, adjoint)
            t, y = outcome.times[index], rows[index]
            if self.wants_times:
                g_times[index] = self._along(t, y, g_rows[index])
            adjoint = adjoint + g_rows[index]
        y, adjoint = reverse.solve(t, problem.t0, y, adjoint)
        times: list[Tensor | None] = [None, None, None]
        if self.wants_times:
            g_t0 = -self._along(problem.t0, problem.y0, adjoint)
            times = list(self._distribute(g_t0, g_times))
        adjoint = adjoint + g_rows[:first].sum(0)
        self.stats.nfe_backward += reverse.evaluations
        return adjoint, times, reverse.parameter_gradients()

    def _along(self, t: float, y: Tensor, cotangent: Tensor) -> Tensor:
        """The rate at which a loss with this cotangent changes along the flow, on the host."""
        before = self.problem.field.evaluations
        slope = self.problem.field(y.real.new_tensor(t), y)
        self.stats.nfe_backward += self.problem.field.evaluations - before
        rate: Tensor = torch.linalg.vecdot(slope, cotangent)
        return rate.real.to("cpu", torch.float64)

    def _backward_in_time(self, first: int) -> list[int]:
        """The rows from `first` on, last first: those of events come behind others of a step."""
        times, direction = self.outcome.times, self.problem.direction
        rows = range(first, len(times))
        return sorted(rows, key=lambda row: direction * times[row])[::-1]

    def _distribute(self, g_t0: Tensor, g_rows: dict[int, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Hand the rows' time gradients to t0, t1 and ts, whose rows they are.

        The time of an event is a constant of this solve.
        """
        events = {row for _, row in self.outcome.hits}
        rows = [row for row in sorted(g_rows) if row not in events]
        g_t1 = torch.zeros((), dtype=torch.float64)
        g_ts = torch.zeros(len(self.plan.ts), dtype=torch.float64)
        owners = self.problem.owners([self.outcome.times[row] for row in rows], self.plan.ts)
        for owner, row in zip(owners, rows, strict=True):
            if isinstance(owner, int):
                g_ts[owner] += g_rows[row]
            elif owner == "t1":
                g_t1 = g_t1 + g_rows[row]
        return g_t0, g_t1, g_ts


class _Reverse:
    """The reverse solve, in pieces between saved states."""

    def __init__(
        self, problem: Problem, plan: Plan, captured: Sequence[Tensor], settings: Backsolve
    ) -> None:
        self.size = problem.y0.numel()
        self.known = captured
        self.captured = settings.wanted(captured)
        self.field = AdjointField(problem.field, self.captured, Guard(captured))
        count = self.field.packing.size - 2 * self.size
        self.parameters = problem.y0.new_zeros(count)
        self.plan = replace(
            plan,
            rtol=extended(plan.rtol, self.size, count),
            atol=extended(plan.atol, self.size, count),
            norm=adjoint_norm(plan.norm, self.size, settings.seminorm)
            if settings.norm is None
            else reverse_norm(settings.norm, problem.field.packing, self.captured),
            save=SaveAt(),
            ts=(),
            reduce=None,
            events=(),
            on_step=None,
        )

    @property
    def evaluations(self) -> int:
        return self.field.evaluations

    def solve(self, t: float, target: float, y: Tensor, adjoint: Tensor) -> tuple[Tensor, Tensor]:
        """State and adjoint at `target`, from those at t; parameters' adjoint is carried along."""
        if t == target:
            return y, adjoint
        start = torch.cat([y, adjoint, self.parameters])
        problem = Problem(self.field, start, t, target)  # type: ignore[arg-type]
        outcome = integrate(problem, self.plan)
        if outcome.status is not Status.SUCCESS:
            raise ERRORS[outcome.status](
                f"the reverse solve of Backsolve stopped at t = {outcome.t_end:.9g} on its way "
                f"from {t:.9g} to {target:.9g}: {outcome.status.value}.{outcome.message} The flow "
                "may be unstable in reverse: `adjoint=Checkpointed()` takes no reverse solve.",
                time=outcome.t_end,
            )
        if self.plan.controller.adaptive:  # go on at the pace found, rather than start anew
            self.plan = replace(self.plan, dt0=outcome.h)
        y, adjoint, self.parameters = outcome.y.split([self.size, self.size, len(self.parameters)])
        return y, adjoint

    def parameter_gradients(self) -> list[Tensor | None]:
        """Gradients of the captured tensors, None for those that no evaluation used."""
        pieces = by_parameter(self.parameters, self.captured).items()
        found = {
            id(tensor): piece
            for (tensor, piece), touched in zip(pieces, self.field.touched, strict=True)
            if touched
        }
        return [found.get(id(tensor)) for tensor in self.known]


class _Backsolved(torch.autograd.Function):
    """Rows of a solve, differentiable in y0, times and captured tensors."""

    @staticmethod
    def forward(ctx: Any, solves: _Solves, inputs: Inputs, *every: Tensor | None) -> Tensor:
        rows, end = solves.forward()
        ctx.solves, ctx.inputs = solves, inputs
        # A copy of the rows: the next layer may well change them in place.
        ctx.save_for_backward(rows.clone(), end, *inputs.watched(every))
        return rows

    @staticmethod
    def backward(ctx: Any, g_rows: Tensor) -> tuple[Tensor | None, ...]:
        solves: _Solves = ctx.solves
        inputs: Inputs = ctx.inputs
        rows, end, *saved = ctx.saved_tensors
        began = perf_counter()
        with torch.no_grad(), autocast_off(end.device), without_hooks(inputs.captured):
            y0, times, parameters = solves.backward(rows, end, inputs.captured, g_rows)
        solves.stats.wall_time_backward += perf_counter() - began
        causes = [*saved[:4], *inputs.captured, g_rows]
        return (None, None, *once([y0, *times, *parameters], causes))
