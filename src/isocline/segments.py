"""A solve with events: solved in segments, from one that interrupts it to the next.

The time loop finds events and knows nothing of gradients; here their times and states get theirs.
At an event g(t, y(t)) = 0, so by the implicit function theorem its time moves by

    dt = -(dg/dy dy + dg/dp dp) / (dg/dt + dg/dy f),

where p is what the condition itself uses, and its state by dy + f dt (Chen, Amos and Nickel 2021,
"Learning Neural Event Functions for Ordinary Differential Equations", section 3). A handler's new
state and the event's time are the start of the next segment, so gradients go through them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .adjoints.base import Trajectory, once, pulled_back
from .errors import GradientError, InputError
from .events import Event, Occurrence, PackedEvent, check_values
from .integrate import Hit, Outcome
from .problem import PackedField, Plan, Problem, TimeTensors
from .solution import Status

__all__ = ["solve_in_segments"]

Run = Callable[[Problem, Plan], Trajectory]

_STALLED, _ULPS = 3, 256
"""So many segments on end lead nowhere, if each is shorter than so many units in the last place,
or ends before its event's condition is clear of the zero that it starts from.
"""


def solve_in_segments(
    problem: Problem, plan: Plan, events: Sequence[Event], run: Run
) -> tuple[Trajectory, tuple[Occurrence, ...]]:
    """Solve with events.

    Args:
        problem, plan: what and how; the plan names no events yet.
        events: what to look for, and what to do there.
        run: solves one segment.

    Returns:
        The segments' answers joined into one, and the events that took place.
    """
    segments = _Segments(problem.field, events, plan.max_steps)
    segments.solve(problem, plan, run)
    return segments.joined(), tuple(segments.occurrences)


class _Segments:
    """The segments of one solve, and how many occurrences of each event are left."""

    def __init__(self, field: PackedField, events: Sequence[Event], max_steps: int) -> None:
        self.field, self.events = field, events
        self.left = [event.last for event in events]
        self.attempts_left = max_steps
        self.stalled = 0
        self.found: list[Trajectory] = []
        self.occurrences: list[Occurrence] = []

    def solve(self, problem: Problem, plan: Plan, run: Run) -> None:
        """Segment after segment, until t1 is reached, an event ends the solve, or it fails."""
        fired: list[Hit] = []
        while True:
            packed = tuple(self._packed(index, fired) for index in range(len(self.events)))
            limit = max(1, self.attempts_left)
            found = run(problem, replace(plan, events=packed, max_steps=limit))
            outcome = found.outcome
            self.attempts_left -= outcome.accepted + outcome.rejected
            took_place = [self._occurrence(found, *hit) for hit in outcome.hits]
            self.occurrences += took_place
            hits = [hit for hit, _ in outcome.hits]
            if outcome.status is not Status.EVENT:
                self.found.append(_saved(found, None))
                return
            final = any(hit.final for hit in hits)
            stop = took_place[_stopping(hits)]
            if not final:
                self._judge(problem, outcome)
            keeps_end = plan.save.steps or (plan.save.keeps_t1 and final)
            self.found.append(_saved(found, self.field.packing.pack(stop.y) if keeps_end else None))
            if final or outcome.status is not Status.EVENT:
                return
            fired = [hit for hit in hits if hit.t == outcome.t_end]
            self.left = [
                left and left - sum(hit.event == index for hit in hits)
                for index, left in enumerate(self.left)
            ]
            problem, plan = self._go_on(problem, plan, stop, fired)

    def _judge(self, problem: Problem, outcome: Outcome) -> None:
        """Say so where the solve cannot go on from an event that was not to end it."""
        t, start = outcome.t_end, problem.t0
        moved = abs(t - start) > _ULPS * math.ulp(max(abs(t), abs(start)))
        moved &= not any(hit.at_once for hit, _ in outcome.hits)
        self.stalled = 0 if moved else self.stalled + 1
        if t == problem.t1:
            outcome.status = Status.SUCCESS
        elif self.attempts_left <= 0:
            outcome.status = Status.MAX_STEPS
        elif self.stalled == _STALLED:
            outcome.status = Status.STEP_UNDERFLOW
            outcome.message = (
                " Events follow each other there without end, as the bounces of a ball that comes "
                "to rest: let `terminal` or a condition of its own end the solve before."
            )

    def _packed(self, index: int, fired: Sequence[Hit]) -> PackedEvent:
        event = self.events[index]

        def condition(t: Tensor, y: Tensor) -> Tensor:
            return check_values(event.condition(t, self.field.packing.unpack(y), *self.field.args))

        return PackedEvent(
            condition,
            event.direction,
            event.tolerance,
            stops=event.handler is not None,
            left=self.left[index],
            fired={hit.element: hit.value for hit in fired if hit.event == index},
        )

    def _go_on(
        self, problem: Problem, plan: Plan, last: Occurrence, fired: Sequence[Hit]
    ) -> tuple[Problem, Plan]:
        """What is left to solve, from the state that the handlers make."""
        packing = self.field.packing
        # Copies before and after: a handler may write into what it is given, or return what it
        # will write into the next time.
        t, y = last.t, packing.unpack(packing.pack(last.y).clone())
        for index in sorted({hit.event for hit in fired}):
            handler = self.events[index].handler
            if handler is not None:
                y = handler(t.to(self.field.time_like), y, *self.field.args)
                packing.check_like(y, "event.handler")
        start, sign = float(t.detach()), problem.direction
        y0 = packing.pack(y).clone()
        if not bool(y0.detach().isfinite().all()):
            given = f"output that is NaN or infinite, at t = {start:.9g}"
            raise InputError("event.handler", given, "finite values")
        done = sum(sign * time <= sign * start for time in plan.ts)
        times = problem.times
        if t.requires_grad or times is not None:
            ts = torch.tensor(plan.ts, dtype=torch.float64) if times is None else times.ts
            t1 = torch.tensor(problem.t1, dtype=torch.float64) if times is None else times.t1
            times = TimeTensors(t, t1, ts[done:])
        adaptive = plan.controller.adaptive
        return (
            replace(problem, y0=y0, t0=start, times=times, f0=None),
            replace(
                plan,
                ts=plan.ts[done:],
                save=replace(plan.save, t0=False),
                dt0=None if adaptive else plan.dt0,
            ),
        )

    def _occurrence(self, found: Trajectory, hit: Hit, row: int) -> Occurrence:
        rows = found.rows
        assert rows is not None  # an event has a row
        t, y = torch.tensor(hit.t, dtype=torch.float64), rows[row]
        if torch.is_grad_enabled():
            t, y = self._traced(t, y, hit)
        return Occurrence(hit.event, hit.element, t, self.field.packing.unpack(y))

    def _traced(self, t: Tensor, y: Tensor, hit: Hit) -> tuple[Tensor, Tensor]:
        """Time and packed state of an event, with the gradient of its moving in time."""
        condition = self._packed(hit.event, ()).condition
        time = t.to(y.real)
        value = condition(time, y)[hit.element]
        leaves = [time.detach().requires_grad_(), y.detach().requires_grad_()]
        along = condition(*leaves)[hit.element]
        if not value.requires_grad and (along.requires_grad or not y.requires_grad):
            return t, y  # nothing that asks for a gradient moves the time
        with torch.no_grad():
            slope = self.field(time, y.detach())
        rate = torch.zeros((), dtype=y.real.dtype, device=y.device)
        if along.requires_grad:
            partial, gradient = pulled_back([along], [torch.ones_like(along)], leaves)
            rate = rate if partial is None else rate + partial
            if gradient is not None:
                rate = rate + torch.linalg.vecdot(gradient, slope).real
        cause = value if value.requires_grad else y
        t = _EventTime.apply(t, cause, rate)  # type: ignore[no-untyped-call]
        return t, y + (t - t.detach()).to(y.real) * slope

    def joined(self) -> Trajectory:
        """The answers of all segments as one."""
        outcomes = [found.outcome for found in self.found]
        last = outcomes[-1]
        rows = [found.rows for found in self.found if found.rows is not None and len(found.rows)]
        outcome = Outcome(
            t_end=last.t_end,
            y=last.y,
            h=last.h,
            status=last.status,
            message=last.message,
            failed_samples=last.failed_samples,
            accepted=sum(outcome.accepted for outcome in outcomes),
            rejected=sum(outcome.rejected for outcome in outcomes),
            times=[t for outcome in outcomes for t in outcome.times],
            ends=[t for outcome in outcomes for t in outcome.ends],
        )
        pieces = tuple(piece for found in self.found for piece in found.pieces)
        return Trajectory(outcome, torch.cat(rows) if rows else None, pieces)


def _stopping(hits: Sequence[Hit]) -> int:
    """Which of the events of a segment ended it; the one that ends the solve, if there is one."""
    return min(range(len(hits)), key=lambda i: (not hits[i].final, not hits[i].stops, i))


def _saved(found: Trajectory, end: Tensor | None) -> Trajectory:
    """An answer without the rows that stand for events.

    Args:
        found: the answer of a segment.
        end: the state at the event that ended it, in place of the row that was kept there; its
            gradient counts that the time moves.
    """
    outcome = found.outcome
    if not outcome.hits or found.rows is None:
        return found
    events = {row for _, row in outcome.hits}
    kept = [row for row in range(len(outcome.times)) if row not in events]
    times = [outcome.times[row] for row in kept]
    rows = found.rows[kept]
    if end is not None:
        rows = torch.cat([rows[:-1], end[None]])
    return Trajectory(replace(outcome, times=times, rows=[]), rows, found.pieces)


class _EventTime(torch.autograd.Function):
    """The time of an event, moved by what moves the condition's value there.

    Args:
        cause: that value; or the state, where the condition hides from autograd how it depends
            on that.
        rate: how fast the value changes along the solution.
    """

    @staticmethod
    def forward(ctx: Any, t: Tensor, cause: Tensor, rate: Tensor) -> Tensor:
        ctx.save_for_backward(cause, rate)
        return t.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        cause, rate = ctx.saved_tensors
        if rate == 0:
            raise GradientError(
                "the time of an event has no derivative: as far as autograd can follow it, the "
                "condition does not change along the solution there. Either it touches zero "
                "without passing through it, or it hides what it depends on (`.detach()`, a sign)."
            )
        gradient = -cotangents[0].to(cause) / rate
        return (None, *once([gradient], [cause, rate, *cotangents]), None)
