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

    def times(self, t: float, t_next: float) -> list[float]:
        """Times of the rows that `rows` gives for the same step."""
        first, last = self._window(t, t_next)
        times = list(self.plan.ts[first:last])
        if self._keeps_end(t_next, times):
            times.append(t_next)
        return times

    def rows(self, t: float, t_next: float, step: Step) -> tuple[Tensor, ...]:
        """Output of an accepted step in order of time, each shape (rows, N); usually nothing."""
        first, last = self._window(t, t_next)
        found: list[Tensor] = []
        if first < last:
            at_end = not self.clock.recording and self.plan.ts[last - 1] == t_next
            count_inside = bisect_left(self._rising, self._sign * t_next) if at_end else last
            if first < count_inside:
                piece = step.dense()
                found.append(piece.at(self.clock.outputs(first, count_inside)))
            found += [step.y1.unsqueeze(0)] * (last - max(first, count_inside))
        if self._keeps_end(t_next, self.plan.ts[first:last]):
            found.append(step.y1.unsqueeze(0))
        return tuple(found)

    def _window(self, t: float, t_next: float) -> tuple[int, int]:
        """Which of ts fall into (t, t_next]; those at t0 belong to the first step if recording."""
        at_start = self.clock.recording and t == self.problem.t0
        search = bisect_left if at_start else bisect_right
        first = search(self._rising, self._sign * t)
        return first, bisect_right(self._rising, self._sign * t_next)

    def _keeps_end(self, t_next: float, times: Sequence[float]) -> bool:
        save = self.plan.save
        if save.steps:  # a step that ends at an output time is one row, not two
            return not times or times[-1] != t_next
        return save.keeps_t1 and t_next == self.problem.t1


def dense_piece(step: Step) -> DensePiece:
    """The step's continuous extension, with slopes that outlast the next step."""
    piece = step.dense()
    return piece if torch.is_grad_enabled() else piece.own()
