"""Runge-Kutta methods whose coefficients are parameters, trained with all else.

A method made for one family of problems can beat one made for all of them at the same cost: its
coefficients then follow from a loss, say the error of a few long steps. What they start from is any
explicit table. Training keeps the method explicit and consistent (the weights sum to one, each
node is the sum of its row), and nothing else: after it the order is 1, whatever the table's was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from ..state import Packing
from .base import DensePiece, Field, Memory, Step, Time
from .explicit import hairers_two
from .tableau import Number, Tableau, hermite

__all__ = ["TrainableRungeKutta", "TrainableTableau"]

# The cubic through y and y1 with the slopes k_1 and f1, over the rows k_1, f1, sum_j b_j k_j.
_HERMITE = torch.tensor([[1, -2, 1], [0, -1, 1], [0, 3, -2]], dtype=torch.float64)


class TrainableTableau(nn.Module):
    """The coefficients of an explicit Runge-Kutta method of s stages, as parameters.

    A last stage that is f(t1, y1) stays so, and is not counted in s: it serves the error estimate
    alone. The interpolant is the cubic Hermite polynomial, which any weights allow.

    Args:
        tableau: what to start from.

    Attributes:
        a: entries below the diagonal, row by row, shape (s (s - 1) / 2,), float64.
        b: weights, shape (s,), float64, up to a common shift that makes their sum 1.
        b_hat: weights that the solution is compared with, a buffer of shape (estimates, s), or
            (estimates, s + 1) with the last stage; training leaves them as they are.
    """

    a: nn.Parameter
    b: nn.Parameter
    b_hat: Tensor

    def __init__(self, tableau: Tableau) -> None:
        super().__init__()
        self.start = tableau
        self.stages = tableau.stages - int(tableau.fsal)
        entries = [x for row in tableau.a[: self.stages] for x in row]
        self.a = nn.Parameter(_vector(entries))
        self.b = nn.Parameter(_vector(tableau.b[: self.stages]))
        b_hat = [_vector(tableau.b) - _vector(row) for row in tableau.error]
        empty = torch.zeros(0, tableau.stages, dtype=torch.float64)
        self.register_buffer("b_hat", torch.stack(b_hat) if b_hat else empty)

    def forward(self) -> tuple[list[Tensor], Tensor, Tensor]:
        """Rows of a, weights and nodes; row i has i entries, nodes are kept within [0, 1]."""
        rows = list(self.a.split(list(range(self.stages))))
        b = self.b + (1 - self.b.sum()) / self.stages
        # The field may be undefined outside of the step, so no stage looks there.
        nodes = torch.stack([row.sum() for row in rows]).clamp(0, 1)
        return rows, b, nodes

    def to_tableau(self, name: str, order: int = 1) -> Tableau:
        """The coefficients as they are now, as a plain table, whose solver is quicker.

        Args:
            name: of the new table.
            order: what is known of its order; it is not checked.

        Raises:
            ValueError: if a node lies outside of [0, 1].
        """
        with torch.no_grad():
            rows, weights, _ = self()
        a = tuple(tuple(map(Fraction, row.tolist())) for row in rows)
        b = tuple(map(Fraction, weights.tolist()))
        b = (1 - _sum(b[1:]), *b[1:])  # as floats they miss 1 in the last place
        error = tuple(
            tuple(x - y for x, y in zip((*b, Fraction(0)), map(Fraction, row), strict=False))
            for row in self.b_hat.tolist()
        )
        error = tuple((-_sum(row[1:]), *row[1:]) for row in error)
        fsal = self.start.fsal
        end_row, end_node = (b,), (Fraction(1),)
        return Tableau(
            name=name,
            order=order,
            reference=f"trained from {self.start.name}",
            a=a + end_row * fsal,
            b=(*b, Fraction(0)) if fsal else b,
            c=(*map(_sum, a), *end_node * fsal),
            error=error,
            error_order=1 if error else None,
            extra_a=end_row * (not fsal),
            extra_c=end_node * (not fsal),
            interpolant=hermite((*b, 0)),
            dense_order=1,
        )

    def extra_repr(self) -> str:
        """What it started from."""
        return f"{self.start.name}, stages={self.stages}"


def _vector(entries: Sequence[Number]) -> Tensor:
    return torch.tensor([float(x) for x in entries], dtype=torch.float64)


def _sum(row: Sequence[Fraction]) -> Fraction:
    return sum(row, Fraction(0))


@dataclass(frozen=True, slots=True)
class TrainableRungeKutta:
    """The solver of a trainable table; a loss on its solution has gradients for the table.

    Orders are those of the table that training started from.

    Attributes:
        tableau: the coefficients.
    """

    tableau: TrainableTableau

    @property
    def name(self) -> str:
        """Name of the class."""
        return "TrainableRungeKutta"

    @property
    def reference(self) -> str:
        """Where the coefficients come from."""
        return f"trained from {self.tableau.start.name}: {self.tableau.start.reference}"

    @property
    def order(self) -> int:
        """Order of the solution, before training."""
        return self.tableau.start.order

    @property
    def dense_order(self) -> int:
        """q, where the interpolant of one step errs by O(h^(q + 1)), before training."""
        return min(self.order, 3)

    @property
    def error_order(self) -> int:
        """k, where the error estimate of one step is O(h^k), before training; 0 without one."""
        order = self.tableau.start.error_order
        return 0 if order is None else order + 1

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its error."""
        return self.tableau.start.adaptive

    @property
    def evaluations_per_step(self) -> int:
        """Evaluations of the field that an accepted step costs."""
        return self.tableau.stages

    def bind(self, field: Field, packing: Packing) -> TrainableStepper:
        """The method bound to the packed `field`."""
        return TrainableStepper(self.tableau, field, packing)


