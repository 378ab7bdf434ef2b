"""Step-size control of many lanes at once: the formulas of `pid` and `initial_step` on tensors.

Each lane has its own step, verdict and history. Numbers are float64, of shape (lanes,).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..errors import InputError
from .base import Controller
from .constant import Constant
from .pid import PID

__all__ = ["LaneControl", "initial_steps", "lane_control"]


class LaneControl(Protocol):
    """A controller's memory of every lane."""

    @property
    def least_factor(self) -> float:
        """No length is less than this times the one before."""

    def grown(self, h: Tensor, ratio: Tensor) -> Tensor:
        """Next lengths, where every lane's step of length `h` was accepted."""

    def mixed(self, h: Tensor, ratio: Tensor, accept: Tensor) -> Tensor:
        """Next lengths, where some lanes' steps were not accepted.

        Args:
            h: lengths that were tried; of a step that was cut short and rejected what it was.
            ratio: of error to tolerance.
            accept: which steps are accepted.
        """

    def keep(self, lanes: Tensor) -> None:
        """Only these lanes are left, by their positions."""

    def memory(self, like: Tensor) -> tuple[Tensor, ...]:
        """What is remembered, each like `like`, one number a lane; always as many tensors."""

    def recall(self, memory: Sequence[Tensor]) -> None:
        """Go on from what was remembered."""


def lane_control(controller: Controller, error_order: int) -> LaneControl:
    """The controller for many lanes.

    Args:
        controller: as the user chose it.
        error_order: of the method's error estimate.

    Raises:
        InputError: for a controller that has no such form.
    """
    if isinstance(controller, Constant):
        return _ConstantSteps()
    if isinstance(controller, PID):
        return _LanePID(controller, error_order)
    raise InputError(
        "controller",
        f'{type(controller).__name__} with stepping="per_sample"',
        "PID(), PI(), I() or Constant()",
        'A controller of your own judges one ratio at a time: leave `stepping` at "joint".',
    )


class _ConstantSteps:
    """Every step is as long as the one before."""

    least_factor = 1.0

    def grown(self, h: Tensor, ratio: Tensor) -> Tensor:
        return h

    def mixed(self, h: Tensor, ratio: Tensor, accept: Tensor) -> Tensor:
        return h

    def keep(self, lanes: Tensor) -> None:
        """Nothing is remembered."""

    def memory(self, like: Tensor) -> tuple[Tensor, ...]:
        return ()

    def recall(self, memory: Sequence[Tensor]) -> None:
        """Nothing is remembered."""


class _LanePID:
    """`PID` for many lanes; see there for the formulas and their reasons.

    The history is kept only where its coefficients are not zero, as they are by default.
    """

    def __init__(self, pid: PID, order: int) -> None:
        p, i, d = pid.proportional, pid.integral, pid.derivative
        self._pid = pid
        self.least_factor = min(pid.factor_min, pid.safety)
        # As tensors: numbers cost up to three times as much.
        numbers = (pid.factor_min, pid.safety, 1.0, pid.factor_max)
        bounds = [torch.full((), number, dtype=torch.float64) for number in numbers]
        self._least, self._safe, self._one, self._most = bounds
        self._now = -(p + i + d) / order
        self._before = ((p + 2 * d) / order, -d / order)
        self._again = -1.0 / order  # after a rejection the integral term acts alone
        self._remembers = self._before != (0.0, 0.0)
        self._history: tuple[Tensor, Tensor] | None = None
        self._ceiling: Tensor | None = None  # 1 where the last step was rejected, if any was

    def grown(self, h: Tensor, ratio: Tensor) -> Tensor:
        pid = self._pid
        factor = self._factor(ratio)
        if self._ceiling is None:
            factor = factor.clamp_(self._least, self._most)
        else:
            factor = torch.minimum(factor.clamp_(min=pid.factor_min), self._ceiling)
            self._ceiling = None
        self._remember(ratio, None)
        return self._bounded(factor.mul_(h))

    def mixed(self, h: Tensor, ratio: Tensor, accept: Tensor) -> Tensor:
        pid = self._pid
        factor = self._factor(ratio)
        if self._now != self._again or self._remembers:
            factor = torch.where(accept, factor, _power(ratio, self._again).mul_(pid.safety))
        ceiling = self._most if self._ceiling is None else self._ceiling
        # `fmax` takes the number where the other is NaN, as that of a step that was lost is.
        factor = torch.fmax(factor, self._least)
        factor = torch.minimum(factor, torch.where(accept, ceiling, self._safe))
        self._ceiling = torch.where(accept, self._most, self._one)
        self._remember(ratio, accept)
        return self._bounded(factor.mul_(h))

    def keep(self, lanes: Tensor) -> None:
        if self._history is not None:
            last, before = self._history
            self._history = last.index_select(0, lanes), before.index_select(0, lanes)
        if self._ceiling is not None:
            self._ceiling = self._ceiling.index_select(0, lanes)

    def memory(self, like: Tensor) -> tuple[Tensor, ...]:
        ceiling = self._ceiling
        if ceiling is None:
            ceiling = torch.full_like(like, self._pid.factor_max)
        if not self._remembers:
            return (ceiling,)
        last, before = self._history or (torch.ones_like(like), torch.ones_like(like))
        return ceiling, last, before

    def recall(self, memory: Sequence[Tensor]) -> None:
        self._ceiling, *history = memory
        if history:
            last, before = history
            self._history = last, before

    def _bounded(self, h: Tensor) -> Tensor:
        longest = self._pid.max_step
        return h if longest == math.inf else h.clamp_(max=longest)

    def _factor(self, ratio: Tensor) -> Tensor:
        """For accepted steps; infinite where the ratio is 0, as the caller bounds it."""
        factor = _power(ratio, self._now).mul_(self._pid.safety)
        if self._history is None:
            return factor
        (last, before), (one, two) = self._history, self._before
        factor = factor * _power(last, one) * _power(before, two)
        return torch.where(ratio == 0.0, math.inf, factor)

    def _remember(self, ratio: Tensor, accept: Tensor | None) -> None:
        if not self._remembers:
            return
        if self._history is None:
            self._history = torch.ones_like(ratio), torch.ones_like(ratio)
        last, before = self._history
        # An error of exactly zero has no meaning as history: its powers are not finite.
        now = ratio.clamp(min=1e-10)
        if accept is None:
            self._history = now, last
        else:
            self._history = torch.where(accept, now, last), torch.where(accept, last, before)


