"""Interpolated: the continuous adjoint along the stored trajectory, parameters by quadrature.

The forward solve keeps its continuous solution. Backward, with a = dL/dy,

    da/dt = -a^T df/dy,   dL/dtheta = int_{t0}^{t1} a^T df/dtheta dt,

a is solved for alone, and y(t) read off the trajectory: nothing is solved backward that could be
unstable there. This is the interpolating adjoint of the SciML ecosystem (Ma, Dixit, Innes, Guo and
Rackauckas 2021, "A comparison of automatic differentiation and continuous sensitivity analysis for
derivatives of differential equation solutions", IEEE HPEC, arXiv 1812.01892). The integral feeds
back into nothing, so it need not be solved for: it is a sum over Gauss-Legendre nodes in each
accepted step, of a's own interpolant (Norcliffe and Deisenroth 2023, "Faster training of neural
ODEs using Gauss-Legendre quadrature", TMLR, arXiv 2308.10644). Outputs enter in one sweep
(`sweep.py`); the gradient is that of the exact solution, to the tolerance of both solves.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..capture import Guard, capture, operations_so_far
from ..controllers.base import Controller
from ..errors import GradientError
from ..integrate import Outcome, Reach, Start, integrate
from ..problem import PackedField, Plan, Problem
from ..solution import Statistics
from ..solvers.base import Solver, Step, Stepper
from ..solvers.external import Boxed
from ..transforms import active
from .base import (
    Inputs,
    ParameterGradients,
    Trajectory,
    backward_work,
    check_single,
    once,
    pulled_back,
    stacked,
    tensors_of_times,
)
from .continuous import Continuous, Rows, check_coefficients, check_outcome, reverse_plan
from .direct import unrecorded
from .path import Path, nodal_values
from .quadrature import gauss_legendre
from .sweep import (
    Anchor,
    Impulses,
    Jump,
    SweepingSolver,
    SweepingStepper,
    SweptStep,
    can_sweep,
)

__all__ = ["Interpolated"]


@dataclass(frozen=True, slots=True)
class Interpolated:
    """The continuous adjoint along the stored trajectory: stable, approximate, lean in parameters.

    The reverse solve has as many numbers as the state, however many parameters there are. Memory
    grows with the steps: the continuous solution is kept, about five states a step.

    Attributes:
        solver: method of the reverse solve, or its name; None for the forward one.
        rtol, atol: tolerances of the reverse solve, numbers or vectors like the packed state; None
            for the forward ones.
        controller: chooses the steps of the reverse solve; None for the forward one.
        dt0: first step of the reverse solve. None for the forward one, unless there is a
            `controller`, which is then to choose it.
        max_steps: limit on attempted steps of the reverse solve, or from stop to stop where it
            stops; None for the forward one.
    """

    solver: Solver | str | None = None
    rtol: float | Tensor | None = None
    atol: float | Tensor | None = None
    controller: Controller | None = None
    dt0: float | None = None
    max_steps: int | None = None

    def run(self, problem: Problem, plan: Plan, stats: Statistics) -> Trajectory:
        """Integrate without a graph, keep the trajectory, and attach the reverse solve to it."""
        if active():
            return unrecorded("Interpolated", problem, plan)
        check_coefficients(self, plan.solver)
        reverse = reverse_plan(self, plan)
        _check_boxes(plan.solver, reverse.solver)
        start = problem.y0.real.new_tensor(problem.t0)
        captured = capture(problem.field, start, problem.y0)
        solves = _Solves(replace(problem, f0=captured.value), plan, reverse, stats)
        inputs = Inputs(captured, problem.field.tensor_args)
        every = [problem.y0, *tensors_of_times(problem.times), *captured.tensors]
        rows, values = _Interpolated.apply(solves, inputs, *every)  # type: ignore[no-untyped-call]
        pieces = solves.path(values).pieces(values) if plan.save.dense and len(values) else ()
        return Trajectory(solves.outcome, rows, pieces)

    def keeps(self, steps: int, state: int, step: int) -> tuple[int, int]:
        """Estimated bytes kept: five states a step, as for an interpolant of degree four."""
        return 5 * steps * state, 4 * state + step


def _check_boxes(forward: Solver, reverse: Solver) -> None:
    """Refuse black boxes where steps are needed."""
    if isinstance(reverse, Boxed):
        raise GradientError(
            f"{reverse.name} is a black box, and Interpolated looks into the steps of its reverse "
            'solve: name a method for it, as in `Interpolated(solver="tsit5")`, or use '
            "`adjoint=Backsolve()`."
        )
    if isinstance(forward, Boxed) and not getattr(forward.box, "watches", False):
        raise GradientError(
            f"{forward.name} is a black box that does not show its steps, and Interpolated keeps "
            "the continuous solution: use `adjoint=Backsolve()`."
        )


class _Solves(Continuous):
    """The forward solve, and the reverse one of the adjoint that differentiates it."""

    ends: list[float]

    def forward(self) -> tuple[Tensor, Tensor]:
        """Integrate; rows (T, N), and the trajectory's values at its nodes (S, D + 1, N)."""
        save = replace(self.plan.save, dense=True, t1=self.plan.save.keeps_t1)
        self.outcome: Outcome = integrate(self.problem, replace(self.plan, save=save))
        rows = stacked(self.outcome.rows, self.problem.y0)
        self.ends, pieces = list(self.outcome.ends), self.outcome.pieces
        values = nodal_values(pieces, self.ends) if pieces else rows.new_empty(0, 2, rows.shape[1])
        self.outcome.rows, self.outcome.y = [], self.problem.y0
        return rows, values

    def path(self, values: Tensor) -> Path:
        """The trajectory."""
        return Path(self.problem.t0, self.ends, values.detach())

    def pull(
        self, saved: Rows, values: Tensor, g_values: Tensor | None, captured: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor | None], list[Tensor | None]]:
        """Gradients of y0, of (t0, t1, ts), and of the captured tensors."""
        nothing = values.new_empty(0, values.shape[2])
        others = Rows([], nothing, nothing)
        if g_values is not None and len(values):
            times = self.path(values).times
            others = Rows(times, values.flatten(0, 1), g_values.flatten(0, 1))

        def sweep(
            anchors: Sequence[Anchor], captured: Sequence[Tensor]
        ) -> tuple[Tensor, list[Tensor | None]]:
            reverse = _Reverse(self.problem, self.reverse, self.path(values), captured)
            return reverse.run(anchors)

        return self.backward(saved, others, captured, sweep)


