"""Looking for events along the interpolant of a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from ..events import PackedEvent
from ..solvers.base import DensePiece, Step
from .crossings import NODES, Point, suspects, with_turns
from .roots import root

__all__ = ["Hit", "Reach", "Watch"]

_SLACK = 16
"""Times that differ by fewer units in the last place are one."""

_CLEAR = 8.0
"""A condition that starts at zero up to rounding is clear of it at this multiple."""

_FIRST, _LATEST = 1e-6, 0.02
"""Where in a step to look first for that, and up to where."""


class Hit(NamedTuple):
    """An event that was found.

    Attributes:
        t, event, element: when, and which.
        value: what is left of the condition there.
        at_once: whether it comes before the condition is clear of the zero that it starts from.
        stops, final: whether it ends the loop, and all of the solve.
    """

    t: float
    event: int
    element: int
    value: float = 0.0
    at_once: bool = False
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
        return any(hit.stops for hit in self.hits)

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


class _Start(NamedTuple):
    """Points that stand for the start of an element.

    Its rate told the first one if it is `unclear`: up to rounding it is the zero at the start.
    """

    points: list[Point]
    unclear: bool = False


class Watch:
    """Watches the conditions of a solve's events, step by step.

    Args:
        events: what to look for.
        t, y: where the solve starts.

    Raises:
        InputError: if a condition is NaN.
    """

    def __init__(self, events: Sequence[PackedEvent], t: float, y: Tensor) -> None:
        self.events = events
        with torch.no_grad():
            start = [_condition_at(event, t, y.detach()) for event in events]
        self._tracks = [
            _Track(event, element)
            for event, values in enumerate(start)
            for element in range(len(values))
        ]
        self._last = torch.cat(start)
        _check_numbers(self._last[None], [t], 0.0)
        self._residuals = {
            track: abs(events[track.event].fired[track.element])
            for track in self._tracks
            if track.element in events[track.event].fired
        }
        fired = [track in self._residuals for track in self._tracks]
        self._resting = torch.tensor(fired, dtype=torch.bool) | (self._last == 0)
        self._rounding = 64.0 * math.sqrt(torch.finfo(y.dtype).eps)
        self._counts = [0] * len(events)

    def reach(self, t: float, t_next: float, step: Step) -> Reach:
        """How far an accepted step counts, with the events in it.

        Raises:
            InputError: if a condition is NaN on the way there, or changes its shape.
        """
        # Where a graph is recorded, the states at events go through that of the dense output, and
        # so does a slope that it hands to the next step.
        piece = step.dense()
        with torch.no_grad():
            path = _Path(self.events, t, t_next, piece, step.y1.detach())
            table = torch.cat([self._last[None], path.table(len(self._last))])
            end = table[-1].clone()
            starts = self._starts(path, table) if bool(self._resting.any()) else {}
            for index, start in starts.items():
                table[0, index] = start.points[0][1]
            found: list[Hit] = []
            for index in suspects(table):
                track, first = self._tracks[index], (NODES[0], table[0, index].item())
                start = starts.get(index, _Start([first]))
                after = zip(NODES[1:], table[1:, index].tolist(), strict=True)
                points = with_turns(path.along(track), [start.points[-1], *after])
                found += self._passages(path, track, [*start.points[:-1], *points], start.unclear)
        found.sort(key=lambda hit: abs(hit.t - t))
        reach = Reach(t, t_next, self._up_to_stop(found))
        _check_numbers(table, [path.time(part) for part in NODES], abs(reach.end - t))
        self._last, self._resting = end, end == 0
        self._residuals = {}
        return reach

    def _starts(self, path: _Path, table: Tensor) -> dict[int, _Start]:
        """What stands for the start of elements that are zero there.

        An event that has just taken place left its condition at zero up to rounding, of either
        sign: what counts is the value that is clear of the one at the start. Where that is on
        the other side than the rate of change points to, or does not come soon, the condition
        has passed through zero again in between, or may do so, as with the last bounces of a
        ball that comes to rest.
        """
        found: dict[int, _Start] = {}
        for index in self._resting.nonzero().flatten().tolist():
            track, start = self._tracks[index], abs(self._last[index].item())
            residual = _CLEAR * self._residuals.get(track, 0.0)
            rounding = self._rounding * table[:, index].abs().max().item()
            if start > max(residual, rounding):
                continue  # a handler has moved it away from zero
            at, part = path.along(track), _FIRST
            value = at(part)
            while abs(value) <= _CLEAR * start and part < _LATEST:
                part *= 4.0
                value = at(part)
            rate = path.rate(track)
            if rate != 0.0 and abs(value) <= _CLEAR * start:
                found[index] = _Start([(part, rate * part)], start <= rounding)
            elif rate * value < 0.0:
                found[index] = _Start([(0.0, rate * part), (part, value)], start <= rounding)
            else:
                found[index] = _Start([(part, value)])
        return found

    def _passages(
        self, path: _Path, track: _Track, points: list[Point], unclear: bool
    ) -> list[Hit]:
        """Where one element passes through zero, found to its tolerance.

        The first of the points may be `unclear`: as good as the zero that the element starts from.
        """
        event, at = self.events[track.event], path.along(track)
        tolerance = (event.tolerance or 0.0) / abs(path.h)
        found: list[Hit] = []
        for number, ((a, fa), (b, fb)) in enumerate(pairwise(points)):
            passes = fa < 0.0 < fb or fb < 0.0 < fa or fb == 0.0 != fa
            if passes and event.direction * (fb - fa) >= 0.0:
                part, value = root(at, a, b, fa, fb, tolerance)
                at_once = unclear and number == 0
                found.append(Hit(path.time(part), *track, value, at_once))
        return found

    def _up_to_stop(self, found: list[Hit]) -> tuple[Hit, ...]:
        """The hits up to the first that ends the loop, with all others at that very time."""
        kept: list[Hit] = []
        stop: Hit | None = None
        for hit in found:
            if stop is not None and not self._together(hit, stop):
                break
            event = self.events[hit.event]
            self._counts[hit.event] += 1
            final = self._counts[hit.event] == event.left
            kept.append(hit._replace(stops=event.stops or final, final=final))
            if stop is None and kept[-1].stops:
                stop = hit
        if stop is None:
            return tuple(kept)
        return tuple(hit._replace(t=stop.t) if self._together(hit, stop) else hit for hit in kept)

    def _together(self, one: Hit, other: Hit) -> bool:
        """Whether two events take place at one time, as far as that is known."""
        tolerance = self.events[one.event].tolerance or 0.0
        return abs(one.t - other.t) <= max(tolerance, _SLACK * math.ulp(other.t))


class _Path:
    """The conditions along one step, in parts of it from 0 to 1."""

    def __init__(
        self, events: Sequence[PackedEvent], t: float, t_next: float, piece: DensePiece, end: Tensor
    ) -> None:
        self.t, self.t_next, self.h = t, t_next, t_next - t
        self._events, self._piece, self._end = events, piece, end

    def time(self, part: float) -> float:
        return self.t_next if part == 1.0 else self.t + part * self.h

    def table(self, count: int) -> Tensor:
        """All conditions, one after another, at all nodes but the first: (nodes - 1, count)."""
        times = [self.time(part) for part in NODES[1:]]
        inner = self._piece.at(torch.tensor(times[:-1], dtype=torch.float64))
        states = [*inner.detach(), self._end]
        rows = [
            torch.cat([_condition_at(event, t, y) for event in self._events])
            for t, y in zip(times, states, strict=True)
        ]
        for row in rows:
            if len(row) != count:
                given = f"{len(row)} elements where there were {count}"
                raise InputError("event.condition", given, "the same shape at all times")
        return torch.stack(rows)

    def along(self, track: _Track) -> Callable[[float], float]:
        """One element of one condition as a function of the part of the step."""
        event = self._events[track.event]
        return lambda part: _condition_at(event, *self._state(part))[track.element].item()

    def rate(self, track: _Track) -> float:
        """Change of an element per step at its start; 0 if it is none, or cannot be had."""
        piece, event = self._piece, self._events[track.event]
        powers = (-piece.centre) ** torch.arange(piece.weights.shape[1], dtype=torch.float64)
        start = piece.y.detach()
        slope = (piece.weights @ powers).to(start.device, start.dtype) @ piece.slopes
        with torch.enable_grad():
            leaves = [start.real.new_tensor(self.t).requires_grad_(), start.requires_grad_()]
            value = event.condition(*leaves)[track.element]
        if not value.requires_grad:
            return 0.0
        by_time, by_state = torch.autograd.grad(value, leaves, materialize_grads=True)
        parts = torch.cat([by_time.reshape(1), (by_state.conj() * slope).real])
        rate, rounding = parts.sum(), 64.0 * torch.finfo(start.dtype).eps * parts.abs().sum()
        return self.h * rate.item() if rate.abs() > rounding else 0.0

    def _state(self, part: float) -> tuple[float, Tensor]:
        t = self.time(part)
        if part == 1.0:
            return t, self._end
        return t, self._piece.at(torch.tensor([t], dtype=torch.float64))[0].detach()


def _condition_at(event: PackedEvent, t: float, y: Tensor) -> Tensor:
    """An event's condition at a packed state, shape (elements,), float64 on the host."""
    return event.condition(y.real.new_tensor(t), y).to("cpu", torch.float64)


def _check_numbers(table: Tensor, times: Sequence[float], reach: float) -> None:
    """Raise if a row of `table`, one a time, is NaN within `reach` of the first time."""
    if not math.isnan(table.sum().item()):
        return
    for t, nan in zip(times, table.isnan().any(1).tolist(), strict=True):
        if nan and abs(t - times[0]) <= reach:
            raise InputError(
                "event.condition",
                f"NaN at t = {t:.9g}",
                "a number wherever a step ends, also beyond the event",
                "A root or a logarithm can be written without: `y - 0.01` for `sqrt(y) - 0.1`.",
            )
