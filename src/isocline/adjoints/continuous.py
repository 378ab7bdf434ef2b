"""What the continuous adjoints share: from outputs to anchors, the gradients of times, the plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..controllers.base import Controller
from ..errors import GradientError, InputError
from ..holdings import held
from ..integrate import Outcome
from ..problem import Plan, Problem, SaveAt
from ..samples import SamplePlan
from ..solution import ERRORS, Statistics, Status
from ..solvers.base import Solver
from ..solvers.external import BlackBox
from ..solvers.wrapped import proper
from ..validate import check_black_box, check_controller, check_solver
from .sweep import Anchor, anchors_of

__all__ = [
    "Continuous",
    "Rows",
    "Settings",
    "check_coefficients",
    "check_outcome",
    "reverse_method",
    "reverse_plan",
]

Gradients = list[Tensor | None]


class Settings(Protocol):
    """What the user chose of the reverse solve; None leaves it as in the forward one."""

    @property
    def solver(self) -> Solver | BlackBox | str | None:
        """The method."""

    @property
    def rtol(self) -> float | Tensor | None:
        """Relative tolerance."""

    @property
    def atol(self) -> float | Tensor | None:
        """Absolute tolerance."""

    @property
    def controller(self) -> Controller | None:
        """Chooses the steps."""

    @property
    def dt0(self) -> float | None:
        """The first step."""

    @property
    def max_steps(self) -> int | None:
        """Limit on attempted steps."""


def reverse_plan(settings: Settings, plan: Plan, **own: Any) -> Plan:
    """The plan of the reverse solve.

    Args:
        settings: what the user chose.
        plan: of the forward solve.
        own: further settings that a black box does not take, None where not given.

    Raises:
        InputError: if the method cannot step as planned.
    """
    solver, controller = reverse_method(settings, plan, **own)
    forward = plan.dt0 if settings.controller is None else None
    return replace(
        plan,
        solver=solver,
        controller=controller,
        dt0=forward if settings.dt0 is None else settings.dt0,
        rtol=plan.rtol if settings.rtol is None else settings.rtol,
        atol=plan.atol if settings.atol is None else settings.atol,
        max_steps=plan.max_steps if settings.max_steps is None else settings.max_steps,
        save=SaveAt(),
        ts=(),
        reduce=None,
        events=(),
        on_step=None,
    )


def reverse_method(
    settings: Settings, plan: Plan | SamplePlan, **own: Any
) -> tuple[Solver, Controller]:
    """Method and controller of the reverse solve; see `reverse_plan`."""
    name = type(settings).__name__
    solver = plan.solver if settings.solver is None else check_solver(settings.solver)
    own |= {"controller": settings.controller, "dt0": settings.dt0}
    check_black_box(solver, **{f"{name}.{key}": value for key, value in own.items()})
    if settings.controller is not None:
        return solver, check_controller(settings.controller, solver, settings.dt0)
    if plan.controller.adaptive and not solver.adaptive:
        raise InputError(
            f"{name}.solver",
            f"{solver.name}, which has no error estimate, under an adaptive controller",
            f"a solver with an error estimate, or `{name}(controller=Constant(), dt0=...)`",
        )
    return solver, plan.controller


def check_coefficients(adjoint: object, solver: Solver) -> None:
    """Refuse a method whose own coefficients want a gradient."""
    if any(tensor.requires_grad for tensor in held(proper(solver))):
        raise GradientError(
            "the solver has parameters of its own, and the adjoint equation that "
            f"{type(adjoint).__name__} solves is that of the exact solution, which does not "
            "depend on them: use `adjoint=Checkpointed()`, or freeze them with "
            "`requires_grad_(False)`."
        )


def check_outcome(name: str, outcome: Outcome, t: float, target: float) -> None:
    """Raise the typed error of a reverse solve that stopped on its way from t to `target`."""
    if outcome.status is Status.SUCCESS:
        return
    raise ERRORS[outcome.status](
        f"the reverse solve of {name} stopped at t = {outcome.t_end:.9g} on its way "
        f"from {t:.9g} to {target:.9g}: {outcome.status.value}.{outcome.message} The flow "
        "may be unstable in reverse: `adjoint=Checkpointed()` takes no reverse solve.",
        time=outcome.t_end,
    )


class Rows(NamedTuple):
    """Outputs of a solve.

    Attributes:
        times: one for each row.
        states, cotangents: each shape (T, N).
    """

    times: Sequence[float]
    states: Tensor
    cotangents: Tensor

    def at(self, row: int) -> tuple[float, Tensor, Tensor]:
        """Time, state and cotangent of one row."""
        return self.times[row], self.states[row], self.cotangents[row]


Sweep = Callable[[Sequence[Anchor], Sequence[Tensor]], tuple[Tensor, Gradients]]
"""From the first of the anchors to t0: the adjoint there, and the gradients of captured tensors.

