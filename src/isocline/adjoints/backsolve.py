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

from ..capture import Guard, capture, operations_so_far
from ..controllers.norms import Norm, joined
from ..errors import GradientError, InputError
from ..integrate import Outcome, integrate
from ..problem import PackedField, Plan, Problem, SaveAt, autocast_off
from ..solution import ERRORS, Statistics, Status
from ..solvers.base import Solver
from ..solvers.external import BlackBox, Boxed
from ..state import Packing
from ..validate import check_solver
from .base import Inputs, Trajectory, once, stacked, tensors_of_times, without_hooks

__all__ = ["Backsolve"]


@dataclass(frozen=True, slots=True)
class Backsolve:
    """The paper's adjoint: memory flat in the number of steps, gradient approximate.

    Attributes:
        solver: method of the reverse solve, or its name, or a black box; None for the forward one.
        rtol, atol: tolerances of the reverse solve; None for the forward ones.
        seminorm: leave the parameter adjoint out of the error norm (Kidger, Chen and Lyons 2021,
            "Hey, that's not an ODE"): it is a plain integral, so its error feeds back into
            nothing, and fewer steps serve.
    """

    solver: Solver | BlackBox | str | None = None
    rtol: float | None = None
    atol: float | None = None
    seminorm: bool = False

    def run(self, problem: Problem, plan: Plan, stats: Statistics) -> Trajectory:
        """Integrate without a graph and attach the reverse solve to the result."""
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
        start = problem.y0.real.new_tensor(problem.t0)
        captured = capture(problem.field, start, problem.y0)
        solver = plan.solver if self.solver is None else check_solver(self.solver)
        if self.seminorm and isinstance(solver, Boxed):
            raise InputError(
                "Backsolve.seminorm",
                f"True with {solver.name}",
                "False: a black box measures the error with a norm of its own",
                "Or give `Backsolve(solver=...)` a solver of isocline.",
            )
        if plan.controller.adaptive and not solver.adaptive:
            raise InputError(
                "Backsolve.solver",
                f"{solver.name}, which has no error estimate, under an adaptive controller",
                "a solver with an error estimate, or a solve of constant steps",
            )
        reverse_plan = replace(
            plan,
            solver=solver,
            rtol=plan.rtol if self.rtol is None else self.rtol,
            atol=plan.atol if self.atol is None else self.atol,
        )
        solves = _Solves(
            replace(problem, f0=captured.value), plan, reverse_plan, self.seminorm, stats
        )
        inputs = Inputs(captured, problem.field.tensor_args)
        every = [problem.y0, *tensors_of_times(problem.times), *captured.tensors]
        rows = _Backsolved.apply(solves, inputs, *every)  # type: ignore[no-untyped-call]
        return Trajectory(solves.outcome, rows)


class _Solves:
    """The forward solve, and the reverse one that differentiates it."""

    def __init__(
        self, problem: Problem, plan: Plan, reverse: Plan, seminorm: bool, stats: Statistics
    ) -> None:
        self.wants_times = problem.times is not None
        self.problem = replace(problem, y0=problem.y0.detach(), times=None)
        self.plan, self.reverse_plan, self.seminorm, self.stats = plan, reverse, seminorm, stats

    def forward(self) -> tuple[Tensor, Tensor]:
        """Integrate; the rows (T, N) and the state at the end (N,)."""
        self.outcome: Outcome = integrate(self.problem, self.plan)
        return stacked(self.outcome.rows, self.problem.y0), self.outcome.y

    def backward(
        self, rows: Tensor, end: Tensor, captured: Sequence[Tensor], g_rows: Tensor
    ) -> tuple[Tensor, list[Tensor | None], list[Tensor | None]]:
        """Gradients of y0, of (t0, t1, ts), and of the captured tensors."""
        problem, outcome = self.problem, self.outcome
        reverse = _Reverse(problem, self.reverse_plan, captured, self.seminorm)
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
        self, problem: Problem, plan: Plan, captured: Sequence[Tensor], seminorm: bool
    ) -> None:
        self.size = problem.y0.numel()
        self.captured = captured
        self.field = _AdjointField(problem.field, captured)
        count = self.field.packing.size - 2 * self.size
        self.parameters = problem.y0.new_zeros(count)
        self.plan = replace(
            plan,
            rtol=_extended(plan.rtol, self.size, count),
            atol=_extended(plan.atol, self.size, count),
            norm=_adjoint_norm(plan.norm, self.size, seminorm),
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
                f"from {t:.9g} to {target:.9g}: {outcome.status.value}.{outcome.message} The flow may "
                "be unstable in reverse: `adjoint=Checkpointed()` takes no reverse solve.",
                time=outcome.t_end,
            )
        if self.plan.controller.adaptive:  # go on at the pace found, rather than start anew
            self.plan = replace(self.plan, dt0=outcome.h)
        y, adjoint, self.parameters = outcome.y.split([self.size, self.size, len(self.parameters)])
        return y, adjoint

    def parameter_gradients(self) -> list[Tensor | None]:
        """Gradients of the captured tensors, None for those that no evaluation used."""
        sizes = [_size(tensor, self.parameters.dtype) for tensor in self.captured]
        pieces = self.parameters.split(sizes)
        return [
            _unflattened(piece, tensor) if touched else None
            for piece, tensor, touched in zip(
                pieces, self.captured, self.field.touched, strict=True
            )
        ]


