"""Events of each sample: looked for along the interpolants of a round of steps.

A lane's step counts up to the first event in it. There a handler may change the lane's state; the
lane then goes on from the event's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from ..events import Event
from ..samples import LaneField
from ..solvers.lanes import LaneExtension, LaneStep
from .crossings import NODES, fine
from .lane_passage import Hits, Passage, conditions, passage, rates_along
from .lane_roots import roots
from .lanes import Lanes, started

__all__ = ["Cut", "LaneWatch"]

_PARTS = 64
"""Into how many parts a step is divided in which there may be an event."""

_AFTER = 1e-5
"""A condition that is zero where a step starts is what it is at this part of the step."""

_CLEAR = 8.0
"""A handler has moved a condition away from zero at this multiple of what was left of it."""


@dataclass(slots=True)
class Cut:
    """A round of steps, some of them cut short by events.

    Attributes:
        inner: the steps.
        hits, passage: the events.
        y1: what lanes carry at the ends, or at the events.
        last: the field there; where a lane goes on from an event, at the state after it.
        whole: where the steps end that are cut.
    """

    inner: LaneStep
    hits: Hits
    passage: Passage
    y1: Tensor
    last: Tensor | None
    whole: Tensor

    @property
    def errors(self) -> tuple[Tensor, ...]:
        """Error estimates of the whole steps."""
        return self.inner.errors

    @property
    def first(self) -> Tensor:
        """The field at the starts."""
        return self.inner.first

    def at(self, owners: Tensor, times: Tensor) -> Tensor:
        """States between the ends."""
        return self.inner.at(owners, times)

    def extension(self, lanes: Tensor) -> LaneExtension:
        """The continuous extensions of the whole steps."""
        return self.inner.extension(lanes)

    def onward(self, lanes: Tensor) -> Tensor:
        """States of all lanes with which they go on."""
        after = self.passage.after
        copies = lanes.shape[1] // after.shape[1]
        return lanes.index_copy(0, self.hits.lanes, started(after, copies))


class LaneWatch:
    """Watches the conditions of each lane, round by round.

    Args:
        events: what to look for.
        lanes: at their starts.
        rated: whether first derivatives of the events' times are to be computed later.
    """

    def __init__(self, events: Sequence[Event], lanes: Lanes, *, rated: bool) -> None:
        self.events, self.rated = events, rated
        with torch.no_grad():
            values = conditions(events, lanes.field, lanes.t.detach(), lanes.states.detach())
        device = lanes.t.device
        numbers = [torch.full((v.shape[1],), i) for i, v in enumerate(values)]
        self._event = torch.cat(numbers).to(device)
        self._element = torch.cat([torch.arange(v.shape[1]) for v in values]).to(device)
        directions = torch.tensor([float(event.direction) for event in events])
        self._direction = directions.double().to(device)[self._event]
        lasts = [event.last if event.last else 2**62 for event in events]
        self._lasts = torch.tensor(lasts, device=device)
        self._values = torch.cat(values, 1)
        self._resting = self._values == 0.0
        self._counts = torch.zeros(len(lanes), len(events), dtype=torch.long, device=device)

    def keep(self, stay: Tensor) -> None:
        """Only these lanes are left."""
        self._values = self._values.index_select(0, stay)
        self._resting = self._resting.index_select(0, stay)
        self._counts = self._counts.index_select(0, stay)

    def cut(self, step: LaneStep, lanes: Lanes, t_next: Tensor, taken: Tensor | None) -> Cut | None:
        """The round with its events, or None where there is none.

        Raises:
            InputError: if a condition is NaN.
            GradientError: if a time has no derivative.
        """
        movers = torch.arange(len(lanes), device=lanes.t.device)
        if taken is not None:
            movers = taken.nonzero().squeeze(1)
            if not movers.shape[0]:
                return None
        with torch.no_grad():
            extension = step.extension(movers).detached()
            path = _Paths(self.events, lanes.field.of(movers), extension)
            table = self._table(path, movers)
            found = self._search(path, table, movers)
            self._values = self._values.index_copy(0, movers, table[-1])
            self._resting = self._resting.index_fill(0, movers, False)
        if found is None:
            return None
        return self._settle(step, lanes, t_next, path, movers, found)

    def _table(self, path: _Paths, movers: Tensor) -> Tensor:
        """Conditions of the movers at the nodes, shape (nodes, movers, columns)."""
        start = self._values.index_select(0, movers)
        resting = self._resting.index_select(0, movers)
        if bool(resting.any()):
            start = torch.where(resting, path.grid([_AFTER])[0], start)
        table = torch.cat([start.unsqueeze(0), path.grid(NODES[1:])])
        if bool(table.isnan().any()):
            raise InputError("event.condition", "NaN", "a number wherever a step of a sample ends")
        return table

    def _search(self, path: _Paths, table: Tensor, movers: Tensor) -> _Found | None:
        """The first passage of each mover that has one."""
        smooth = fine(table.flatten(1)).view(-1, *table.shape[1:])
        signs = torch.cat([smooth, table]).sign() * table[0].sign()
        lanes = (signs <= 0).any(0).any(1).nonzero().squeeze(1)
        if not lanes.shape[0]:
            return None
        own = path.of(lanes)
        first = table[:1].index_select(1, lanes)
        values = torch.cat([first, own.grid([i / _PARTS for i in range(1, _PARTS + 1)])])
        before, after = values[:-1], values[1:]
        passes = (before * after < 0) | ((after == 0) & (before != 0))
        passes &= self._direction * (after - before) >= 0
        which, column = passes.any(0).nonzero().unbind(1)
        if not which.shape[0]:
            return None
        part = passes.long().argmax(0)[which, column]
        resting = self._resting[movers[lanes[which]], column] & (part == 0)
        a = torch.where(resting, _AFTER, part.double() / _PARTS)
        b = (part + 1).double() / _PARTS
        fa, fb = values[part, which, column], values[part + 1, which, column]
        single = own.of(which)
        x, left = roots(
            lambda at: single.at(at)[single.rows, column], a, b, fa, fb, self._fine(single, column)
        )
        order = (which.double() + x.clamp(0.0, 1.0) * 0.5).argsort(stable=True)
        which, column, x, left = which[order], column[order], x[order], left[order]
        leads = torch.ones_like(which, dtype=torch.bool)
        leads[1:] = which[1:] != which[:-1]
        return _Found(lanes[which[leads]], column[leads], x[leads], left[leads])

    def _fine(self, path: _Paths, column: Tensor) -> Tensor:
        """To which part of a step each passage is to be found."""
        wanted = torch.tensor([event.tolerance or 0.0 for event in self.events])
        eps = torch.finfo(torch.float64).eps
        least = 2 * eps * torch.maximum(path.extension.t.abs(), path.extension.t_next.abs())
        tolerance = wanted.double().to(least.device)[self._event[column]]
        return torch.maximum(tolerance, least) / (path.extension.t_next - path.extension.t)

    def _settle(
        self,
        step: LaneStep,
        lanes: Lanes,
        t_next: Tensor,
        path: _Paths,
        movers: Tensor,
        found: _Found,
    ) -> Cut:
        """Take the lanes through their events, and note where they stand then."""
        places = movers.index_select(0, found.movers)
        field = lanes.field.of(places)
        events, elements = self._event[found.columns], self._element[found.columns]
        self._counts[places, events] += 1
        final = self._counts[places, events] >= self._lasts[events]
        own = path.of(found.movers)
        times = own.times(found.parts)
        hits = Hits(places, times, events, elements, final, times)
        if self.rated:
            hits = hits._replace(rates=rates_along(self.events, field, own.extension, hits))
        # The interpolant is asked again with the graph of the step, if there is one.
        recording = torch.is_grad_enabled()
        whole = step.extension(places) if recording else own.extension
        through = passage(self.events, field, whole, hits, higher=recording)
        with torch.no_grad():
            now = torch.cat(conditions(self.events, field, times, through.after.detach()), 1)
            rows = torch.arange(len(places), device=places.device)
            there = now[rows, found.columns].abs()
            near = there <= _CLEAR * torch.maximum(found.left.abs(), own.rounding(now, rows, found))
            self._values = self._values.index_copy(0, places, now)
            self._resting[places, found.columns] = near
        copies = lanes.y.shape[1] // lanes.width
        y1 = step.y1.index_copy(0, places, started(through.states, copies))
        last = step.last
        if last is not None:
            slope = field(times.to(y1.real.dtype), through.after)
            last = last.index_copy(0, places, slope)
        return Cut(step, hits, through, y1, last, t_next)


class _Found(NamedTuple):
    """First passages: positions among the movers, columns, parts of the steps, what is left."""

    movers: Tensor
    columns: Tensor
    parts: Tensor
    left: Tensor


class _Paths:
    """Conditions along the steps of some lanes, in parts of each from 0 to 1."""

    def __init__(self, events: Sequence[Event], field: LaneField, extension: LaneExtension) -> None:
        self.events, self.field, self.extension = events, field, extension
        self.rows = torch.arange(field.count, device=extension.t.device)

    def of(self, lanes: Tensor) -> _Paths:
        """Those of some of the lanes; one may be there more than once."""
        return _Paths(self.events, self.field.of(lanes), self.extension.of(lanes))

    def times(self, parts: Tensor) -> Tensor:
        """Clocks at parts of the steps."""
        t, t_next = self.extension.t, self.extension.t_next
        return torch.where(parts == 1.0, t_next, t + parts * (t_next - t))

    def at(self, parts: Tensor) -> Tensor:
        """All conditions at a part of each step, shape (lanes, columns)."""
        times = self.times(parts)
        states = self.extension.at(self.rows, times)
        return torch.cat(conditions(self.events, self.field, times, states), 1)

    def grid(self, parts: Sequence[float]) -> Tensor:
        """The same at some parts of all steps, shape (parts, lanes, columns)."""
        count, device = len(parts), self.rows.device
        at = torch.tensor(parts, dtype=torch.float64, device=device)
        many = self.of(self.rows.repeat(count)) if count > 1 else self
        values = many.at(at.repeat_interleave(len(self.rows)))
        return values.view(count, len(self.rows), -1)

    def rounding(self, now: Tensor, rows: Tensor, found: _Found) -> Tensor:
        """How far from zero rounding may leave a condition, by its size over the step."""
        size = self.grid([0.0, 1.0]).abs().amax(0)
        eps = torch.finfo(self.extension.y0.dtype).eps
        largest: Tensor = size[rows, found.columns]
        return 8.0 * eps * largest
