"""Where rounds of reversible steps started, found by taking the steps back.

A step that an event cuts short is taken back from where the whole step ended, behind the event.
That cannot be found from what the lane goes on with, so it is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..integrate import LaneTolerance, Round, started
from ..samples import SamplePlan, SampleProblem
from ..solvers.coupled_lanes import CoupledLanes
from .drift import warn_of_miss
from .lane_rounds import TakenRound
from .lane_starts import Advance

__all__ = ["SteppedBackLanes"]


class _Known(NamedTuple):
    """What some samples carried where a step of theirs started or ended.

    Attributes:
        samples: their numbers, shape (n,).
        clocks: when, shape (n,).
        carried: shape (n, copies * width).
    """

    samples: Tensor
    clocks: Tensor
    carried: Tensor

    def of(self, places: Tensor) -> _Known:
        """The entries at these places."""
        return _Known(*(part.index_select(0, places) for part in self))


class SteppedBackLanes:
    """Keeps of each sample the start and where its last step ended; a source of `LaneStarts`.

    Of each event it keeps where the step ended that was cut, and what the sample went on with.
    Samples are known by their numbers, so that it does not matter which lanes have left: a sample
    stays at its end until the walk back comes to the last round in which it took a step.

    Args:
        problem: without a graph.
        plan: its tolerance is what each start is to be met to.
        method: takes steps back.
    """

    def __init__(self, problem: SampleProblem, plan: SamplePlan, method: CoupledLanes) -> None:
        self._problem, self._plan, self._method = problem, plan, method
        everyone = torch.arange(len(problem.y0), device=problem.y0.device)
        start = started(problem.y0.detach(), method.copies)
        self._start = _Known(everyone, problem.t0, start)
        self._ends = start.clone()
        # By the number of the round: ends of steps that events cut, and starts of those after.
        self._cut: dict[int, _Known] = {}
        self._onward: dict[int, _Known] = {}
        self._rounds = 0

    def accepted(self, round_: Round, y1: Tensor) -> None:
        """Remember where the steps that count ended, and what going back does not find."""
        taken, hits, moved = round_.taken, round_.hits, round_.moved
        ends = _Known(round_.samples, round_.t_next, y1)
        if hits is not None:
            self._cut[self._rounds] = ends.of(hits.lanes)
        if moved is not None:
            if taken is not None:  # lanes that try again have that step yet to take
                moved = moved & torch.zeros_like(moved).index_fill(0, taken, True)
            starts = _Known(round_.samples, round_.t, round_.y)
            self._onward[self._rounds] = starts.of(moved.nonzero().squeeze(1))
        if taken is not None:
            ends = ends.of(taken)
        self._ends.index_copy_(0, ends.samples, ends.carried)
        self._rounds += 1

    def restart(self, first: Tensor) -> None:
        """Nothing is kept that could be let go of."""

    def backwards(self, rounds: Sequence[TakenRound], advance: Advance) -> Iterator[Tensor]:
        """What the lanes of each round carried before it, last first; what is known is exact."""
        carried = self._ends.clone()
        first = self._first(rounds)
        misses = _Misses(self._problem, self._plan)
        for index in range(len(rounds) - 1, -1, -1):
            round_ = rounds[index]
            if index in self._cut:
                cut = self._cut[index]
                carried.index_copy_(0, cut.samples, cut.carried)
            movers = round_.movers
            everyone = round_.taken is None and len(movers) == len(carried)
            field = self._problem.field.at(None if everyone else movers)
            t, t_next = round_.of_movers(round_.t), round_.of_movers(round_.t_next)
            with torch.no_grad():
                found = self._method.back(field, t, t_next, carried.index_select(0, movers))
            carried.index_copy_(0, movers, found)
            misses.back(movers)
            for known in (self._onward.get(index), first.get(index)):
                if known is not None:
                    misses.note(known, carried)
                    carried.index_copy_(0, known.samples, known.carried)
            if index == 0:
                misses.warn()
            yield carried.index_select(0, round_.samples)

    def _first(self, rounds: Sequence[TakenRound]) -> dict[int, _Known]:
        """The starts of samples, by the round in which each took its first step."""
        first = torch.full_like(self._start.samples, -1)
        for index in range(len(rounds) - 1, -1, -1):
            first.index_fill_(0, rounds[index].movers, index)
        return {
            index: self._start.of((first == index).nonzero().squeeze(1))
            for index in first.unique().tolist()
            if index >= 0
        }


class _Misses:
    """By how much one walk back missed the states that it should have come to, at the worst.

    Args:
        problem: what was solved.
        plan: its tolerance is the measure.
    """

    def __init__(self, problem: SampleProblem, plan: SamplePlan) -> None:
        self._problem, self._norm = problem, plan.norm
        self._tolerance = LaneTolerance(plan, problem.y0)
        self._steps = torch.zeros(len(problem.y0), dtype=torch.long, device=problem.y0.device)
        self._worst: _Miss | None = None

    def back(self, movers: Tensor) -> None:
        """These samples went back by one step more."""
        self._steps.index_add_(0, movers, torch.ones_like(movers))

    def note(self, known: _Known, carried: Tensor) -> None:
        """Compare what some samples are known to have carried with what was found of all."""
        if not known.samples.shape[0]:
            return
        true = known.carried[:, : self._problem.y0.shape[1]]
        error = carried.index_select(0, known.samples)[:, : true.shape[1]] - true
        scale = self._tolerance.of(known.samples).scale(true)
        ratios = self._norm(error / scale).double().nan_to_num(nan=torch.inf)
        place = int(ratios.argmax())
        ratio, sample = float(ratios[place]), int(known.samples[place])
        if self._worst is None or ratio > self._worst.ratio:
            clock, steps = float(known.clocks[place]), int(self._steps[sample])
            self._worst = _Miss(ratio, sample, clock, steps, error[place], true[place])
        self._steps.index_fill_(0, known.samples, 0)

    def warn(self) -> None:
        """Warn of the worst, if it is beyond the tolerance."""
        worst, signs = self._worst, self._problem.field.signs
        if worst is None:
            return
        sign = 1.0 if signs is None else float(signs[worst.sample])
        behind = worst.clock != float(self._problem.t0[worst.sample])
        warn_of_miss(
            f"in sample {worst.sample}, {worst.steps}",
            sign * worst.clock + 0.0,  # no -0
            worst.ratio,
            worst.error,
            worst.true,
            event=behind,
        )


class _Miss(NamedTuple):
    """Of one sample: in tolerances, when, after how many steps back, and as states."""

    ratio: float
    sample: int
    clock: float
    steps: int
    error: Tensor
    true: Tensor
