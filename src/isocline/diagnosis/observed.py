"""Wrappers that look on while a solve is taken: at its steps, their errors, the decisions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..adjoints.checkpoints import Checkpoints
from ..controllers.base import Controller, Decision
from ..problem import Plan
from ..solvers.base import Field, Memory, Solver, Step, Stepper, Time
from ..solvers.wrapped import WrappedSolver
from ..state import Packing

__all__ = ["Log", "Sample", "observed"]

_SAMPLES = 24
"""How many starts of steps are kept, for a look at the field there."""


class Sample(NamedTuple):
    """The start of a step, and its length with the sign of its direction."""

    t: float
    y: Tensor
    h: float


class Attempt(NamedTuple):
    """A step that was tried, in order."""

    t: float
    h: float
    ratio: float
    accepted: bool


class Log:
    """What is gathered of one solve.

    Attributes:
        attempts: all steps that were tried.
        shares: mean part of each component in the squared error of its sample, where that sample
            decides, shape (N,); summed over attempts until it is asked for.
        samples: starts of some steps, evenly over the solve.
    """

    def __init__(self, plan: Plan, packing: Packing) -> None:
        self.plan, self.packing = plan, packing
        self.attempts: list[Attempt] = []
        self.shares = torch.zeros(packing.size, dtype=torch.float64)
        self.judged = 0
        self.starts = Checkpoints[Sample](_SAMPLES)
        self._t = self._h = 0.0

    @property
    def samples(self) -> list[Sample]:
        """Starts of some steps, evenly over the solve."""
        return self.starts.states

    def tried(self, t: float, t_next: float, y: Tensor, step: Step) -> None:
        """A step was taken; the decision on it follows."""
        self._t, self._h = t, t_next - t
        self.starts.offer(Sample(t, y, t_next - t))
        if not step.errors:
            return
        rtol, atol = self.plan.rtol, self.plan.atol
        scale = atol + rtol * torch.maximum(y.abs(), step.y1.abs())
        squares = (step.errors[0] / scale).abs().double().square()
        leaves = self.packing.per_sample(squares)
        worst = torch.stack([leaf.mean(1) for leaf in leaves]).sum(0).argmax()
        own = torch.cat([_row(leaf, worst).reshape(-1) for leaf in leaves])
        if bool(own.isfinite().all()) and bool(own.sum() > 0):
            self.shares += (own / own.sum()).cpu()
            self.judged += 1

    def decided(self, ratio: float, accepted: bool) -> None:
        """The decision on the step that was tried last."""
        self.attempts.append(Attempt(self._t, self._h, ratio, accepted))


def _row(leaf: Tensor, sample: Tensor) -> Tensor:
    """The leaf with all samples but one at zero."""
    kept = torch.zeros_like(leaf)
    kept[sample] = leaf[sample]
    return kept


def observed(plan: Plan, packing: Packing) -> tuple[Plan, Log]:
    """The plan under observation, and where the observations go."""
    log = Log(plan, packing)
    controller = _ObservedController(plan.controller, log)
    solver = _ObservedSolver(plan.solver, log)
    return replace(plan, solver=solver, controller=controller, on_step=None), log


class _ObservedController:
    def __init__(self, inner: Controller, log: Log) -> None:
        self.inner, self.log = inner, log

    @property
    def adaptive(self) -> bool:
        return self.inner.adaptive

    @property
    def min_step(self) -> float:
        return self.inner.min_step

    @property
    def max_step(self) -> float:
        return self.inner.max_step

    @property
    def stops(self) -> tuple[float, ...]:
        return self.inner.stops

    def init(self, error_order: int) -> Any:
        return self.inner.init(error_order)

    def decide(self, h: float, error_ratio: float, state: Any) -> Decision:
        decision = self.inner.decide(h, error_ratio, state)
        self.log.decided(error_ratio, decision.accept)
        return decision


class _ObservedSolver(WrappedSolver):
    def __init__(self, solver: Solver, log: Log) -> None:
        super().__init__(solver)
        self.log = log

    def bind(self, field: Field, packing: Packing) -> Stepper:
        return _ObservedStepper(self.solver.bind(field, packing), self.log)


class _ObservedStepper:
    def __init__(self, inner: Stepper, log: Log) -> None:
        self.inner, self.log = inner, log

    @property
    def combine(self) -> Callable[..., Tensor] | None:
        return self.inner.combine

    def init(self, t: Time, y: Tensor, f0: Tensor | None = None) -> Memory:
        return self.inner.init(t, y, f0)

    def step(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        step = self.inner.step(t, t_next, y, memory)
        self.log.tried(float(t), float(t_next), y, step)
        return step

    def advance(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        return self.inner.advance(t, t_next, y, memory)
