"""A round of joint stepping on the device: one try, the verdict on it, and where the solve goes on.

It computes what `integrate/loop.py` and the controllers compute, up to rounding, of numbers that
stay on the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...controllers import Controller
from ...controllers.lanes import LaneControl, lane_control
from ...integrate.attempts import STRETCH
from ...integrate.loop import ULPS
from ...solvers.tableau import Tableau
from ..formulas import Formula
from ..passes import Passes
from ..tracing import standing_in

__all__ = ["NUMBERS", "RoundFormula", "RoundRequest"]

NUMBERS = 9
"""Of a round's clock besides the controller's memory, in this order: direction and span of the
solve, the tolerances, time, target, length to try, the last ratio of error to tolerance, and how
many steps were accepted."""


class RoundRequest(NamedTuple):
    """What is asked of a program of rounds besides the field and its tensors.

    Attributes:
        tableau: the method.
        controller: chooses the steps; its numbers are constants of the graph.
        error_order: of the method's error estimate.
        average: whether the norm is "rms".
        vectors: whether the tolerances are packed vectors.
        stages: whether slopes are wanted.
        passes: rewritings of the graph; there are none.
    """

    tableau: Tableau
    controller: Controller
    error_order: int
    average: bool
    vectors: bool
    stages: bool
    passes: Passes

    @property
    def adaptive(self) -> bool:
        """Whether an error ratio is wanted."""
        return self.controller.adaptive

    @property
    def memories(self) -> int:
        """How many numbers the controller remembers."""
        return len(self.control().memory(torch.empty(0)))

    def control(self) -> LaneControl:
        """The controller, for numbers on a device."""
        return lane_control(self.controller, self.error_order)

    def matches(self, other: object) -> bool:
        """Whether both ask for the same."""
        if not isinstance(other, RoundRequest):
            return False
        return self.tableau is other.tableau and self[1:] == other[1:]


@dataclass(frozen=True, slots=True)
class RoundFormula(Formula):
    """A round of one method over one field, as a function to be traced.

    The clock of its formulas lies on the device, and is longer: see `NUMBERS`. The others read its
    first four numbers as ever.

    Attributes:
        request: what is asked.
    """

    request: RoundRequest

    def step(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """A round; where it ends the solve or fails, the next would be the same.

        (clock, y, slope at the start if the method knows it) -> `Marks` as of one lane (the worst
        ratio is NaN where no shorter step can help), clock, y and slope to go on with, y1, and all
        slopes, shape (stages, N), if they are wanted.
        """
        request, table, y = self.request, self.tableau, inputs[1]
        given = self.layout.split(inputs, int(table.fsal))
        control, field = request.control(), self._field(given)
        sign, span, rtol, atol, t, target, h, _, count, *memory = given.clock.split(1)
        with torch.no_grad(), standing_in(self.tensors, given.held):
            h = h.clamp(request.controller.min_step, request.controller.max_step)
            reaches = (target - t).abs() <= h * (1.0 + STRETCH)
            t_next = torch.where(reaches, target, t + sign * h)
            length = (t_next - t).abs()
            at = replace(given, clock=torch.cat([t, t_next, rtol, atol]))
            first = given.own[0] if given.own else field(at.clock[0], y)
            y1, slopes = self._stages(field, at, first, table.stages)
            ratio = self._ratio(at, y1, slopes).reshape(1)
            accept = ratio <= 1.0
            control.recall(memory)
            h_next = control.mixed(length, ratio, accept)
            # A step cut short at a target says little about the next: keep the length before.
            cut = accept & reaches & (length < h)
            h_next = torch.where(cut, torch.maximum(h, h_next), h_next)
            least = _least(t, span)
            broken = ~accept
            if request.adaptive:  # a length that is no number cannot be shortened either
                helps = (h > request.controller.min_step) & (h_next >= least)
                broken = broken & ~helps
            broken = broken | ((length < least) & (t_next != target))
            arrived = accept & ~broken & (t_next == target)
            taken = accept & ~broken
            none, reached = torch.zeros_like(t), torch.where(taken, t_next, t)
            worst = torch.where(broken, math.nan, none)
            numbers = (sign, span, rtol, atol, reached, target, h_next, ratio, count + taken)
            found = [
                torch.cat([worst, none, arrived.double(), none + 1.0, none]),
                torch.cat([*numbers, *control.memory(ratio)]),
                torch.where(taken, y1, y),
            ]
            if table.fsal:
                found.append(torch.where(taken, slopes[-1], first))
            found.append(y1)
            if request.stages:
                found.append(torch.stack(slopes))
            return tuple(found)


def _least(t: Tensor, span: Tensor) -> Tensor:
    """The least length that moves the time; near t = 0 in proportion to the span."""
    size = torch.maximum(t.abs(), torch.where(span.isfinite(), 1e-6 * span, 0.0))
    return ULPS * (torch.nextafter(size, torch.full_like(size, math.inf)) - size)
