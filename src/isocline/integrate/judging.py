"""Which steps of a round are accepted, and how long the next ones are."""

from __future__ import annotations

import math
from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor

from ..controllers.lanes import lane_control
from ..samples import SamplePlan
from ..solvers.lanes import LaneStep, LaneStepper
from .lanes import Lanes

__all__ = ["LaneJudge", "LaneTolerance", "Verdict"]


class Verdict(NamedTuple):
    """On a round of steps.

    Attributes:
        ratio: of error to tolerance, shape (lanes,), float64.
        worst: the largest.
        accept: which steps are accepted; None for all.
        h_next: lengths to try next, shape (lanes,), float64.
        shortest: none of those is shorter, and one may be that short only if it is told exactly.
    """

    ratio: Tensor
    worst: float
    accept: Tensor | None
    h_next: Tensor
    shortest: float


class LaneJudge:
    """Measures the errors of steps, and lets the controller decide.

    Args:
        plan: has tolerances, norm and controller.
        stepper: says how several error estimates are made one.
        y0: initial states, shape (batch, width).
        critical: a length down to which the shortest one is to be known exactly.
    """

    def __init__(self, plan: SamplePlan, stepper: LaneStepper, y0: Tensor, critical: float) -> None:
        self.tolerance = LaneTolerance(plan, y0)
        self._norm, self._combine = plan.norm, stepper.combine
        self._adaptive, self._stops = plan.controller.adaptive, bool(plan.controller.stops)
        self._control = lane_control(plan.controller, plan.solver.error_order)
        self._critical, self._shortest = critical, 0.0

    def keep(self, lanes: Tensor) -> None:
        """Only these lanes are left, by their positions."""
        self.tolerance.keep(lanes)
        self._control.keep(lanes)

    def verdict(
        self, step: LaneStep, lanes: Lanes, h: Tensor, t_next: Tensor, reaches: Tensor | None
    ) -> Verdict:
        """Judge a round of steps.

        Args:
            step: what is judged.
            lanes: where the steps began.
            h: lengths that were tried; a step that was cut short at its target is shorter.
            t_next: where the steps end.
            reaches: which of them end at their target; None where none does.
        """
        if torch.is_grad_enabled():  # entering the context costs as much as an operation
            with torch.no_grad():
                return self.verdict(step, lanes, h, t_next, reaches)
        ratio = self._ratios(step, lanes.y)
        worst = float(ratio.max())
        if worst <= 1.0:
            accept, h_next = None, self._control.grown(h, ratio)
        else:
            accept = ratio <= 1.0
            length = h
            if reaches is not None:  # what was cut short must be tried again shorter than it was
                length = torch.where(reaches & ~accept, t_next - lanes.t, h)
            h_next = self._control.mixed(length, ratio, accept)
        if self._stops and reaches is not None:
            short = reaches & (t_next - lanes.t < h) & (ratio <= 1.0)
            h_next = torch.where(short, torch.maximum(h, h_next), h_next)
        # A look at all lengths is spared while what the factors allow is enough to know: a bound
        # that fails only where a step was cut short and rejected.
        self._shortest *= self._control.least_factor
        cut_short = reaches is not None and accept is not None
        if cut_short or not self._shortest > self._critical:
            self._shortest = float(h_next.min())
        return Verdict(ratio, worst, accept, h_next, self._shortest)

    def _ratios(self, step: LaneStep, y: Tensor) -> Tensor:
        """Error over tolerance; for a constant step 0, or NaN where the state is not finite."""
        y1 = step.y1
        if not self._adaptive:
            lost = torch.full((len(y1),), math.nan, dtype=torch.float64, device=y1.device)
            return lost.masked_fill_(y1.isfinite().all(1), 0.0)
        scale = self.tolerance.scale_to(y, y1)
        norms = [self._norm(error / scale) for error in step.errors]
        return (norms[0] if self._combine is None else self._combine(*norms)).double()


class LaneTolerance:
    """The scale that errors are measured against: atol + rtol * max(|y|, |y1|), elementwise."""

    def __init__(self, plan: SamplePlan, y0: Tensor) -> None:
        real = y0.detach().real
        # A floor keeps 0 / 0 out of the error ratio where atol and the state are both zero.
        floor = torch.finfo(real.dtype).tiny ** 0.5
        atol = torch.as_tensor(plan.atol, dtype=real.dtype, device=real.device)
        self.atol = atol.clamp(min=floor)
        self.rtol = plan.rtol
        self._width = y0.shape[1]
        self._known: tuple[Tensor, Tensor] | None = None  # the last step's end, and its size

    def keep(self, lanes: Tensor) -> None:
        """Only these lanes are left."""
        if self.atol.ndim:
            self.atol = self.atol.index_select(0, lanes)
        if isinstance(self.rtol, Tensor):
            self.rtol = self.rtol.index_select(0, lanes)

    def of(self, lanes: Tensor) -> LaneTolerance:
        """That of some of the lanes."""
        found = copy(self)
        found.keep(lanes)
        return found

    def scale(self, y: Tensor) -> Tensor:
        """For the errors at `y`."""
        return self._weigh(y.abs())

    def scale_to(self, y: Tensor, y1: Tensor) -> Tensor:
        """For the errors of steps from `y` to `y1`, of which the states are the first columns."""
        known, end = self._known, y1.abs()
        start = known[1] if known is not None and known[0] is y else y.abs()
        self._known = y1, end
        size = torch.maximum(start, end)
        return self._weigh(size if size.shape[1] == self._width else size[:, : self._width])

    def _weigh(self, size: Tensor) -> Tensor:
        if isinstance(self.rtol, Tensor):
            return torch.addcmul(self.atol, self.rtol, size)
        return torch.add(self.atol, size, alpha=self.rtol)
