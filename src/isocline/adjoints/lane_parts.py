"""Parts of samples' solves: each from one jump of the state, which a handler makes, to the next.

A reverse solve goes back over a part at a time, for no flow leads from behind a jump to before it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..integrate import Hits, Output, Round, SampleOutcome
from ..samples import SamplePlan, SampleProblem
from ..solvers.lane_methods import LaneMethod
from ..solvers.lanes import LaneStep, LaneStepper
from .lane_states import LaneStates

__all__ = ["LaneParts", "Parts"]


class LaneParts:
    """The recorder of a forward solve with events: notes what belongs to which part.

    Args:
        problem, plan: what is solved, and how.
        states: keeps states besides; None for none.
    """

    def __init__(self, problem: SampleProblem, plan: SamplePlan, states: LaneStates | None) -> None:
        device = problem.y0.device
        jumping = [event.handler is not None for event in plan.events]
        self._jumping = torch.tensor(jumping, device=device)
        self._part = torch.zeros(problem.field.batch, dtype=torch.long, device=device)
        self._states = states
        none = self._part[:0]
        self._rows, self._events, self._at = [none], [none], [(none, none)]
        self._counts = 0, 0  # of rows and of events so far

    def stepper(self, stepper: LaneMethod) -> LaneStepper:
        """The steps as they are."""
        return stepper

    def began(self, initial: Output | None) -> None:
        """Rows that are initial states belong to no part."""

    def left(self, stay: Tensor) -> None:
        """Samples are known by their numbers."""

    def accepted(self, round_: Round, step: LaneStep) -> None:
        """Note of the rows and events of a round to which parts they belong."""
        if self._states is not None:
            self._states.accepted(round_, step)
        output, hits = round_.output, round_.hits
        rows, events = self._counts
        if output is not None:
            self._rows.append(self._part.index_select(0, output.samples))
            self._counts = rows + len(output.samples), events
        if hits is None:
            return
        if output is not None and output.ends.shape[0]:
            place = torch.searchsorted(hits.lanes, output.ends).clamp(max=len(hits.lanes) - 1)
            own = (hits.lanes.index_select(0, place) == output.ends).nonzero().squeeze(1)
            first = rows + len(output.owners)
            self._at.append((first + own, events + place.index_select(0, own)))
        samples = round_.samples.index_select(0, hits.lanes)
        self._events.append(self._part.index_select(0, samples))
        self._counts = self._counts[0], events + len(samples)
        jumps = self._jumping.index_select(0, hits.events) & ~hits.final
        self._part.index_add_(0, samples, jumps.long())

    def found(self, outcome: SampleOutcome) -> Parts:
        """What all rounds came to."""
        hits = Hits(*map(torch.cat, zip(*(hits for _, hits, *_ in outcome.happened), strict=True)))
        samples = torch.cat([samples for samples, *_ in outcome.happened])
        jumps = self._jumping.index_select(0, hits.events) & ~hits.final
        rows, events = map(torch.cat, zip(*self._at, strict=True))
        return Parts(
            last=self._part,
            rows=torch.cat(self._rows),
            events=torch.cat(self._events),
            hits=hits._replace(lanes=samples),
            jumps=jumps,
            rows_at=rows,
            events_at=events,
        )


class Parts(NamedTuple):
    """Parts by their number, from 0, among those of their sample.

    Attributes:
        last: in which part each sample's solve ended, shape (batch,).
        rows: to which each row of output belongs, the initial ones left out, shape (rows,).
        events: which part each event is in, or ends, shape (events,).
        hits: all events, in the order of each sample's time; `lanes` are samples.
        jumps: which of them make the state jump.
        rows_at, events_at: rows that are the states of events, and of which ones.
    """

    last: Tensor
    rows: Tensor
    events: Tensor
    hits: Hits
    jumps: Tensor
    rows_at: Tensor
    events_at: Tensor

    @classmethod
    def whole(cls, problem: SampleProblem, rows: int) -> Parts:
        """Of a solve without events: each sample's is one part."""
        none = torch.empty(0, dtype=torch.long, device=problem.y0.device)
        never = problem.t0[:0]
        hits = Hits(none, never, none, none, none.bool(), never)
        part = none.new_zeros(problem.field.batch)
        return cls(part, none.new_zeros(rows), none, hits, none.bool(), none, none)

    def table(self) -> tuple[Tensor, Tensor]:
        """Of each sample's parts the events that end them, by number, and their clocks.

        Shape (batch, most); filled up with 0 and infinity.
        """
        numbers = self.jumps.nonzero().squeeze(1)
        place = self.hits.lanes[numbers], self.events[numbers]
        most = int(self.last.max()) if len(self.last) else 0
        table = self.last.new_zeros(len(self.last), most)
        clocks = self.hits.times.new_full(table.shape, torch.inf)
        table[place], clocks[place] = numbers, self.hits.times[numbers]
        return table, clocks

    def of(self, samples: Tensor, clocks: Tensor) -> Tensor:
        """To which parts states belong that were met at these clocks, none of them an event's."""
        _, ends = self.table()
        return torch.searchsorted(ends.index_select(0, samples), clocks.unsqueeze(1)).squeeze(1)