The anchors are one or more, in the order of the reverse solve, all of them off t0.
"""


class Continuous:
    """A forward solve, and what the reverse one that differentiates it has in common with others.

    Args:
        problem, plan: what is solved forward, and how.
        reverse: how it is solved in reverse.
        stats: for the backward pass to count into.
    """

    outcome: Outcome

    def __init__(self, problem: Problem, plan: Plan, reverse: Plan, stats: Statistics) -> None:
        self.wants_times = problem.times is not None
        self.problem = replace(problem, y0=problem.y0.detach(), times=None)
        self.plan, self.reverse, self.stats = plan, reverse, stats

    def backward(
        self, saved: Rows, others: Rows, captured: Sequence[Tensor], sweep: Sweep
    ) -> tuple[Tensor, Gradients, Gradients]:
        """Gradients of y0, of (t0, t1, ts), and of the captured tensors.

        Args:
            saved: what `SaveAt` kept.
            others: further states at fixed times, known or put out.
            captured: the tensors that the field depends on.
            sweep: the reverse solve.
        """
        problem, field = self.problem, self.problem.field
        before = field.evaluations
        first = int(self.plan.save.t0)  # that row is y0 itself, whatever t0 is
        rows = Rows(saved.times[first:], saved.states[first:], saved.cotangents[first:])
        anchors = anchors_of(*_joined(rows, others), problem.direction)
        at_start = anchors.pop() if anchors and anchors[-1].t == problem.t0 else None
        adjoint, parameters = torch.zeros_like(problem.y0), _nothing(len(captured))
        if anchors:
            adjoint, parameters = sweep(anchors, captured)
        if at_start is not None and at_start.cotangent is not None:
            adjoint = adjoint + at_start.cotangent
        times = _nothing(3)
        if self.wants_times:
            g_t0 = -self._along(problem.t0, problem.y0, adjoint)
            times = [g_t0, *self._distribute(rows, first)]
        self.stats.nfe_backward += field.evaluations - before
        return adjoint + saved.cotangents[:first].sum(0), times, parameters

    def _along(self, t: float, y: Tensor, cotangent: Tensor) -> Tensor:
        """The rate at which a loss with this cotangent changes along the flow, on the host."""
        slope = self.problem.field(y.real.new_tensor(t), y)
        rate: Tensor = torch.linalg.vecdot(slope, cotangent)
        return rate.real.to("cpu", torch.float64)

    def _distribute(self, rows: Rows, first: int) -> tuple[Tensor, Tensor]:
        """Hand the rows' time gradients to t1 and ts, whose rows they are.

        The time of an event is a constant of this solve.
        """
        events = {row - first for _, row in self.outcome.hits}
        own = [row for row in range(len(rows.times)) if row not in events]
        g_t1 = torch.zeros((), dtype=torch.float64)
        g_ts = torch.zeros(len(self.plan.ts), dtype=torch.float64)
        owners = self.problem.owners([rows.times[row] for row in own], self.plan.ts)
        for owner, row in zip(owners, own, strict=True):
            if isinstance(owner, int):
                g_ts[owner] += self._along(*rows.at(row))
            elif owner == "t1":
                g_t1 = g_t1 + self._along(*rows.at(row))
        return g_t1, g_ts


def _nothing(count: int) -> Gradients:
    return [None] * count


def _joined(rows: Rows, others: Rows) -> Rows:
    return Rows(
        [*rows.times, *others.times],
        torch.cat([rows.states, others.states]),
        torch.cat([rows.cotangents, others.cotangents]),
    )