def _power(x: Tensor, exponent: float) -> Tensor:
    """X to a power, x >= 0. The bits of `torch.pow` depend on the place of a number in its tensor.

    That is where a number falls into the rest after the last whole vector of the processor: 1 % of
    numbers differ in their last digit then (measured with AVX-512), and a lane's steps with them.
    """
    return torch.log(x).mul_(exponent).exp_()


def initial_steps(
    evaluate: Callable[[Tensor, Tensor], Tensor],
    t0: Tensor,
    y0: Tensor,
    f0: Tensor,
    t1: Tensor,
    error_order: int,
    scale: Tensor,
    norm: Callable[[Tensor], Tensor],
) -> Tensor:
    """The first step of each lane, as `initial_step` finds that of one.

    Args:
        evaluate: the field, `(t, y) -> dy/dt`; called once, within the spans.
        t0, t1: ends of the solves, t0 <= t1, shape (lanes,).
        y0, f0: states and derivatives at t0, shape (lanes, width).
        error_order: order of the error estimate.
        scale: atol + rtol * |y0|, shape (lanes, width).
        norm: of scaled errors, one number a lane.

    Returns:
        Positive lengths, at most the span; NaN where the field is not finite.
    """
    span = t1 - t0
    d0, d1 = norm(y0 / scale).double(), norm(f0 / scale).double()
    tiny = torch.full_like(d0, 1e-6)
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), tiny, 0.01 * d0 / d1)
    h0 = torch.minimum(h0, span)
    known = (d0 + d1).isfinite()
    h0 = torch.where(known, h0, 0.0)  # a lane without a length waits at its start
    probe = torch.where(h0 < span, torch.minimum(t0 + h0, t1), t1)
    y1 = torch.addcmul(y0, f0, h0.to(y0.real.dtype).unsqueeze(1))
    y1 = torch.where(known.unsqueeze(1), y1, y0)
    d2 = norm((evaluate(probe, y1) - f0) / scale).double() / h0
    steepest = torch.maximum(d1, d2)
    h1 = torch.where(
        steepest <= 1e-15,
        torch.maximum(tiny, h0 * 1e-3),
        _power(0.01 / steepest, 1.0 / error_order),
    )
    found = torch.minimum(torch.minimum(100 * h0, h1), span)
    # Where the probe left the field's domain, the controller finds its way from a tiny step.
    found = torch.where(steepest.isfinite(), found, h0 * 1e-3)
    # A norm may overflow where what it measures is finite: start with a step that is safe.
    safe = torch.where(f0.isfinite().all(1), 1e-6 * span, math.nan)
    return torch.where(known, found, safe)