class TrainableStepper:
    """Takes steps with whatever the parameters are at the time."""

    def __init__(self, tableau: TrainableTableau, field: Field, packing: Packing) -> None:
        self.tableau, self.field, self.packing = tableau, field, packing
        two = len(tableau.b_hat) > 1
        self.combine: Callable[..., Tensor] | None = hairers_two if two else None

    def init(self, t: Time, y: Tensor, f0: Tensor | None = None) -> Memory:
        """The field at (t, y)."""
        return Memory(self.slope(t, y) if f0 is None else f0)

    def step(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """One step from (t, y) to t_next with its error estimate, if the table has one."""
        step = self._advance(t, t_next, y, memory)
        b_hat = self.tableau.b_hat
        if not len(b_hat):
            return step
        slopes = [*step.slopes, step.slope_at_end()] if self.tableau.start.fsal else step.slopes
        with torch.no_grad():
            rows = -b_hat.to(step.h)
            rows[:, : self.tableau.stages] += step.b
            step.errors = tuple(step.h * (torch.stack(slopes).t() @ row) for row in rows)
        return step

    def advance(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """The same `y1`, with no error estimate."""
        return self._advance(t, t_next, y, memory)

    def _advance(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> _Step:
        rows, b, nodes = self.tableau()
        first = None if memory is None else memory.slope
        slopes = [self.slope(t, y) if first is None else first]
        h = torch.as_tensor(t_next - t, dtype=torch.float64)
        times = _within(t, t_next, nodes.to(h.device))
        h = h.to(self.packing.device, self.packing.dtype)
        for row, time in zip(rows[1:], times[1:], strict=True):
            move = torch.stack(slopes).t() @ row.to(h)
            slopes.append(self.slope(time, y + h * move))
        mean = torch.stack(slopes).t() @ b.to(h)
        first_memory = Memory(slopes[0])
        return _Step(
            y + h * mean, (), Memory(), first_memory, self, t, t_next, y, h, b.to(h), slopes, mean
        )

    def slope(self, t: Time, y: Tensor) -> Tensor:
        """The field at (t, y), safe to keep."""
        time = torch.as_tensor(t, dtype=torch.float64)
        slope = self.field(time.to(self.packing.device, self.packing.time_dtype), y)
        return slope if slope.requires_grad else slope.clone()


def _within(t: Time, t_next: Time, nodes: Tensor) -> tuple[Tensor, ...]:
    """Times of the nodes, within the step to the last bit, differentiable in nodes and ends."""
    times = t + nodes * (t_next - t)
    low, high = sorted(end.item() if isinstance(end, Tensor) else end for end in (t, t_next))
    # Rounding may have led them out. Bringing them back is no change of what is differentiated.
    return (times + (times.clamp(low, high) - times).detach()).unbind()


@dataclass(slots=True)
class _Step(Step):
    """A step that can still evaluate the field at its end."""

    stepper: TrainableStepper
    t: Time
    t_next: Time
    y0: Tensor
    h: Tensor
    b: Tensor
    slopes: list[Tensor]
    mean: Tensor

    def slope_at_end(self) -> Tensor:
        """The field at the end, evaluated once; the next step starts with it."""
        slope = self.memory.slope
        if slope is None:
            slope = self.stepper.slope(self.t_next, self.y1)
            self.memory = Memory(slope)
        return slope

    def dense(self) -> DensePiece:
        rows = torch.stack([self.slopes[0], self.slope_at_end(), self.mean])
        return DensePiece(self.t, self.t_next, self.y0, rows, _HERMITE)
