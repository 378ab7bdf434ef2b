"""Solving with a black box: what it is handed, and what is made of its answer.

It works on the host, on NumPy vectors in float64. The field sees tensors of the state's own dtype
and device; complex numbers travel as pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..problem import Plan, Problem
from ..solution import Status
from ..solvers.base import DensePiece
from ..solvers.external import Answer, Boxed
from .loop import Outcome

__all__ = ["solve_black_box"]

_FLOOR = torch.finfo(torch.float64).tiny ** 0.5
"""Least absolute tolerance: weights of 1 / 0 make libraries give up where a state is zero."""


def solve_black_box(problem: Problem, plan: Plan, solver: Boxed) -> Outcome:
    """Solve a problem as planned, without gradients; a failure is a status.

    Raises:
        InputError: for what this black box cannot do, or if its answer has a wrong shape.
    """
    host = _Host(problem)
    steps = _Steps(plan, host)
    wanted = list(dict.fromkeys([*(t for t in plan.ts if t != problem.t0), problem.t1]))
    with torch.no_grad():
        answer = solver.box.integrate(
            host.field,
            problem.t0,
            problem.t1,
            host.array(problem.y0),
            ts=wanted,
            rtol=_number(plan.rtol, solver.name),
            atol=host.tolerance(plan.atol),
            max_steps=plan.max_steps,
            **_watching(steps, plan, solver),
        )
        rows = _finite_rows(answer, solver.name, len(wanted), host.size)
        states = {problem.t0: problem.y0}
        states |= {t: host.tensor(row) for t, row in zip(wanted, rows, strict=False)}
        found = Outcome(*list(states.items())[-1], status=answer.status)
        said = answer.message.rstrip(".")
        found.message = f" {solver.name} says: {said}." if said else ""
        found.accepted, found.rejected = answer.steps, answer.rejected
        found.pieces, found.ends = steps.pieces, steps.ends
        if answer.status is Status.SUCCESS and len(rows) < len(wanted):
            found.status = Status.NON_FINITE  # and it took that for a success
        elif answer.status is not Status.SUCCESS and answer.t_end is not None:
            found.t_end, found.y = answer.t_end, host.tensor(answer.y_end)
        if found.status is Status.NON_FINITE:
            found.failed_samples = host.failed_samples()
        _save(found, problem, plan, states | steps.states)
    return found


def _watching(steps: _Steps, plan: Plan, solver: Boxed) -> dict[str, Any]:
    """What else to hand to a black box that shows its steps.

    Raises:
        InputError: if it does not, and they are wanted.
    """
    if getattr(solver.box, "watches", False):
        return {"watch": steps.taken}
    if plan.save.steps or plan.save.dense:
        raise InputError(
            "save",
            f"SaveAt(steps={plan.save.steps}, dense={plan.save.dense}) with {solver.name}",
            "output times, SaveAt(ts=...): this black box does not show its steps",
        )
    return {}


def _save(found: Outcome, problem: Problem, plan: Plan, states: dict[float, Tensor]) -> None:
    """Lay out what is to be kept, in the order of time."""
    save = plan.save
    times = [problem.t0] * int(save.t0) + [t for t in plan.ts if t in states]
    if save.steps:  # a step that ends at an output time is one row, not two
        times += states.keys() - {problem.t0, *plan.ts}
    elif save.keeps_t1 and problem.t1 in states:
        times.append(problem.t1)
    found.times = sorted(times, key=lambda t: problem.direction * t)
    rows = [states[t] for t in found.times]
    if plan.reduce is None:
        found.rows = [torch.stack(rows)] if rows else []
    else:
        found.reduced = list(map(plan.reduce, found.times, rows))


class _Host:
    """The way between packed tensors and NumPy vectors in float64."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._packing = problem.field.packing
        self._like = problem.y0.detach()
        self._low, self._high = sorted((problem.t0, problem.t1))
        self._bad: Tensor | None = None

    @property
    def size(self) -> int:
        """Elements of the NumPy vector."""
        return self._like.numel() * (2 if self._like.is_complex() else 1)

    def array(self, vector: Tensor) -> Any:
        """A new NumPy vector, shape (size,)."""
        real = torch.view_as_real(vector.resolve_conj()) if vector.is_complex() else vector
        return real.detach().cpu().to(torch.float64, copy=True).reshape(-1).numpy()

    def tensor(self, array: Any) -> Tensor:
        """A new packed tensor of the state's dtype; rows stay rows."""
        vector = torch.from_numpy(array.copy())
        if self._like.is_complex():
            vector = torch.view_as_complex(vector.view(*vector.shape[:-1], -1, 2))
        return vector.to(self._like.dtype).to(self._like.device)

    def field(self, t: float, y: Any) -> Any:
        """The field over NumPy; the time is kept from leaving the span by a rounding error."""
        t = min(max(t, self._low), self._high)
        state = self.tensor(y)
        slope = self._problem.field(state.real.new_tensor(t), state)
        array = self.array(slope)
        # A state that is not finite is the library's doing: a Jacobian may mix up all samples.
        if not math.isfinite(abs(array).max()) and bool(state.isfinite().all()):
            self._bad = slope.detach().clone()
        return array

    def tolerance(self, atol: float | Tensor) -> Any:
        """An absolute tolerance as the black box takes it, not below the least."""
        if not isinstance(atol, Tensor):
            return max(atol, _FLOOR)
        vector = atol.double().clamp(min=_FLOOR)
        return self.array(vector.repeat_interleave(2) if self._like.is_complex() else vector)

    def failed_samples(self) -> tuple[int, ...]:
        """Samples in which the field was not finite, at the last finite state where it was not."""
        if self._bad is None or self._packing.batch is None:
            return ()
        bad: set[int] = set()
        for leaf in self._packing.per_sample(self._bad):
            bad.update((~leaf.isfinite().all(dim=1)).nonzero().flatten().tolist())
        return tuple(sorted(bad))


