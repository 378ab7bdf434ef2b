"""Steps of explicit Runge-Kutta methods where each lane has a time and a length of its own.

The sums over stages are the same as in `explicit`, one matrix-vector product for all lanes, since
what is summed are slopes that were multiplied by their lane's length as they came. No operation
here mixes lanes or depends on their number or order: a lane's bits do not depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import InputError
from .base import Solver
from .explicit import Coefficients, ExplicitRungeKutta, coefficients, hairers_two
from .tableau import CENTRE, Tableau

__all__ = [
    "ExplicitLanes",
    "LaneExtension",
    "LaneSlope",
    "LaneStep",
    "LaneStepper",
    "lane_stepper",
]


class LaneSlope(Protocol):
    """The field for the lanes: ((lanes,) times, (lanes, width) states) -> (lanes, width)."""

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt."""

    def of(self, lanes: Tensor) -> LaneSlope:
        """The field for some of the lanes."""


class LaneStep(Protocol):
    """A step of each lane."""

    @property
    def y1(self) -> Tensor:
        """States at the ends, shape (lanes, width)."""

    @property
    def errors(self) -> tuple[Tensor, ...]:
        """Local error estimates, like `y1`; none for methods without one. They carry no graph."""

    @property
    def first(self) -> Tensor:
        """The field at the starts."""

    @property
    def last(self) -> Tensor | None:
        """The field at the ends, where the method finds it."""

    def at(self, owners: Tensor, times: Tensor) -> Tensor:
        """States between the ends, from the method's interpolant. To be asked before the next step.

        Args:
            owners: to which lane each belongs, shape (m,).
            times: float64, shape (m,).

        Returns:
            Shape (m, width).
        """

    def extension(self, lanes: Tensor) -> LaneExtension:
        """The continuous extensions of some lanes, by their positions, shape (lanes,)."""


class LaneStepper(Protocol):
    """Takes steps of many lanes at once. It is pure, as a `Stepper` is."""

    @property
    def combine(self) -> Callable[..., Tensor] | None:
        """The rule that makes one number of the norms of several errors, lane by lane."""

    @property
    def time_dtype(self) -> torch.dtype:
        """Dtype of the times that the field is given."""

    def step(
        self,
        field: LaneSlope,
        t: Tensor,
        t_next: Tensor,
        y: Tensor,
        first: Tensor | None,
        *,
        estimate: bool = True,
    ) -> LaneStep:
        """One step of each lane.

        Args:
            field: for these lanes.
            t, t_next: where the steps begin and end, float64, shape (lanes,).
            y: states at t, shape (lanes, width).
            first: the field at (t, y), if it is known.
            estimate: whether errors are wanted; without, stages that serve them alone are left out.
        """


def lane_stepper(solver: Solver, dtype: torch.dtype, device: torch.device) -> ExplicitLanes:
    """The method, for steps of many lanes.

    Raises:
        InputError: for a method that has no such steps.
    """
    if not isinstance(solver, ExplicitRungeKutta):
        raise InputError(
            "solver",
            f'{getattr(solver, "name", type(solver).__name__)} with stepping="per_sample"',
            "an explicit Runge-Kutta method, such as Tsit5, Dopri5 or Vern7",
            'Other methods step jointly: leave `stepping` at "joint".',
        )
    return ExplicitLanes(solver.tableau, dtype, device)


