"""Steps of explicit Runge-Kutta methods where each lane has a time and a length of its own.

The sums over stages are the same as in `explicit`, one matrix-vector product for all lanes, since
what is summed are slopes that were multiplied by their lane's length as they came. No operation
here mixes lanes or depends on their number or order: a lane's bits do not depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .explicit import coefficients, hairers_two
from .lane_slopes import Scratch, Slopes, Stacked
from .tableau import CENTRE, Tableau

__all__ = [
    "ExplicitLaneStep",
    "ExplicitLanes",
    "LaneExtension",
    "LaneQuadrature",
    "LaneSlope",
    "LaneStep",
    "LaneStepper",
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
        """What the lanes go on from, of which the states at the ends are the first columns."""

    @property
    def errors(self) -> tuple[Tensor, ...]:
        """Local error estimates of the states, shape (lanes, width); none for methods without one.

        They carry no graph.
        """

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


class LaneQuadrature(NamedTuple):
    """The stages of a step of each lane, as q nodes of the quadrature that the method is.

    What is integrated along the steps and feeds back into nothing, the method finds as the sum of
    weights times integrands at these nodes.

    Attributes:
        times: as the field is given them, shape (q, lanes).
        states: shape (q, lanes, width).
        weights: the method's, none of which is zero, times the lengths of steps; like `times`.
    """

    times: Tensor
    states: Tensor
    weights: Tensor


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
            y: what the lanes carry at t: the states, and whatever the method takes along beside
                them; shape (lanes, width) for methods that take nothing.
            first: what the step before handed on as `last`, if it did.
            estimate: whether errors are wanted; without, stages that serve them alone are left out.
        """


class ExplicitLanes:
    """Takes steps of one table for many lanes at once; see `LaneMethod`.

    Args:
        tableau: the method.
        dtype, device: of the states.
    """

    copies = 1

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
        self._scratch: Scratch | None = None

    @property
    def degree(self) -> int:
        """Of the polynomial that the interpolant of a step is."""
        return int(self.table.weights.shape[1])

    @property
    def hands_on(self) -> bool:
        """Whether a step finds the slope that the next one starts with."""
        return any(self.table.at_end[: self.tableau.stages])

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
        start = y.reshape(-1)  # and `view_as` back: a view to a torch.Size takes thrice as long
        y1: Tensor | None = None
        last: Tensor | None = None
        for i in range(1, main):
            stage = torch.addmv(start, slopes.columns(i), self.rows[i]).view_as(y)
            slope = field(times(i), stage)
            slopes.push(slope, h)
            if table.at_end[i]:
                y1, last = stage, slopes.lasting(slope)
        if y1 is None:
            weights = self.rows[table.solution]
            y1 = torch.addmv(start, slopes.columns(table.needed), weights).view_as(y)
        errors: tuple[Tensor, ...] = ()
        if estimate and self.tableau.adaptive:
            columns = slopes.columns(main).detach()
            errors = tuple(torch.mv(columns, self.rows[row]).view_as(y) for row in table.errors)
        return ExplicitLaneStep(y1, errors, first, last, self, field, t, t_next, y, slopes)

    def _room(self, y: Tensor) -> Slopes:
        if torch.is_grad_enabled():
            return Stacked()
        if self._scratch is None or not self._scratch.fits(y):
            self._scratch = Scratch(self.table, y)
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
class ExplicitLaneStep:
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
    slopes: Slopes

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
        return LaneExtension(t, t_next, y0, known, table.weights)

    def quadrature(self) -> LaneQuadrature:
        """The stages that have a part in `y1`. To be asked before the next step."""
        stepper, start, shape = self.stepper, self.y0.reshape(-1), self.y0.shape
        lengths = self.t_next - self.t
        times = stepper._times(self.t, self.t_next, lengths)
        states = [self.y0]
        for i in range(1, stepper.table.needed):
            columns = self.slopes.columns(i)
            states.append(torch.addmv(start, columns, stepper.rows[i]).view(shape))
        weights = [float(b) for b in stepper.tableau.b[: stepper.table.needed]]
        nodes = [i for i, weight in enumerate(weights) if weight]
        h = lengths.to(stepper.time_dtype)
        return LaneQuadrature(
            torch.stack([times(i) for i in nodes]),
            torch.stack([states[i] for i in nodes]),
            torch.stack([h * weights[i] for i in nodes]),
        )


@dataclass(slots=True)
class LaneExtension:
    """Continuous extensions of the steps of some lanes.

    Attributes:
        t, t_next: ends of the steps, shape (lanes,).
        y0: states at t, shape (lanes, width).
        slopes: one tensor a stage, like y0: the stage's slope times the length of its lane's step.
        weights: coefficients of the interpolant about `CENTRE`, (stages, degree), float64.
    """

    t: Tensor
    t_next: Tensor
    y0: Tensor
    slopes: list[Tensor]
    weights: Tensor

    def of(self, lanes: Tensor) -> LaneExtension:
        """Those of some of the lanes; one may be there more than once."""
        t, t_next = self.t.index_select(0, lanes), self.t_next.index_select(0, lanes)
        slopes = [slope.index_select(0, lanes) for slope in self.slopes]
        return LaneExtension(t, t_next, self.y0.index_select(0, lanes), slopes, self.weights)

    def detached(self) -> LaneExtension:
        """The same without a graph."""
        slopes = [slope.detach() for slope in self.slopes]
        t, t_next, y0 = self.t.detach(), self.t_next.detach(), self.y0.detach()
        return LaneExtension(t, t_next, y0, slopes, self.weights)

    def at(self, places: Tensor, times: Tensor) -> Tensor:
        """States at `times`, shape (m,), of the lanes at `places`, shape (m,)."""
        start = self.t.index_select(0, places)
        theta = (times - start) / (self.t_next.index_select(0, places) - start)
        # Horner's rule and a chain of sums: a matrix product's rounding may depend on its shape.
        weights = self.weights.to(theta.device).unsqueeze(-1)
        basis = weights[:, -1] * torch.ones_like(theta)
        for power in range(weights.shape[1] - 2, -1, -1):
            basis = weights[:, power] + basis * (theta - float(CENTRE))
        basis = (basis * theta).to(self.y0.dtype).unsqueeze(-1)
        found = self.y0.index_select(0, places)
        for slope, weight in zip(self.slopes, basis, strict=True):
            found = torch.addcmul(found, slope.index_select(0, places), weight)
        return found
