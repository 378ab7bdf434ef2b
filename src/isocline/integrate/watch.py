"""Looking for events along the interpolant of a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..events import PackedEvent
from ..solvers.base import DensePiece, Step
from .roots import dip, root

__all__ = ["Hit", "Reach", "Watch", "condition_at"]

_NODES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where in a step conditions are looked at."""

_FINE = 16
"""Points between two nodes at which the polynomial through the nodes is looked at."""

_NEAR = 0.05
"""A minimum of that polynomial below this part of the largest value is looked at itself."""


_SLACK = 16
"""Times that differ by fewer units in the last place are one."""

_Point = tuple[float, float]
"""A part of a step from 0 to 1, and the value of one element there."""


class Hit(NamedTuple):
    """An event that was found: when, which, and whether it ends the loop, or all of the solve."""

    t: float
    event: int
    element: int
    stops: bool = False
    final: bool = False


class Reach(NamedTuple):
    """What counts of an accepted step: all of it, or its part up to an event that ends the loop.

    Attributes:
        t, t_next: ends of the step.
        hits: events in it, in order; if one of them ends the loop, those at that time are last.
    """

    t: float
    t_next: float
    hits: tuple[Hit, ...] = ()

    @property
    def cut(self) -> bool:
        """Whether an event ends the loop in this step."""
        return bool(self.hits) and self.hits[-1].stops

    @property
    def final(self) -> bool:
        """Whether an event ends the whole solve in this step."""
        return any(hit.final for hit in self.hits)

    @property
    def end(self) -> float:
        """Where what counts of the step ends."""
        return self.hits[-1].t if self.cut else self.t_next


class _Track(NamedTuple):
    """One element of one event's condition."""

    event: int
    element: int


class Watch:
    """Watches the conditions of a solve's events, step by step.

    Args:
        events: what to look for.
        t, y: where the solve starts.
    """

    def __init__(self, events: Sequence[PackedEvent], t: float, y: Tensor) -> None:
        self.events = events
        with torch.no_grad():
            start = [condition_at(event, t, y.detach()) for event in events]
        self._tracks = [
            _Track(event, element)
            for event, values in enumerate(start)
            for element in range(len(values))
        ]
        self._last = torch.cat(start)
        fired = [track.element in events[track.event].fired for track in self._tracks]
        self._resting = torch.tensor(fired, dtype=torch.bool) | (self._last == 0)
        self._counts = [0] * len(events)

    def reach(self, t: float, t_next: float, step: Step) -> Reach:
        """How far an accepted step counts, with the events in it."""
        with torch.no_grad():
            path = _Path(self.events, t, t_next, step)
            table = torch.stack([self._last, *map(path.values, _NODES[1:])])
            end = table[-1]
            starts = self._awake(path) if bool(self._resting.any()) else {}
            for index, (_, value) in starts.items():
                table[0, index] = value
            found: list[Hit] = []
            for index in _suspects(table).nonzero().flatten().tolist():
                track = self._tracks[index]
                points = list(zip(_NODES, table[:, index].tolist(), strict=True))
                points[0] = starts.get(index, points[0])
                found += self._passages(path, track, points)
        self._last, self._resting = end, end == 0
        found.sort(key=lambda hit: abs(hit.t - t))
        return Reach(t, t_next, self._up_to_stop(found))

    def _awake(self, path: _Path) -> dict[int, tuple[float, float]]:
        """Where elements that start at zero are clear of it, and what they are there.

        An event that has just taken place left its condition at zero up to rounding, of either
        sign: what counts is the value that is clear of the one at the start.
        """
        found: dict[int, tuple[float, float]] = {}
        for index in self._resting.nonzero().flatten().tolist():
            at = path.along(self._tracks[index])
            noise, part = 8.0 * abs(self._last[index].item()), 1e-6
            value = at(part)
            while abs(value) <= noise and part < 0.1:
                part *= 4.0
                value = at(part)
            found[index] = (part, value)
        return found

    def _passages(self, path: _Path, track: _Track, points: list[_Point]) -> list[Hit]:
        """Where one element passes through zero, found to its tolerance."""
        event, at = self.events[track.event], path.along(track)
        tolerance = (event.tolerance or 0.0) / abs(path.h)
        points = _with_dips(at, points)
        found: list[Hit] = []
        for (a, fa), (b, fb) in pairwise(points):
            passes = fa * fb < 0.0 or (fb == 0.0 and fa != 0.0)
            if passes and event.direction * (fb - fa) >= 0.0:
                part = root(at, a, b, fa, fb, tolerance)
                found.append(Hit(path.time(part), *track))
        return found

    def _up_to_stop(self, found: list[Hit]) -> tuple[Hit, ...]:
        """The hits up to the first that ends the loop, and all others at that very time."""
        kept: list[Hit] = []
        stop: float | None = None
        for hit in found:
            event = self.events[hit.event]
            slack = max(event.tolerance or 0.0, _SLACK * math.ulp(hit.t))
            if stop is not None and abs(hit.t - stop) > slack:
                break
            self._counts[hit.event] += 1
            final = self._counts[hit.event] == event.left
            stops = event.stops or final
            if stops and stop is None:
                stop = hit.t
            t = hit.t if stop is None else stop
            kept.append(Hit(t, hit.event, hit.element, stops, final))
        return tuple(sorted(kept, key=lambda hit: hit.stops))