class _AdjointField:
    """(y, a, theta's adjoint) -> their rates of change; stands in for a `PackedField`."""

    def __init__(self, field: PackedField, captured: Sequence[Tensor]) -> None:
        self.field = field
        self.captured = captured
        self.guard = Guard(captured)
        self.touched = [False] * len(captured)
        self.evaluations = 0
        inner = field.packing
        count = sum(_size(tensor, inner.dtype) for tensor in captured)
        shapes = (*inner.shapes, *inner.shapes, torch.Size([count]))
        self.packing = Packing(
            template=(),
            shapes=shapes,
            dtypes=(inner.dtype,) * len(shapes),
            sizes=tuple(shape.numel() for shape in shapes),
            dtype=inner.dtype,
            device=inner.device,
            batch=None,
        )
        self._size = inner.size

    def __call__(self, t: Tensor, state: Tensor) -> Tensor:
        self.evaluations += 1
        y, adjoint = state[: self._size], state[self._size : 2 * self._size]
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            before = operations_so_far(leaf)
            slope = self.field(t, leaf)
            size = operations_so_far(leaf) - before
        if not slope.requires_grad:  # a field that depends on nothing but t
            return torch.cat([slope, torch.zeros_like(state[self._size :])])
        self.guard.check([slope], [leaf], size)
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            slope, [leaf, *self.captured], -adjoint, allow_unused=True, retain_graph=True
        )
        self.touched = [
            before or gradient is not None
            for before, gradient in zip(self.touched, found[1:], strict=True)
        ]
        parts = [
            _flattened(torch.zeros_like(tensor) if gradient is None else gradient, state.dtype)
            for gradient, tensor in zip(found, [leaf, *self.captured], strict=True)
        ]
        return torch.cat([slope.detach(), *parts])


def _size(tensor: Tensor, dtype: torch.dtype) -> int:
    """Elements that a tensor's gradient takes in a vector of `dtype`."""
    return tensor.numel() * (2 if tensor.is_complex() and not dtype.is_complex else 1)


def _flattened(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """A gradient as a vector of `dtype`; complex numbers as pairs where it is real."""
    if gradient.is_complex() and not dtype.is_complex:
        gradient = torch.view_as_real(gradient.resolve_conj())
    return gradient.reshape(-1).to(dtype)


def _unflattened(vector: Tensor, like: Tensor) -> Tensor:
    """What `_flattened` made, shaped as the tensor whose gradient it is."""
    if like.is_complex() and not vector.is_complex():
        return torch.view_as_complex(vector.view(*like.shape, 2)).to(like)
    real = vector.real if vector.is_complex() and not like.is_complex() else vector
    return real.view(like.shape).to(like)


def _extended(tolerance: float | Tensor, size: int, count: int) -> float | Tensor:
    """A tolerance of the state, for state and adjoint alike; parameters get the tightest."""
    if not isinstance(tolerance, Tensor) or tolerance.ndim == 0:
        return tolerance
    tolerance = tolerance.expand(size)
    return torch.cat([tolerance, tolerance, tolerance.min().expand(count)])


def _adjoint_norm(norm: Norm, size: int, seminorm: bool) -> Norm:
    """The largest of the state's norm, the adjoint's and, unless left out, the parameters' RMS."""

    def extended(*errors: Tensor, combine: Any = None) -> Tensor:
        parts = [[e[:size] for e in errors], [e[size : 2 * size] for e in errors]]
        norms = [norm(*part, combine=combine) for part in parts]
        if not seminorm and errors[0].numel() > 2 * size:
            rest = [e[2 * size :] for e in errors]
            sizes = [torch.linalg.vector_norm(e) / e.numel() ** 0.5 for e in rest]
            norms.append(joined(sizes, combine))
        return torch.stack(norms).amax(0)

    return extended


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
