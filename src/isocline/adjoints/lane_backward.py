"""The way back of Backsolve over samples' solves that events divide into parts.

All samples go back over their last parts at once, each at its own pace; then through the events
before those, and so on to t0. Without a handler there is one part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..capture import Guard
from ..integrate import Hits
from ..samples import SampleField, SamplePlan, SampleProblem
from .augmented import ReverseNorm
from .base import ParameterGradients
from .lane_anchors import LaneAnchors, Rows
from .lane_jumps import Crossing
from .lane_parts import Parts
from .lane_reverse import LaneReverse

__all__ = ["BackByParts", "along"]


def along(field: SampleField, rows: Rows) -> Tensor:
    """The rates at which a loss with these cotangents changes along the flow, shape (rows,)."""
    rates = torch.zeros_like(rows.clocks)
    wanted = rows.wanted.nonzero().squeeze(1)
    if not wanted.shape[0]:
        return rates
    samples, clocks, states, cotangents = (part.index_select(0, wanted) for part in rows)
    slopes = field.at(samples)(clocks.to(states.real.dtype), states)
    found: Tensor = torch.linalg.vecdot(slopes, cotangents).real
    return rates.index_copy(0, wanted, found.double())


class BackByParts:
    """Back over the parts of all samples' solves, each sample's last one first.

    Args:
        problem, plan: what was solved forward, and how.
        reverse: the plan of the reverse solve.
        parts: of the forward solve.
        tensors: all that field and events depend on, and those of them that want a gradient.
        norm: of the errors; None for the plan's.

    Attributes:
        totals: gradients of the captured tensors.
    """

    def __init__(
        self,
        problem: SampleProblem,
        plan: SamplePlan,
        reverse: SamplePlan,
        parts: Parts,
        tensors: tuple[Sequence[Tensor], Sequence[Tensor]],
        *,
        norm: ReverseNorm | None,
    ) -> None:
        self.problem, self.plan, self.reverse = problem, plan, reverse
        self.parts, self.tensors, self.norm = parts, tensors, norm
        self.guard = Guard(tensors[0])
        self.totals = ParameterGradients(len(tensors[0]))
        self.worst: LaneReverse | None = None  # of the parts, that in which a state drifted most

    def run(
        self, rows: Rows, parts: Tensor, states: Tensor, cotangents: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Adjoints of all samples at t0, shape (batch, width).

        Args:
            rows: known states, with what a loss depends on at fixed times.
            parts: to which part each of them belongs, shape (rows,).
            states: of the events, before handlers, shape (events, width).
            cotangents: of the events' times and states.
        """
        self.states, self.cotangents = states, cotangents
        problem, last = self.problem, self.parts.last
        met, belongs = self._met()
        rows, parts = rows.joined(met), torch.cat([parts, belongs])
        ends, _ = self.parts.table()
        adjoint = torch.zeros_like(problem.y0)
        for count in range(ends.shape[1] + 1):
            part = last - count
            begun, crossed = problem, None
            behind = (part > 0).nonzero().squeeze(1)
            if len(behind):  # these begin where an event left them
                numbers = ends[behind, part[behind] - 1]
                crossed = self._crossing(numbers)
                t0 = problem.t0.index_copy(0, behind, crossed.times)
                begun = replace(problem, y0=problem.y0.index_copy(0, behind, crossed.after), t0=t0)
            own = parts == part.index_select(0, rows.samples)
            found = self._over(begun, rows.only(own))
            adjoint = torch.where((part == 0).unsqueeze(1), found, adjoint)
            if crossed is not None:
                jumped = self._through(crossed, numbers, found.index_select(0, behind))
                rows, parts = rows.joined(jumped), torch.cat([parts, part[behind] - 1])
        if self.worst is not None:
            self.worst.warn()
        return adjoint

    def _over(self, problem: SampleProblem, rows: Rows) -> Tensor:
        """Adjoints of all samples at the start of a part, shape (batch, width)."""
        adjoint = torch.zeros_like(problem.y0)
        anchors = LaneAnchors(rows, problem.t0)
        if len(anchors.working):
            reverse = LaneReverse(problem, self.reverse, anchors, self.tensors, norm=self.norm)
            adjoint, found = reverse.run()
            self.totals.add(found)
            if self.worst is None or reverse.drift.farthest > self.worst.drift.farthest:
                self.worst = reverse
        at_start = rows.clocks == problem.t0.index_select(0, rows.samples)
        return adjoint.index_add(0, rows.samples[at_start], rows.cotangents[at_start])

    def _crossing(self, numbers: Tensor) -> Crossing:
        """The events of these numbers."""
        hits = Hits(*(part.index_select(0, numbers) for part in self.parts.hits))
        states = self.states.index_select(0, numbers)
        return Crossing(self.problem.field, self.plan.events, hits, states)

    def _met(self) -> tuple[Rows, Tensor]:
        """What the events that make no state jump are worth, as rows, and to which parts."""
        of_times, of_states = self.cotangents
        asked = of_times.ne(0) | of_states.ne(0).any(1)
        numbers = (asked & ~self.parts.jumps).nonzero().squeeze(1)
        if not len(numbers):
            none = self.problem.y0[:0]
            return Rows(numbers, of_times[:0], none, none), numbers
        return self._back(self._crossing(numbers), numbers), self.parts.events[numbers]

    def _through(self, crossed: Crossing, numbers: Tensor, adjoint: Tensor) -> Rows:
        """What events are worth that begin a part, by the adjoints at its start."""
        starts = Rows(crossed.samples, crossed.times, crossed.after, adjoint)
        return self._back(crossed, numbers, adjoint, -along(self.problem.field, starts))

    def _back(
        self,
        crossed: Crossing,
        numbers: Tensor,
        of_after: Tensor | None = None,
        of_begin: Tensor | None = None,
    ) -> Rows:
        """Rows right before events, with what those are worth there.

        Args:
            crossed, numbers: the events.
            of_after, of_begin: cotangents of the states with which parts begin there, and of when.
        """
        of_times, of_states = (part.index_select(0, numbers) for part in self.cotangents)
        if of_begin is not None:
            of_times = of_times + of_begin
        of_after = torch.zeros_like(of_states) if of_after is None else of_after
        captured, wanted = self.tensors
        worth, found = crossed.pulled(of_times, of_states, of_after, captured, self.guard)
        named = set(map(id, wanted))
        pairs = zip(captured, found, strict=True)
        self.totals.add([g if id(tensor) in named else None for tensor, g in pairs])
        return Rows(crossed.samples, crossed.times, self.states.index_select(0, numbers), worth)
