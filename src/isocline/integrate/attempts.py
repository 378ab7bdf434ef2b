"""One try of every lane: how far to go, the steps, and what is to be thought of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..samples import SamplePlan, SampleProblem
from ..solvers.lanes import LaneStep, LaneStepper
from .judging import LaneJudge, Verdict
from .lanes import Lanes, stops_of

__all__ = [
    "CROWD",
    "Attempt",
    "AttemptingLanes",
    "Attempts",
    "Onward",
    "Skipped",
    "SteppedAttempts",
    "next_stops",
]

STRETCH = 1e-5
"""A step is stretched by up to this fraction to end at its target, which spares a sliver."""


class Onward(NamedTuple):
    """Where lanes go on after a round: from their steps' ends, or from where they were.

    Attributes:
        t: shape (lanes,).
        y: what they carry.
        first: the field there; None where it has to be found.
        accepted: in how many of the rounds that may have rejected some each lane's step was taken.
        idle: in how many each was done before.
        still: whether this may be remembered as a round in which the steps that do not count have
            no length, in place of a round of those alone that do.
    """

    t: Tensor
    y: Tensor
    first: Tensor | None
    accepted: Tensor
    idle: Tensor
    still: bool

    def lead(self, lanes: Lanes, h: Tensor) -> None:
        """Let the lanes go on, with steps of these lengths to try next."""
        lanes.t, lanes.y, lanes.first, lanes.h = self.t, self.y, self.first, h
        lanes.accepted, lanes.idle = self.accepted, self.idle


class Attempt(NamedTuple):
    """A round of steps that was tried.

    Attributes:
        step: the steps.
        t_next: where they end; with `onward` it is enough to know this of those that count.
        reaching: whether a lane that is not at rest may end its solve.
        verdict: on the steps.
        onward: where the lanes go on; None where the loop is to find that out.
    """

    step: LaneStep
    t_next: Tensor
    reaching: bool
    verdict: Verdict
    onward: Onward | None = None


class Skipped(NamedTuple):
    """Rounds of which only the lanes had to know.

    Attributes:
        number: how many.
        onward, h: where the lanes go on after them, and how long a step they try next.
        rounds: of each where its steps began and ended, and what lanes carried before it; nothing
            if that was not to be recorded and no lane passed an output time.
        steps: those of rounds in which lanes passed output times, by number.
    """

    number: int
    onward: Onward
    h: Tensor
    rounds: list[tuple[Tensor, Tensor, Tensor]]
    steps: Mapping[int, LaneStep]


class Attempts(Protocol):
    """Tries one round after another of one solve."""

    @property
    def crowd(self) -> int:
        """Lanes at rest are to leave when they are one in so many."""

    def skip(
        self, lanes: Lanes, due: Tensor | None, *, most: int, done: int, record: bool
    ) -> Skipped | None:
        """Take rounds in which no lane is lost, if a way is quick.

        Lanes that are done in one of them try steps of no length in those that follow.

        Args:
            lanes: where they stand.
            due: the next output time of each, if there are any.
            most: number of rounds.
            done: how many lanes may be done after them, with those at rest.
            record: whether it is wanted what they were.
        """

    def attempt(self, lanes: Lanes) -> Attempt:
        """Try one step of every lane."""

    def keep(self, lanes: Tensor) -> None:
        """Only these lanes are left, by their positions."""


@runtime_checkable
class AttemptingLanes(Protocol):
    """A method that tries rounds in a way of its own."""

    def attempts(self, problem: SampleProblem, plan: SamplePlan, critical: float) -> Attempts:
        """For one solve; a step down to the length `critical` is for the loop to judge."""


CROWD = 8
"""Lanes at rest leave when they are one in so many. Their rows cost evaluations; leaving costs a
dozen small copies. See docs/results/per-sample.md for what other numbers cost."""


class SteppedAttempts:
    """Tries rounds operation by operation.

    Args:
        problem, plan: what is solved, and how.
        stepper: takes the steps.
        critical: a length down to which the shortest step is to be known exactly.
    """

    def __init__(
        self, problem: SampleProblem, plan: SamplePlan, stepper: LaneStepper, critical: float
    ) -> None:
        self._stepper, self._bounds = stepper, plan.controller
        self.crowd = CROWD
        self._stops = stops_of(plan.controller.stops, problem)
        self._ends_early = bool(plan.events)
        self._judge = LaneJudge(plan, stepper, problem.y0, critical)

    def keep(self, lanes: Tensor) -> None:
        """Only these lanes are left."""
        self._judge.keep(lanes)

    def skip(self, lanes: Lanes, due: Tensor | None, *, most: int, done: int, record: bool) -> None:
        """Each round goes through the loop."""

    def attempt(self, lanes: Lanes) -> Attempt:
        """Try one step of every lane."""
        h, t_next, reaches = self._next_times(lanes)
        step = self._stepper.step(lanes.field, lanes.t, t_next, lanes.y, lanes.first)
        reaching = int(reaches.count_nonzero()) > lanes.rest
        verdict = self._judge.verdict(step, lanes, h, t_next, reaches if reaching else None)
        return Attempt(step, t_next, reaching, verdict)

    def _next_times(self, lanes: Lanes) -> tuple[Tensor, Tensor, Tensor]:
        """Lengths to try, where the steps end, and which end at their target or are at rest."""
        bounds = self._bounds
        h, t, target = lanes.h, lanes.t.detach(), lanes.t1
        if bounds.min_step > 0.0 or bounds.max_step < math.inf:
            h = h.clamp(bounds.min_step, bounds.max_step)
        if self._stops is not None:
            target = next_stops(self._stops.index_select(0, lanes.samples), t, target)
        t_next = t + h
        reaches = torch.add(t_next, h, alpha=STRETCH) >= target
        t_next = torch.where(reaches, target, t_next)
        if self._ends_early and lanes.awake is not None:
            reaches = reaches | ~lanes.awake  # those that an event ended are not at t1
        return h, t_next, reaches


def next_stops(stops: Tensor, t: Tensor, t1: Tensor) -> Tensor:
    """Where lanes stop next: at the first of their stops after t, (lanes, stops), or at t1."""
    ahead = stops.masked_fill(stops <= t.unsqueeze(1), math.inf).amin(1)
    return torch.where(ahead < t1, ahead, t1)