class ExplicitLanes:
    """Takes steps of one table for many lanes at once.

    Args:
        tableau: the method.
        dtype, device: of the states.
    """

    def __init__(self, tableau: Tableau, dtype: torch.dtype, device: torch.device) -> None:
        self.tableau = tableau
        self.table = coefficients(tableau, dtype, device)
        self.rows = self.table.flat.split_with_sizes(self.table.lengths)
        self.time_dtype = dtype.to_real()
        self.combine: Callable[..., Tensor] | None = None
        if len(tableau.error) > 1:
            self.combine = hairers_two
        inner = sorted({node for node in self.table.nodes if 0.0 < node < 1.0})
        self.inner = {node: place for place, node in enumerate(inner)}
        self.nodes = torch.tensor(inner, dtype=torch.float64, device=device).unsqueeze(1)
        self._scratch: _Scratch | None = None

    def step(
        self,
        field: LaneSlope,
        t: Tensor,
        t_next: Tensor,
        y: Tensor,
        first: Tensor | None,
        *,
        estimate: bool = True,
    ) -> LaneStep:
        """One step of each lane; see `LaneStepper`."""
        table = self.table
        lengths = t_next - t
        h = lengths.to(self.time_dtype).unsqueeze(1)
        times = self._times(t, t_next, lengths)
        slopes = self._room(y)
        main = self.tableau.stages if estimate else table.needed
        if first is None:
            first = slopes.lasting(field(times(0), y))
        slopes.push(first, h)
        start = y.reshape(-1)
        shape = y.shape
        y1: Tensor | None = None
        last: Tensor | None = None
        for i in range(1, main):
            stage = torch.addmv(start, slopes.columns(i), self.rows[i]).view(shape)
            slope = field(times(i), stage)
            slopes.push(slope, h)
            if table.at_end[i]:
                y1, last = stage, slopes.lasting(slope)
        if y1 is None:
            weights = self.rows[table.solution]
            y1 = torch.addmv(start, slopes.columns(table.needed), weights).view(shape)
        errors: tuple[Tensor, ...] = ()
        if estimate and self.tableau.adaptive:
            columns = slopes.columns(main).detach()
            errors = tuple(torch.mv(columns, self.rows[row]).view(shape) for row in table.errors)
        return _ExplicitLaneStep(y1, errors, first, last, self, field, t, t_next, y, slopes)

    def _room(self, y: Tensor) -> _Slopes:
        if torch.is_grad_enabled():
            return _Stacked()
        if self._scratch is None or not self._scratch.fits(y):
            self._scratch = _Scratch(self.table, y)
        self._scratch.begin(y.shape[0])
        return self._scratch

    def _times(self, t: Tensor, t_next: Tensor, lengths: Tensor) -> Callable[[int], Tensor]:
        """The time of each stage, shape (lanes,), by its number."""
        dtype, nodes = self.time_dtype, self.table.nodes
        start, end = t.to(dtype), t_next.to(dtype)
        inner: Sequence[Tensor] = ()
        if self.inner:
            inner = torch.addcmul(t, self.nodes, lengths).to(dtype).unbind()

        def time(stage: int) -> Tensor:
            node = nodes[stage]
            if node == 0.0:
                return start
            # The last stage is at t_next itself: t + h may differ from it in the last place.
            return end if node == 1.0 else inner[self.inner[node]]

        return time


@dataclass(slots=True)
class _ExplicitLaneStep:
    """A step of each lane that can still evaluate the stages which only output needs."""

    y1: Tensor
    errors: tuple[Tensor, ...]
    first: Tensor
    last: Tensor | None
    stepper: ExplicitLanes
    field: LaneSlope
    t: Tensor
    t_next: Tensor
    y0: Tensor
    slopes: _Slopes

    def at(self, owners: Tensor, times: Tensor) -> Tensor:
        """States between the ends, from the method's interpolant."""
        lanes, places = owners.unique(return_inverse=True)
        extension = self.extension(lanes)
        return extension.at(places, times)

    def extension(self, lanes: Tensor) -> LaneExtension:
        """The continuous extensions of some lanes, by their positions, shape (lanes,)."""
        stepper, slopes = self.stepper, self.slopes
        table = stepper.table
        t, t_next = self.t.index_select(0, lanes), self.t_next.index_select(0, lanes)
        y0 = self.y0.index_select(0, lanes)
        known = [slopes.stage(i, self.y0).index_select(0, lanes) for i in range(slopes.count)]
        if len(known) < len(table.rows):
            field_, h = self.field.of(lanes), (t_next - t).to(stepper.time_dtype).unsqueeze(1)
            times = stepper._times(t, t_next, t_next - t)
            for i in range(len(known), len(table.rows)):
                if table.at_end[i]:
                    stage = self.y1.index_select(0, lanes)
                else:
                    columns = torch.stack(known).view(i, -1).t()
                    stage = torch.addmv(y0.reshape(-1), columns, stepper.rows[i]).view_as(y0)
                known.append(field_(times(i), stage) * h)
        return LaneExtension(t, t_next, y0, known, table)


