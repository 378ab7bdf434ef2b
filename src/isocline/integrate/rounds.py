"""What one round of per-sample stepping is, and what all of them found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..solution import Status
from ..solvers.lane_methods import LaneMethod
from ..solvers.lanes import LaneExtension, LaneStep, LaneStepper
from .lane_passage import Hits
from .lanes import Lanes
from .ragged import Output

__all__ = ["CODES", "LaneRecorder", "Round", "SampleOutcome", "SkipRecorder", "Spread"]

CODES = list(Status)
"""Statuses by the number that stands for each in tensors."""


class Round(NamedTuple):
    """What counts of one round of steps.

    Attributes:
        samples: of the lanes, shape (lanes,).
        t, t_next: where steps began and ended, shape (lanes,), float64, without a graph.
        y: what lanes carry at t, the states first, shape (lanes, copies * width).
        taken: positions of the lanes whose step counts; None for all.
        output: the rows that it gave, if any.
        hits: events that cut lanes' steps short, at `t_next`.
        moved: which lanes started from an event; None where none did.
    """

    samples: Tensor
    t: Tensor
    t_next: Tensor
    y: Tensor
    taken: Tensor | None
    output: Output | None
    hits: Hits | None = None
    moved: Tensor | None = None


class LaneRecorder(Protocol):
    """What an adjoint remembers of the forward pass."""

    def stepper(self, stepper: LaneMethod) -> LaneStepper:
        """What is to take the steps, in place of `stepper` or that itself."""

    def began(self, initial: Output | None) -> None:
        """Some initial states are rows of output."""

    def accepted(self, round_: Round, step: LaneStep) -> None:
        """Steps were taken."""

    def left(self, stay: Tensor) -> None:
        """Lanes left; these positions stayed."""


@runtime_checkable
class SkipRecorder(LaneRecorder, Protocol):
    """One that also takes rounds of which only their starts and ends are told."""

    def skipped(self, round_: Round, y1: Tensor) -> None:
        """A round without output was taken, after which lanes carry `y1`."""


@dataclass(slots=True)
class SampleOutcome:
    """What the loop found.

    Attributes:
        status: of each sample, by place in `Status`, shape (batch,).
        t_end: clocks reached, shape (batch,).
        accepted, rejected: steps of each sample.
        evaluations: of the field in which each sample took part.
        filled: how many rows of output each sample has.
        nodes: how many rows of each step are nodes of dense output.
        initial: the rows that are initial states.
        outputs: the rows of each round.
        rows: states of those, initial ones included, each of shape (rows, width).
        happened: the events of each round: samples, hits, and their times and states, which may
            carry a graph.
    """

    status: Tensor
    t_end: Tensor
    accepted: Tensor
    rejected: Tensor
    evaluations: Tensor
    filled: Tensor
    nodes: int = 0
    initial: Output | None = None
    outputs: list[Output] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)
    happened: list[tuple[Tensor, Hits, Tensor, Tensor]] = field(default_factory=list)

    @property
    def statuses(self) -> tuple[Status, ...]:
        """The status of each sample."""
        return tuple(CODES[code] for code in self.status.tolist())

    def taken_out(self, y0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The rows, of which the outcome lets go, and times and states of events.

        Args:
            y0: what states are like, shape (batch, width).

        Returns:
            Shapes (rows, width), (events,), (events, width).
        """
        none, never = y0.new_empty(0, y0.shape[1]), y0.new_empty(0, dtype=torch.float64)
        rows, self.rows = torch.cat([none, *self.rows]), []
        times = torch.cat([never, *(times for *_, times, _ in self.happened)])
        return rows, times, torch.cat([none, *(states for *_, states in self.happened)])


@dataclass(slots=True)
class Spread:
    """A step of some lanes in the place of a step of all.

    Attributes:
        inner: the step of those lanes.
        rows: their positions, shape (lanes,).
        y1: what all lanes carry: at the step's ends, and where the others are.
        errors: of those lanes.
        first: the field at the start.
        last: the field at `y1`, if it is known.
    """

    inner: LaneStep
    rows: Tensor
    y1: Tensor
    errors: tuple[Tensor, ...]
    first: Tensor
    last: Tensor | None

    @classmethod
    def over(cls, inner: LaneStep, rows: Tensor, y: Tensor, first: Tensor) -> Spread:
        """The step of the lanes at `rows`, among lanes that stay at `y`; the field is `first`."""
        last = None if inner.last is None else first.index_copy(0, rows, inner.last)
        y1 = y.index_copy(0, rows, inner.y1)
        return cls(inner, rows, y1, inner.errors, first, last)

    @classmethod
    def again(
        cls, step: LaneStep, stepper: LaneStepper, lanes: Lanes, t_next: Tensor, rows: Tensor
    ) -> Spread:
        """A step of all lanes taken again by those at `rows` alone, where others are not finite.

        A graph that holds NaN spoils gradients also where nothing depends on the NaN: 0 * NaN.
        """
        first = None if lanes.first is None else lanes.first.index_select(0, rows)
        inner = stepper.step(
            lanes.field.of(rows),
            lanes.t.index_select(0, rows),
            t_next.index_select(0, rows),
            lanes.y.index_select(0, rows),
            first,
        )
        return cls.over(inner, rows, lanes.y, step.first)

    def at(self, owners: Tensor, times: Tensor) -> Tensor:
        """States between the ends; owners are positions among all lanes."""
        return self.inner.at(self._inside(owners), times)

    def extension(self, lanes: Tensor) -> LaneExtension:
        """The continuous extensions of some lanes."""
        return self.inner.extension(self._inside(lanes))

    def _inside(self, lanes: Tensor) -> Tensor:
        return torch.searchsorted(self.rows, lanes)
