"""Steps of an Adams method: predict, then evaluate and correct as often as the method says.

Slopes of the past travel in `Memory.carried`. They are the same tensors from step to step, so that
to remember them at each costs no copies. A step begins with the slope at its own start, which
the step before has left to it: had that been rejected, the evaluation would be lost. So
a method that ends with an evaluation (PECE) does this one first.

Without a graph the slopes are copied into one buffer that lasts for the solve, with one they are
stacked anew; both lie alike in memory and give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...state import Packing
from ...transforms import active
from ..base import DensePiece, Field, Memory, Step, Time
from ..explicit import ExplicitStepper
from ..tableau import Tableau
from .coefficients import Shape, interpolant, resampled
from .history import History, nodes, spread, step_weights, traced
from .selection import PATIENCE, SHARE, after_failure, after_success

__all__ = ["AdamsStepper", "Method"]


class Method(NamedTuple):
    """What makes one Adams method different from another.

    Attributes:
        slopes: how many slopes of the history, the present one among them, a step uses once the
            method has started.
        most: how many it may come to use.
        corrections: how often the implicit formula is applied; 0 for an explicit method.
        dropped: how many of these slopes the corrector leaves out: 1 for backward Euler.
        exponent: k, where the controller takes the error of a step to be O(h^k); 0 for methods
            without an error estimate, which keep their order.
        starter: table of the one-step method to start with.
    """

    slopes: int
    most: int
    corrections: int
    dropped: int
    exponent: int
    starter: Tableau

    def shape(self, k: int, known: int) -> Shape:
        """The formulas of a step that uses k of `known` slopes."""
        if not self.exponent:
            return Shape(k, k - self.dropped)
        orders = (k, k - 1) if k > 1 else (k,)
        ahead = (k + 1,) if k < self.most and known >= k + 2 else ()
        return Shape(k, k, orders + ahead)

    def kept(self, k: int) -> int:
        """How many past slopes the step after one with k is given: one more than it needs.

        It may use k + 1 itself, and estimate the error of the order above.
        """
        return k + 2 if self.exponent else k


class AdamsStepper:
    """Takes steps of one method; what it knows of the past comes with the memory."""

    combine = None

    def __init__(self, method: Method, field: Field, packing: Packing) -> None:
        self.method = method
        self.field = field
        self.starter = ExplicitStepper(method.starter, field, packing)
        self.packing = packing
        self._fresh = History((), method.slopes)
        self._buffer: Tensor | None = None
        self._transformed = active()

    def init(self, t: Time, y: Tensor, f0: Tensor | None = None) -> Memory:
        """The field at (t, y), and an empty history."""
        return Memory(self.slope(t, y) if f0 is None else f0, (), self._fresh)

    def step(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """One step, with error estimates of several orders if the method chooses its order."""
        return self._step(t, t_next, y, memory, estimate=self.method.exponent > 0)

    def advance(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """The same step without estimates."""
        return self._step(t, t_next, y, memory, estimate=False)

    def slope(self, t: Time, y: Tensor) -> Tensor:
        """The field, safe to keep: it may write all its answers into one buffer of its own."""
        slope = self._evaluate(t, y)
        return slope if slope.requires_grad else slope.clone()

    def _evaluate(self, t: Time, y: Tensor) -> Tensor:
        dtype, device = self.packing.time_dtype, self.packing.device
        if isinstance(t, Tensor):
            return self.field(t.to(device, dtype), y)
        return self.field(torch.scalar_tensor(t, dtype=dtype, device=device), y)

    def _step(
        self, t: Time, t_next: Time, y: Tensor, memory: Memory | None, *, estimate: bool
    ) -> Step:
        given = memory or Memory()
        past: History = given.numbers or self._fresh
        kept = spread(past.times, t, t_next)
        if 1 + len(kept) < min(past.order, self.method.slopes):
            return self._start(t, t_next, y, given, past, estimate=estimate)
        slope = self.slope(t, y) if given.slope is None else given.slope
        k = min(past.order, 1 + len(kept))
        kept = kept[: self.method.kept(k) - 1 if self.method.exponent else k - 1]
        times = [past.times[i] for i in kept]
        history = [slope, *(given.carried[i] for i in kept)]
        shape = self.method.shape(k, len(history))
        weights = step_weights(times, t, t_next, shape).to(self.packing.device, self.packing.dtype)
        y1, errors = self._sums(t_next, y, history, shape, weights, estimate=estimate)
        return _AdamsStep(
            y1=y1,
            errors=errors,
            memory=self._remembered(t, slope, given, past.times, k),
            retry=Memory(slope, given.carried, past),
            stepper=self,
            t=t,
            t_next=t_next,
            y0=y,
            times=times[: k - 1],
            history=history[:k],
            past=past,
            orders=shape.orders,
        )

    def _sums(
        self,
        t_next: Time,
        y: Tensor,
        history: Sequence[Tensor],
        shape: Shape,
        weights: Tensor,
        *,
        estimate: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The state at the end, and error estimates."""
        rows, k = self._rows(history), shape.k
        y1 = torch.addmv(y, rows.past(k), weights[0, 1 : k + 1])
        end: Tensor | None = None
        for _ in range(self.method.corrections):
            end = self._evaluate(t_next, y1)
            y1 = torch.addmv(y, rows.all(end, k), weights[1, : k + 1])
        if not estimate or end is None:
            return y1, ()
        with torch.no_grad():
            return y1, torch.mm(weights[2:], rows.all(end, len(history)).t()).unbind()

    def _rows(self, history: Sequence[Tensor]) -> _Rows:
        if self._transformed or torch.is_grad_enabled():
            return _Rows(history, None)
        if self._buffer is None:
            self._buffer = history[0].new_empty(
                self.method.kept(self.method.most) + 1, self.packing.size
            )
        return _Rows(history, self._buffer)

    def _start(
        self, t: Time, t_next: Time, y: Tensor, given: Memory, past: History, *, estimate: bool
    ) -> Step:
        """A step of the one-step method."""
        take = self.starter.step if estimate else self.starter.advance
        step = take(t, t_next, y, Memory(given.slope))
        slope = step.retry.slope
        assert slope is not None  # every explicit method evaluates the field at its start
        memory = self._remembered(t, slope, given, past.times, self.method.slopes)
        return _StartStep(
            y1=step.y1,
            errors=step.errors,
            memory=memory._replace(slope=step.memory.slope),
            retry=Memory(slope, given.carried, past),
            inner=step,
        )

    def _remembered(
        self, t: Time, slope: Tensor, given: Memory, times: tuple[Time, ...], k: int
    ) -> Memory:
        """Memory after a step with k slopes: the history with the slope at the step's start."""
        count = min(self.method.kept(k), 1 + len(times))
        carried = (slope, *given.carried)[:count]
        return Memory(None, carried, History((t, *times)[:count], k))