class _AdjointField:
    """(t, a) -> -a^T df/dy along the trajectory; stands in for a `PackedField`."""

    def __init__(self, field: PackedField, path: Path, guard: Guard) -> None:
        self.field, self.path, self.guard = field, path, guard
        self.packing = field.packing

    def __call__(self, t: Tensor, adjoint: Tensor) -> Tensor:
        """The rate of change of a, packed."""
        (rate,) = self.pulled(t, self.path.at(t), -adjoint, None)
        return torch.zeros_like(adjoint) if rate is None else rate

    def pulled(
        self, t: Tensor, y: Tensor, cotangent: Tensor, captured: Sequence[Tensor] | None
    ) -> tuple[Tensor | None, ...]:
        """One vector-Jacobian product of the field: with respect to y, or to `captured`."""
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            before = operations_so_far(leaf)
            slope = self.field(t, leaf)
            size = operations_so_far(leaf) - before
        wanted = [leaf] if captured is None else list(captured)
        if not slope.requires_grad or not wanted:
            return (None,) * len(wanted)
        self.guard.check([slope], [leaf], size)
        found: tuple[Tensor | None, ...] = pulled_back([slope], [cotangent], wanted)
        return found


class _Reverse:
    """The reverse solve of the adjoint, and the integral along it."""

    def __init__(
        self, problem: Problem, plan: Plan, path: Path, captured: Sequence[Tensor]
    ) -> None:
        self.problem, self.plan, self.path, self.captured = problem, plan, path, captured
        self.guard = Guard(captured)
        self.field = _AdjointField(problem.field, path, self.guard)
        self.totals = ParameterGradients(len(captured))
        self.nodes = gauss_legendre(plan.solver.dense_order // 2 + 1)
        self._rising = [problem.direction * t for t in path.bounds]

    def run(self, anchors: Sequence[Anchor]) -> tuple[Tensor, list[Tensor | None]]:
        """The adjoint at t0, and the gradients of the captured tensors."""
        first, *others = anchors
        adjoint = torch.zeros_like(first.y) if first.cotangent is None else first.cotangent
        others = [anchor for anchor in others if anchor.cotangent is not None]
        go = self._sweep if can_sweep(self.plan, self.problem.field, first.y) else self._stop
        return go(first.t, adjoint, others), self.totals.totals

    def accepted(self, start: Start, reach: Reach, step: Step, rows: int) -> None:
        """Add an accepted step's part of the integral, and what its outputs depend on."""
        if isinstance(step, SweptStep) and step.jump.pulled is not None:
            self.totals.add(step.jump.pulled.parameters)
        piece = step.dense()
        for t, t_next in pairwise(self._bounds(reach.t, reach.t_next)):
            nodes, weights = self.nodes
            times = torch.tensor(nodes, dtype=torch.float64) * (t_next - t) + t
            for time, adjoint, weight in zip(times, piece.at(times), weights, strict=True):
                share = adjoint * (weight * (t - t_next))
                at = time.to(self.path.values.device)
                y, when = self.path.at(at), at.to(self.field.packing.time_dtype)
                self.totals.add(self.field.pulled(when, y, share, self.captured))

    def _bounds(self, t: float, t_next: float) -> list[float]:
        """The parts of a reverse step to sum over: none spans more than two forward steps.

        What the integrand does fast, the forward solve has met too, while a may be constant.
        """
        sign = self.problem.direction
        last = bisect_right(self._rising, sign * t_next)
        first = bisect_right(self._rising, sign * t) - 1
        inside = [b for b in self.path.bounds[last : first + 1] if b not in (t, t_next)]
        return [t, *reversed(inside[1:]), t_next]

    def _sweep(self, t: float, adjoint: Tensor, anchors: Sequence[Anchor]) -> Tensor:
        """From t to t0 at one go."""
        field, sign = self.problem.field, -self.problem.direction
        impulses = Impulses(field, self.plan, anchors, self.captured, self.guard, sign)

        def make(inner: Stepper) -> SweepingStepper:
            return _SweepingStepper(inner, impulses, self.path)

        solver = SweepingSolver(self.plan.solver, make)
        return self._solve(t, self.problem.t0, adjoint, replace(self.plan, solver=solver)).y

    def _stop(self, t: float, adjoint: Tensor, anchors: Sequence[Anchor]) -> Tensor:
        """From t to t0 with a stop at each anchor."""
        plan = self.plan
        for anchor in anchors:
            outcome = self._solve(t, anchor.t, adjoint, plan)
            if plan.controller.adaptive:  # go on at the pace found, rather than start anew
                plan = replace(plan, dt0=outcome.h)
            assert anchor.cotangent is not None  # the others were left out
            t, adjoint = anchor.t, outcome.y + anchor.cotangent
        return self._solve(t, self.problem.t0, adjoint, plan).y

    def _solve(self, t: float, target: float, adjoint: Tensor, plan: Plan) -> Outcome:
        problem = Problem(self.field, adjoint, t, target)  # type: ignore[arg-type]
        outcome = integrate(problem, plan, recorder=self)
        check_outcome("Interpolated", outcome, t, target)
        return outcome


class _SweepingStepper(SweepingStepper):
    """Steps of the adjoint that jump at outputs."""

    def __init__(self, inner: Stepper, impulses: Impulses, path: Path) -> None:
        super().__init__(inner, impulses)
        self.path = path

    def jump(self, t: float, t_next: float, state: Tensor, anchors: Sequence[Anchor]) -> Jump:
        """Raise the adjoint by what the outputs are worth at t."""
        if anchors[0].t == t:
            here, *anchors = anchors
            state = state if here.cotangent is None else state + here.cotangent
        if not anchors:
            return Jump(state, anchors, None)
        pulled = self.impulses.pull(t, t_next, self.path.at_number(t), anchors)
        return Jump(state + pulled.adjoint, anchors, pulled)


class _Interpolated(torch.autograd.Function):
    """Rows and the trajectory of a solve, differentiable in y0, times and captured tensors."""

    @staticmethod
    def forward(
        ctx: Any, solves: _Solves, inputs: Inputs, *every: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        rows, values = solves.forward()
        ctx.solves, ctx.inputs = solves, inputs
        ctx.set_materialize_grads(False)
        # A copy of the rows: the next layer may well change them in place.
        ctx.save_for_backward(rows.clone(), values, *inputs.watched(every))
        return rows, values

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        for cotangent in cotangents:
            if cotangent is not None:
                check_single("Interpolated", cotangent)
        solves: _Solves = ctx.solves
        inputs: Inputs = ctx.inputs
        rows, values, *watched = ctx.saved_tensors
        g_rows = torch.zeros_like(rows) if cotangents[0] is None else cotangents[0]
        with backward_work(inputs, rows.device, solves.stats):
            saved = Rows(solves.outcome.times, rows, g_rows)
            found = solves.pull(saved, values, cotangents[1], inputs.captured)
        y0, times, captured = found
        causes = [*watched[:4], *inputs.captured, *cotangents]
        return (None, None, *once([y0, *times, *captured], causes))