class _Steps:
    """What is kept of the steps that a black box shows."""

    def __init__(self, plan: Plan, host: _Host) -> None:
        self._plan, self._host = plan, host
        self.states: dict[float, Tensor] = {}
        self.pieces: list[DensePiece] = []
        self.ends: list[float] = []

    def taken(
        self,
        t: float,
        t_next: float,
        y_next: Any,
        at: Callable[[Sequence[float]], Any],
        degree: int,
    ) -> None:
        """A step was taken; see `Watch`."""
        if self._plan.save.steps:
            self.states[t_next] = self._host.tensor(y_next)
        if self._plan.save.dense:
            self.pieces.append(self._piece(t, t_next, at, degree))
            self.ends.append(t_next)
        if self._plan.on_step is not None:
            self._plan.on_step(t_next)

    def _piece(
        self, t: float, t_next: float, at: Callable[[Sequence[float]], Any], degree: int
    ) -> DensePiece:
        """The interpolant, a polynomial of at most this degree, from its values at some times."""
        nodes, transform, powers = _chebyshev(degree)
        h = t_next - t
        values = torch.from_numpy(at([t + theta * h for theta in nodes.tolist()]))
        # In two products: high Chebyshev coefficients are small, their powers of theta large.
        found = powers @ (transform @ values)
        start, rates = self._host.tensor(found[0].numpy()), found[1:] / h
        weights = torch.eye(degree, dtype=torch.float64)
        return DensePiece(t, t_next, start, self._host.tensor(rates.numpy()), weights)


@cache
def _chebyshev(degree: int) -> tuple[Tensor, Tensor, Tensor]:
    """Polynomials from values: nodes on [0, 1], values to Chebyshev coefficients, those to powers.

    Values at x_k = cos(pi (k + 1/2) / n), n = degree + 1, give the coefficients of T_j as the
    sums of 2/n f(x_k) T_j(x_k), half of that for j = 0; and T_j(2 theta - 1) is a polynomial in
    theta by T_(j+1) = 2 (2 theta - 1) T_j - T_(j-1).
    """
    count = degree + 1
    angles = math.pi * (torch.arange(count, dtype=torch.float64) + 0.5) / count
    transform = 2 / count * torch.cos(torch.arange(count).double()[:, None] * angles)
    transform[0] /= 2
    powers = torch.zeros(count, count, dtype=torch.float64)  # column j: powers of T_j
    powers[0, 0] = 1
    if degree:
        powers[0, 1], powers[1, 1] = -1, 2
    for j in range(2, count):
        powers[1:, j] = 4 * powers[:-1, j - 1]
        powers[:, j] -= 2 * powers[:, j - 1] + powers[:, j - 2]
    return (1 + torch.cos(angles)) / 2, transform, powers


def _number(rtol: float | Tensor, name: str) -> float:
    """The relative tolerance, of which there is one for all elements."""
    if not isinstance(rtol, Tensor):
        return rtol
    least = float(rtol.min())
    if least != float(rtol.max()):
        raise InputError(
            "rtol",
            "different values for the elements of the state",
            f"one number: {name} takes no more",
            "Let `atol` differ instead.",
        )
    return least


def _finite_rows(answer: Answer, name: str, wanted: int, size: int) -> Any:
    """The states of an answer, up to the first that is not finite.

    Raises:
        InputError: if the answer is none.
    """
    shape = tuple(getattr(getattr(answer, "ys", None), "shape", ()))
    failed = getattr(answer, "status", Status.SUCCESS) is not Status.SUCCESS
    count, elements = shape if len(shape) == 2 else (-1, -1)
    if elements != size or not (0 <= count <= wanted if failed else count == wanted):
        raise InputError(
            "solver",
            f"{type(answer).__name__} from {name} with ys of shape {shape}",
            f"an Answer with ys of shape ({wanted}, {size}), or fewer rows and a status",
        )
    finite = torch.from_numpy(answer.ys).isfinite().all(dim=1).tolist()
    return answer.ys[: finite.index(False)] if False in finite else answer.ys
