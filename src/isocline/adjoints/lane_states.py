"""States of each sample's forward solve that are kept for a reverse one, besides the output."""

from __future__ import annotations

import torch
from torch import Tensor

from ..integrate import Output, Round
from ..samples import SampleProblem
from ..solvers.lane_methods import LaneMethod
from ..solvers.lanes import LaneStep, LaneStepper

__all__ = ["LaneStates"]


class LaneStates:
    """Keeps the ends of every so many steps of each sample; of twice as many where they are many.

    Which they are depends on that sample alone. See `forward_states` for why steps and not time.

    Args:
        problem: that is solved.
        count: how many to keep of a sample at most, 1 or more.
    """

    def __init__(self, problem: SampleProblem, count: int) -> None:
        y0, batch = problem.y0, problem.field.batch
        self._limit = count
        self._times = problem.t0.new_zeros(batch, count)
        self._states = y0.new_zeros(batch, count, y0.shape[1])
        self._filled = torch.zeros(batch, dtype=torch.long, device=y0.device)
        self._steps, self._stride = torch.zeros_like(self._filled), torch.ones_like(self._filled)

    def kept(self) -> tuple[Tensor, Tensor, Tensor]:
        """Samples, clocks and states of all that are kept: shapes (k,), (k,), (k, width)."""
        number = torch.arange(self._limit, device=self._filled.device)
        samples, places = (number < self._filled.unsqueeze(1)).nonzero().unbind(1)
        return samples, self._times[samples, places], self._states[samples, places]

    def stepper(self, stepper: LaneMethod) -> LaneStepper:
        """The steps as they are."""
        return stepper

    def began(self, initial: Output | None) -> None:
        """The start is known anyway."""

    def accepted(self, round_: Round, step: LaneStep) -> None:
        """Keep the ends of the steps whose turn it is, but for those that an event cut short.

        What is known of an event is known anyway.
        """
        lanes = round_.taken
        if lanes is None:
            lanes = torch.arange(len(round_.samples), device=round_.samples.device)
        samples = round_.samples.index_select(0, lanes)
        steps = self._steps.index_select(0, samples) + 1
        self._steps.index_copy_(0, samples, steps)
        due = steps % self._stride.index_select(0, samples) == 0
        if round_.hits is not None:
            due &= ~torch.isin(lanes, round_.hits.lanes)
        full = due & (self._filled.index_select(0, samples) == self._limit)
        if bool(full.any()):
            self._halve(samples[full])
            due &= steps % self._stride.index_select(0, samples) == 0
            due &= self._filled.index_select(0, samples) < self._limit
        lanes, samples = lanes[due], samples[due]
        places = self._filled.index_select(0, samples)
        self._times[samples, places] = round_.t_next.index_select(0, lanes)
        self._states[samples, places] = step.y1[:, : self._states.shape[2]].index_select(0, lanes)
        self._filled.index_add_(0, samples, torch.ones_like(samples))

    def _halve(self, samples: Tensor) -> None:
        """Keep every second state of these samples: the first ended one stride from t0."""
        half = self._limit // 2
        self._times[samples, :half] = self._times[samples, 1::2]
        self._states[samples, :half] = self._states[samples, 1::2]
        self._filled.index_fill_(0, samples, half)
        self._stride.index_copy_(0, samples, 2 * self._stride.index_select(0, samples))

    def left(self, stay: Tensor) -> None:
        """Samples are known by their numbers."""
