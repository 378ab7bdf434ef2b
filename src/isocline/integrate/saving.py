"""Which states a step contributes to the output.

Pure functions of the step, so that a backward pass which replays it can ask again.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import torch
from torch import Tensor

from ..problem import Plan, Problem
from ..solvers.base import DensePiece, Step
from .clock import Clock
from .watch import Reach

__all__ = ["Saver", "dense_piece"]


class Saver:
    """Collects the saved states of one solve.

    Args:
        problem, plan: what is solved, and what to keep.
        clock: gives output times, as tensors where they record a gradient.
    """

    def __init__(self, problem: Problem, plan: Plan, clock: Clock) -> None:
        self.problem = problem
        self.plan = plan
        self.clock = clock
        self._sign = problem.direction
        self._rising = [self._sign * t for t in plan.ts]

    def initial(self, y0: Tensor) -> tuple[Tensor, ...]:
        """Rows saved before the first step, each shape (1, N)."""
        return (y0.unsqueeze(0),) * len(self.initial_times())

    def initial_times(self) -> list[float]:
        """Times of `initial`'s rows."""
        count = int(self.plan.save.t0)
        # A time that records a gradient comes from the first step's interpolant instead.
        if not self.clock.recording:
            count += bisect_right(self._rising, self._sign * self.problem.t0)
        return [self.problem.t0] * count

    def times(self, reach: Reach) -> list[float]:
        """Times of the rows that `rows` gives for the same step."""
        first, last = self._window(reach)
        times = list(self.plan.ts[first:last])
        if self._keeps_end(reach, times):
            times.append(reach.end)
        return [*times, *(hit.t for hit in reach.hits)]

    def rows(self, reach: Reach, step: Step) -> tuple[Tensor, ...]:
        """Output of an accepted step, each shape (rows, N); usually nothing.

        In order of time, and after that the states at the events in it.
        """
        if not reach.hits:
            return self._saved(reach, step)
        events = torch.tensor([hit.t for hit in reach.hits], dtype=torch.float64)
        states = step.dense().at(events)
        end = states[-1] if reach.cut else step.y1
        return (*self._saved(reach, step, end), states)

    def _saved(self, reach: Reach, step: Step, end: Tensor | None = None) -> tuple[Tensor, ...]:
        """What was asked for; `end` is the state where the step's reach ends."""
        first, last = self._window(reach)
        found: list[Tensor] = []
        y1 = step.y1 if end is None else end
        if first < last:
            at_end = not self.clock.recording and self.plan.ts[last - 1] == reach.end
            count_inside = bisect_left(self._rising, self._sign * reach.end) if at_end else last
            if first < count_inside:
                piece = step.dense()
                found.append(piece.at(self.clock.outputs(first, count_inside)))
            found += [y1.unsqueeze(0)] * (last - max(first, count_inside))
        if self._keeps_end(reach, self.plan.ts[first:last]):
            found.append(y1.unsqueeze(0))
        return tuple(found)

    def _window(self, reach: Reach) -> tuple[int, int]:
        """Which of ts fall into (t, end]; those at t0 belong to the first step if recording."""
        at_start = self.clock.recording and reach.t == self.problem.t0
        search = bisect_left if at_start else bisect_right
        first = search(self._rising, self._sign * reach.t)
        return first, bisect_right(self._rising, self._sign * reach.end)

    def _keeps_end(self, reach: Reach, times: Sequence[float]) -> bool:
        save = self.plan.save
        if save.steps:  # a step that ends at an output time is one row, not two
            return not times or times[-1] != reach.end
        return save.keeps_t1 and (reach.final or reach.end == self.problem.t1)


def dense_piece(step: Step) -> DensePiece:
    """The step's continuous extension, with slopes that outlast the next step."""
    piece = step.dense()
    return piece if torch.is_grad_enabled() else piece.own()