@dataclass(slots=True)
class LaneExtension:
    """Continuous extensions of the steps of some lanes.

    Attributes:
        t, t_next: ends of the steps, shape (lanes,).
        y0: states at t, shape (lanes, width).
        slopes: one tensor a stage, like y0: the stage's slope times the length of its lane's step.
        table: has the interpolant.
    """

    t: Tensor
    t_next: Tensor
    y0: Tensor
    slopes: list[Tensor]
    table: Coefficients

    def of(self, lanes: Tensor) -> LaneExtension:
        """Those of some of the lanes; one may be there more than once."""
        t, t_next = self.t.index_select(0, lanes), self.t_next.index_select(0, lanes)
        slopes = [slope.index_select(0, lanes) for slope in self.slopes]
        return LaneExtension(t, t_next, self.y0.index_select(0, lanes), slopes, self.table)

    def detached(self) -> LaneExtension:
        """The same without a graph."""
        slopes = [slope.detach() for slope in self.slopes]
        t, t_next, y0 = self.t.detach(), self.t_next.detach(), self.y0.detach()
        return LaneExtension(t, t_next, y0, slopes, self.table)

    def at(self, places: Tensor, times: Tensor) -> Tensor:
        """States at `times`, shape (m,), of the lanes at `places`, shape (m,)."""
        start = self.t.index_select(0, places)
        theta = (times - start) / (self.t_next.index_select(0, places) - start)
        # Horner's rule and a chain of sums: a matrix product's rounding may depend on its shape.
        weights = self.table.weights.to(theta.device).unsqueeze(-1)
        basis = weights[:, -1] * torch.ones_like(theta)
        for power in range(weights.shape[1] - 2, -1, -1):
            basis = weights[:, power] + basis * (theta - float(CENTRE))
        basis = (basis * theta).to(self.y0.dtype).unsqueeze(-1)
        found = self.y0.index_select(0, places)
        for slope, weight in zip(self.slopes, basis, strict=True):
            found = torch.addcmul(found, slope.index_select(0, places), weight)
        return found


class _Slopes(Protocol):
    """The stages of a step as they come, each times the length of its lane's step."""

    @property
    def count(self) -> int:
        """How many there are."""

    def push(self, slope: Tensor, h: Tensor) -> None:
        """Add a stage."""

    def columns(self, count: int) -> Tensor:
        """The first stages as columns, shape (lanes * width, count)."""

    def stage(self, number: int, like: Tensor) -> Tensor:
        """One stage, shape (lanes, width)."""

    def lasting(self, slope: Tensor) -> Tensor:
        """A slope safe to keep: a field may write all its answers into one buffer of its own."""


class _Stacked:
    """Stages that carry a graph: stacked for each sum."""

    def __init__(self) -> None:
        self._slopes: list[Tensor] = []

    @property
    def count(self) -> int:
        return len(self._slopes)

    def push(self, slope: Tensor, h: Tensor) -> None:
        self._slopes.append(slope * h)

    def columns(self, count: int) -> Tensor:
        stacked: Tensor = torch.stack(self._slopes[:count])
        return stacked.view(count, -1).t()

    def stage(self, number: int, like: Tensor) -> Tensor:
        return self._slopes[number]

    def lasting(self, slope: Tensor) -> Tensor:
        return slope if slope.requires_grad else slope.clone()


class _Scratch:
    """Stages without a graph, in a buffer that is made once for as many lanes as there are."""

    def __init__(self, table: Coefficients, like: Tensor) -> None:
        self._lanes = self._room = like.shape[0]
        self._width = like.shape[1]
        self._buffer = like.new_zeros(len(table.rows), like.numel())
        self.count = 0
        self._cut()

    def fits(self, y: Tensor) -> bool:
        """Whether there is room for the lanes of `y`."""
        return y.shape[0] <= self._room and y.shape[1] == self._width

    def begin(self, lanes: int) -> None:
        """Ready for a step of so many lanes; overwrites the stages of the step before."""
        self.count = 0
        if lanes != self._lanes:
            self._lanes = lanes
            self._cut()

    def _cut(self) -> None:
        """Views of the part of the buffer that is in use."""
        part = self._buffer[:, : self._lanes * self._width]
        self._slots: list[Tensor] = [row.view(self._lanes, self._width) for row in part]
        self._columns: list[Tensor] = [part[:i].t() for i in range(part.shape[0] + 1)]

    def push(self, slope: Tensor, h: Tensor) -> None:
        torch.mul(slope, h, out=self._slots[self.count])
        self.count += 1

    def columns(self, count: int) -> Tensor:
        return self._columns[count]

    def stage(self, number: int, like: Tensor) -> Tensor:
        return self._slots[number]

    def lasting(self, slope: Tensor) -> Tensor:
        return slope.clone()