@dataclass(slots=True)
class _AdamsStep(Step):
    """A step with all that its dense output needs.

    Attributes:
        times, history: past times and slopes that the formulas used; the present one leads the
            slopes.
        past: what the step was given.
        orders: those whose errors are estimated, that of the predictor first.
    """

    stepper: AdamsStepper
    t: Time
    t_next: Time
    y0: Tensor
    times: list[Time]
    history: list[Tensor]
    past: History
    orders: tuple[int, ...]

    def dense(self) -> DensePiece:
        """The interpolant through the slopes, that at the end among them."""
        end = self.memory.slope
        if end is None:
            end = self.stepper.slope(self.t_next, self.y1)
            self.memory = self.memory._replace(slope=end)
        mean = (self.y1 - self.y0) / (self.t_next - self.t)
        slopes = torch.stack([end, *self.history])
        z = torch.tensor(nodes(self.times, self.t, self.t_next), dtype=torch.float64)
        moved = traced(lambda moving: resampled(moving, z), self.times, self.t, self.t_next)
        if moved is not None:
            # The weights of a piece are constants: where times move, the polynomial does so in
            # its values at the times as they were.
            slopes = slopes + moved.to(slopes) @ slopes
        rows = torch.cat([slopes, mean.unsqueeze(0)])
        return DensePiece(self.t, self.t_next, self.y0, rows, interpolant(z))

    def judge(self, ratios: Sequence[float]) -> float:
        """Settle the order of the next step, or of the next try."""
        k, exponent = len(self.history), self.stepper.method.exponent
        shares = [ratio / SHARE for ratio in ratios]
        found = dict(zip(self.orders, shares, strict=True))
        if found[k] <= 1.0:
            choice = after_success(k, found, exponent)
            slope, carried, (times, *_) = self.memory
            self.memory = Memory(slope, carried, History(times, choice.order))
            return choice.ratio
        failures = self.past.failures + 1
        if math.isfinite(found[k]):
            z = nodes(self.times, self.t, self.t_next)
            order, ratio = after_failure(k, found, exponent, z, failures)
        else:
            order, ratio = (1 if failures >= PATIENCE else k), found[k]
        again = History(self.past.times, order, failures)
        self.retry = Memory(self.retry.slope, self.retry.carried, again)
        return ratio


@dataclass(slots=True)
class _StartStep(Step):
    """A step of the one-step method, in a multistep method's memory."""

    inner: Step

    def dense(self) -> DensePiece:
        """The interpolant of the one-step method."""
        piece = self.inner.dense()
        self.memory = self.memory._replace(slope=self.inner.memory.slope)
        return piece


class _Rows:
    """Slopes over z as columns: that at the end of the step, then the history's.

    The first row is left free for the end in both forms, so that the others lie alike: sums may
    take another path, and round otherwise, where they start at another address.
    """

    __slots__ = ("_buffer", "_history")

    def __init__(self, history: Sequence[Tensor], buffer: Tensor | None) -> None:
        self._history, self._buffer = history, buffer
        if buffer is not None:
            torch.stack(list(history), out=buffer[1 : 1 + len(history)])

    def past(self, k: int) -> Tensor:
        """The first k of the history, shape (N, k)."""
        if self._buffer is not None:
            return self._buffer[1 : 1 + k].t()
        return torch.stack([self._history[0], *self._history[:k]])[1:].t()

    def all(self, end: Tensor, k: int) -> Tensor:
        """The slope at the end and the first k of the history, shape (N, 1 + k)."""
        if self._buffer is None:
            return torch.stack([end, *self._history[:k]]).t()
        self._buffer[0].copy_(end)
        return self._buffer[: 1 + k].t()