class _Path:
    """The conditions along one step, in parts of it from 0 to 1."""

    def __init__(self, events: Sequence[PackedEvent], t: float, t_next: float, step: Step) -> None:
        self.t, self.t_next, self.h = t, t_next, t_next - t
        self._events = events
        self._piece: DensePiece = step.dense()
        self._end = step.y1.detach()

    def time(self, part: float) -> float:
        return self.t_next if part == 1.0 else self.t + part * self.h

    def values(self, part: float) -> Tensor:
        """All conditions, one after another, float64 on the host."""
        t, y = self._state(part)
        return torch.cat([condition_at(event, t, y) for event in self._events])

    def along(self, track: _Track) -> Callable[[float], float]:
        """One element of one condition as a function of the part of the step."""
        event = self._events[track.event]
        return lambda part: condition_at(event, *self._state(part))[track.element].item()

    def _state(self, part: float) -> tuple[float, Tensor]:
        t = self.time(part)
        if part == 1.0:
            return t, self._end
        return t, self._piece.at(torch.tensor([t], dtype=torch.float64))[0].detach()


def condition_at(event: PackedEvent, t: float, y: Tensor) -> Tensor:
    """An event's condition at a packed state, shape (elements,), float64 on the host."""
    return event.condition(y.real.new_tensor(t), y).to("cpu", torch.float64)


def _suspects(table: Tensor) -> Tensor:
    """Which columns of `table`, values at `_NODES`, may pass through zero, shape (elements,)."""
    signs = table.sign()
    change = (signs[1:] != signs[:-1]).any(0)
    fine = _fine(table) * signs[0]
    near = _lows(fine) & (fine[1:-1] < _NEAR * table.abs().amax(0))
    return change | near.any(0)


def _fine(table: Tensor) -> Tensor:
    """The polynomial through values at `_NODES`, at `_FINE` points an interval."""
    return _INTERPOLATION @ table


def _lows(fine: Tensor) -> Tensor:
    """Which inner points along the first axis are local minima."""
    return (fine[1:-1] <= fine[:-2]) & (fine[1:-1] <= fine[2:])


def _with_dips(at: Callable[[float], float], points: list[_Point]) -> list[_Point]:
    """Points with one more for each passage through zero and back between two of them."""
    values = torch.tensor([value for _, value in points], dtype=torch.float64)
    fine = _fine(values)
    found = [points[0]]
    for number, ((a, fa), (b, fb)) in enumerate(pairwise(points)):
        if fa * fb > 0.0:
            sign = math.copysign(1.0, fa)
            first = number * _FINE
            inside = sign * fine[max(first - 1, 0) : first + _FINE + 2]
            offset = first - max(first - 1, 0)
            for low in _lows(inside).nonzero().flatten().tolist():
                best = (first - offset + low + 1) / (_FINE * (len(_NODES) - 1))
                if a < best < b and inside[low + 1] < _NEAR * values.abs().max():
                    part = dip(lambda s, sign=sign: sign * at(s), a, b, best)  # type: ignore[misc]
                    found += [] if part is None else [(part, at(part))]
        found.append((b, fb))
    return found


def _interpolation() -> Tensor:
    """Lagrange's polynomials of `_NODES` at the fine points, shape (points, nodes)."""
    count = _FINE * (len(_NODES) - 1) + 1
    x = torch.linspace(0, 1, count, dtype=torch.float64)[:, None, None]
    nodes = torch.tensor(_NODES, dtype=torch.float64)
    others = torch.stack([nodes[nodes != node] for node in nodes])  # shape (nodes, nodes - 1)
    factors = (x - others) / (nodes[:, None] - others)
    return factors.prod(-1)


_INTERPOLATION = _interpolation()
