"""Where rounds of reversible steps started, found by taking the steps back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..integrate import LaneTolerance, Round, started
from ..samples import SamplePlan, SampleProblem
from ..solvers.coupled_lanes import CoupledLanes
from .drift import warn_of_miss
from .lane_rounds import TakenRound
from .lane_starts import Advance

__all__ = ["SteppedBackLanes"]


class SteppedBackLanes:
    """Keeps of each sample the start and where its last step ended; a source of `LaneStarts`.

    Samples are known by their numbers, so that it does not matter which lanes have left: a sample
    stays at its end until the walk back comes to the last round in which it took a step.

    Args:
        problem: without a graph.
        plan: its tolerance is what each start is to be met to.
        method: takes steps back.
    """

    def __init__(self, problem: SampleProblem, plan: SamplePlan, method: CoupledLanes) -> None:
        self._problem, self._plan, self._method = problem, plan, method
        self._start = started(problem.y0.detach(), method.copies)
        self._ends = self._start.clone()

    def accepted(self, round_: Round, y1: Tensor) -> None:
        """Remember where the steps that count ended."""
        samples, ends = round_.samples, y1
        if round_.taken is not None:
            samples, ends = (part.index_select(0, round_.taken) for part in (samples, ends))
        self._ends.index_copy_(0, samples, ends)

    def restart(self, first: Tensor) -> None:
        """Nothing is kept that could be let go of."""

    def backwards(self, rounds: Sequence[TakenRound], advance: Advance) -> Iterator[Tensor]:
        """What the lanes of each round carried before it, last first; each sample's first exact."""
        carried = self._ends.clone()
        steps, first = self._counts(rounds)
        for index in range(len(rounds) - 1, -1, -1):
            round_ = rounds[index]
            movers = round_.movers
            everyone = round_.taken is None and len(movers) == len(carried)
            field = self._problem.field.at(None if everyone else movers)
            t, t_next = round_.of_movers(round_.t), round_.of_movers(round_.t_next)
            with torch.no_grad():
                found = self._method.back(field, t, t_next, carried.index_select(0, movers))
            carried.index_copy_(0, movers, found)
            if index == 0:
                self._judge(carried, steps)
            own = (first.index_select(0, round_.samples) == index).unsqueeze(1)
            exact = self._start.index_select(0, round_.samples)
            yield torch.where(own, exact, carried.index_select(0, round_.samples))

    def _counts(self, rounds: Sequence[TakenRound]) -> tuple[Tensor, Tensor]:
        """How many steps each sample took, and in which round its first."""
        steps = torch.zeros(len(self._ends), dtype=torch.long, device=self._ends.device)
        first = torch.full_like(steps, -1)
        for index in range(len(rounds) - 1, -1, -1):
            movers = rounds[index].movers
            steps.index_add_(0, movers, torch.ones_like(movers))
            first.index_fill_(0, movers, index)
        return steps, first

    def _judge(self, carried: Tensor, steps: Tensor) -> None:
        """Warn where starts were missed, of the sample that missed its own by most."""
        problem, plan = self._problem, self._plan
        true = self._start[:, : problem.y0.shape[1]]
        error = carried[:, : true.shape[1]] - true
        scale = LaneTolerance(plan, true).scale(true)
        ratio = plan.norm(error / scale).double().nan_to_num(nan=torch.inf)
        sample = int(ratio.argmax())
        signs = problem.field.signs
        t0 = float(problem.t0[sample]) * (1.0 if signs is None else float(signs[sample]))
        warn_of_miss(
            f"in sample {sample}, {int(steps[sample])}",
            t0 + 0.0,  # no -0
            float(ratio[sample]),
            error[sample],
            true[sample],
        )
