"""Callbacks and jumps: a solver and a controller that tell of what they do.

torchdiffeq calls methods of `func` around each step. Here the solver is wrapped: it sees each step
that is tried; and the controller, which sees the verdict on it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..controllers.base import Controller, Decision
from ..solvers.base import Field, Memory, Solver, Step, Stepper, Time
from ..solvers.wrapped import WrappedSolver
from ..state import Packing, State
from .sides import Jumps, Sides

__all__ = ["Attended", "Callbacks", "Governed"]

CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")
"""Names of the methods that are called; `_adjoint` is appended for the backward pass."""

Callback = Callable[[Tensor, State, Tensor], Any]
View = Callable[[Packing, Tensor], State]


class Callbacks:
    """The callbacks of one solve.

    Each is called with the step's start as a 0-d tensor, the state there, and the step's length,
    which is positive whichever way time runs.

    Args:
        found: the callbacks that there are, by their plain names.
        view: the packed state as the callbacks are to see it.
    """

    def __init__(self, found: dict[str, Callback], view: View) -> None:
        self._found = found
        self.view = view
        self._step: tuple[Tensor, State, Tensor] | None = None

    @classmethod
    def of(
        cls,
        func: Any,
        method: str,
        supported: frozenset[str],
        view: View,
        suffix: str = "",
        stacklevel: int = 4,
    ) -> Callbacks | None:
        """The callbacks that `func` has, or None; warns of those that the method cannot serve."""
        found = {
            name: callback
            for name in CALLBACKS
            if (callback := getattr(func, name + suffix, None)) is not None
        }
        missed = {name + suffix for name in found if name not in supported}
        if missed:
            warnings.warn(
                f"Solver '{method}' does not support callbacks {missed}", stacklevel=stacklevel
            )
        found = {name: callback for name, callback in found.items() if name in supported}
        return cls(found, view) if found else None

    def step(self, t: float, y: State, h: float, device: torch.device) -> None:
        """A step of length h is about to be tried."""
        t0 = torch.tensor(t, dtype=torch.float64, device=device)
        self._step = (t0, y, torch.tensor(h, dtype=torch.float64, device=device))
        self._call("callback_step")

    def judged(self, accepted: bool) -> None:
        """That step was accepted or rejected."""
        self._call("callback_accept_step" if accepted else "callback_reject_step")

    def _call(self, name: str) -> None:
        if name in self._found and self._step is not None:
            self._found[name](*self._step)


class Attended(WrappedSolver):
    """A solver whose steps are announced.

    Args:
        solver: the solver proper.
        sides: told which step is being taken, or None.
        jumps: times at which the field jumps.
        callbacks: told of each step that is tried, or None.
        direction: of time in the solve, +1 or -1.
    """

    def __init__(
        self,
        solver: Solver,
        sides: Sides | None,
        jumps: Jumps,
        callbacks: Callbacks | None,
        direction: int,
    ) -> None:
        super().__init__(solver)
        self.sides, self.jumps, self.callbacks = sides, jumps, callbacks
        self.direction = direction

    def bind(self, field: Field, packing: Packing) -> Stepper:
        """The solver proper, bound, and wrapped."""
        return _AttendedStepper(self.solver.bind(field, packing), packing, self)


class _AttendedStepper:
    def __init__(self, inner: Stepper, packing: Packing, attended: Attended) -> None:
        self.inner, self.packing = inner, packing
        self.sides, self.callbacks = attended.sides, attended.callbacks
        self.jumps = attended.jumps
        self._far = math.copysign(math.inf, attended.direction)

    @property
    def combine(self) -> Callable[..., Tensor] | None:
        return self.inner.combine

    def init(self, t: Time, y: Tensor, f0: Tensor | None = None) -> Memory:
        if self.sides is not None:
            self.sides.enter(_number(t), self._far, self.jumps)
        return self.inner.init(t, y, f0)

    def step(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        if self.callbacks is not None:
            start, h = _number(t), abs(_number(t_next) - _number(t))
            view = self.callbacks.view(self.packing, y.detach())
            self.callbacks.step(start, view, h, self.packing.device)
        return self.inner.step(t, t_next, y, self._entered(t, t_next, memory))

    def advance(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        return self.inner.advance(t, t_next, y, self._entered(t, t_next, memory))

    def _entered(self, t: Time, t_next: Time, memory: Memory | None) -> Memory | None:
        """The memory for a step, without a slope from before a jump."""
        if self.sides is None:
            return memory
        start = _number(t)
        self.sides.enter(start, _number(t_next), self.jumps)
        stale = self.jumps is None or start in self.jumps
        return memory.essential if stale and memory is not None else memory


def _number(t: Time) -> float:
    return float(t.detach()) if isinstance(t, Tensor) else t


class Governed:
    """A controller that tells of its verdicts, and takes the shortest step whatever its error.

    Args:
        inner: the controller proper.
        callbacks: told of each verdict, or None.
    """

    def __init__(self, inner: Controller, callbacks: Callbacks | None) -> None:
        self.inner, self.callbacks = inner, callbacks

    @property
    def adaptive(self) -> bool:
        """As the controller proper."""
        return self.inner.adaptive

    @property
    def min_step(self) -> float:
        """No step is shorter, and one of this length is taken whatever its error."""
        return self.inner.min_step

    @property
    def max_step(self) -> float:
        """No step is longer."""
        return self.inner.max_step

    @property
    def stops(self) -> tuple[float, ...]:
        """Times at which steps end."""
        return self.inner.stops

    def init(self, error_order: int) -> Any:
        """As the controller proper."""
        return self.inner.init(error_order)

    def decide(self, h: float, error_ratio: float, state: Any) -> Decision:
        """The verdict of the controller proper, or acceptance at the shortest step."""
        decision = self.inner.decide(h, error_ratio, state)
        finite = math.isfinite(error_ratio)
        # The length of a step is a difference of times, and may be off by rounding.
        if not decision.accept and finite and h <= self.min_step * (1.0 + 1e-9):
            decision = Decision(True, self.min_step, decision.state)
        if self.callbacks is not None:
            self.callbacks.judged(decision.accept and (self.adaptive or finite))
        return decision
