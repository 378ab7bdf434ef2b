"""Rounds of steps as an adjoint remembers them, and taken again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..events import Event
from ..integrate import Cut, Hits, Output, passage, started, states_of
from ..samples import SampleField
from ..solvers.lanes import LaneStep, LaneStepper

__all__ = ["TakenRound"]


class TakenRound(NamedTuple):
    """A round of steps without its states.

    Attributes:
        samples: of the lanes, shape (lanes,).
        t, t_next: where steps began and ended, shape (lanes,).
        taken: positions of the lanes whose step counts; None for all.
        output: the rows that it gave, if any.
        first_row, last_row: which of all rows those are.
        hits: events that cut lanes' steps short, if any.
        moved: which lanes started from an event; None where none did.
        first_event: which of all events the first of those is.
    """

    samples: Tensor
    t: Tensor
    t_next: Tensor
    taken: Tensor | None
    output: Output | None
    first_row: int
    last_row: int
    hits: Hits | None = None
    moved: Tensor | None = None
    first_event: int = 0

    @property
    def movers(self) -> Tensor:
        """The samples whose step counts."""
        return self.of_movers(self.samples)

    def of_movers(self, lanes: Tensor) -> Tensor:
        """The entries of those, of what all lanes have."""
        return lanes if self.taken is None else lanes.index_select(0, self.taken)

    @property
    def last_event(self) -> int:
        """Which of all events comes after the last of these."""
        return self.first_event + (0 if self.hits is None else self.hits.lanes.shape[0])

    @property
    def hit(self) -> Tensor:
        """Positions of the lanes with events among the movers."""
        assert self.hits is not None
        lanes = self.hits.lanes
        return lanes if self.taken is None else torch.searchsorted(self.taken, lanes)

    def onward(self, lanes: Tensor, movers: Tensor) -> Tensor:
        """What all lanes have, with the movers' entries replaced."""
        return movers if self.taken is None else lanes.index_copy(0, self.taken, movers)

    def again(
        self,
        stepper: LaneStepper,
        field: SampleField,
        times: tuple[Tensor, Tensor],
        y: Tensor,
        *,
        whole: bool = False,
    ) -> LaneStep:
        """The steps that count, taken again from where the movers were.

        Args:
            stepper, field: the method, and the field of the batch.
            times: ends of the movers' steps, as numbers or with a graph.
            y: what the movers carry, the states first.
            whole: whether the slope at the end is wanted, which errors alone need else.
        """
        # With all lanes of the start the field needs no share of its arguments cut out.
        everyone = self.taken is None and len(self.samples) == field.batch
        lanes = field.at(None if everyone else self.movers)
        return stepper.step(lanes, *times, y, None, estimate=whole)

    def passed(
        self,
        events: Sequence[Event],
        field: SampleField,
        step: LaneStep,
        *,
        higher: bool = False,
    ) -> tuple[LaneStep, Tensor]:
        """Steps taken again, up to their events, and what the movers carry on."""
        hits = self.hits
        if hits is None:
            return step, step.y1
        places = self.hit
        lanes = field.at(self.samples.index_select(0, hits.lanes))
        through = passage(events, lanes, step.extension(places), hits, higher=higher)
        copies = step.y1.shape[1] // field.width
        y1 = step.y1.index_copy(0, places, started(through.states, copies))
        cut = Cut(step, hits, through, y1, None, self.t_next)
        return cut, step.y1.index_copy(0, places, started(through.after, copies))

    def rows(self, step: LaneStep, width: int, times: Tensor | None) -> Tensor | None:
        """The output of steps taken again, with its own times or those given."""
        output, taken = self.output, self.taken
        if output is None:
            return None
        if taken is not None:
            owners, ends = (torch.searchsorted(taken, at) for at in (output.owners, output.ends))
            output = output._replace(owners=owners, ends=ends)
        return states_of(step, output, width, times)
