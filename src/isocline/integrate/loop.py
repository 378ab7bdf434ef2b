"""The time loop of joint stepping: the whole batch shares one step. It knows nothing of gradients.

One host synchronisation per attempted step: the error ratio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..controllers.base import Controller, Decision
from ..controllers.initial_step import initial_step
from ..problem import Plan, Problem
from ..solution import Status
from ..solvers.base import DensePiece, Memory, Step
from ..solvers.complete import CompleteStepper
from ..state import Packing
from ..transforms import active, everywhere, mapped
from .clock import Clock
from .saving import Saver, dense_piece
from .watch import Hit, Reach, Watch

__all__ = ["Outcome", "Recorder", "Start", "integrate", "not_finite", "targets"]

_STRETCH = 1e-5
"""A step is stretched by up to this fraction to end at its target, which spares a sliver."""

ULPS = 4
"""A step of fewer units in the last place of t than this is an underflow."""


class Recorder(Protocol):
    """What an adjoint remembers of the forward pass."""

    def accepted(self, start: Start, reach: Reach, step: Step, rows: int) -> None:
        """A step was taken from `start`; what counts of it gave `rows` rows of output."""


class Start(NamedTuple):
    """Where a step starts from."""

    y: Tensor
    memory: Memory


@dataclass(slots=True)
class Outcome:
    """What the loop found, still packed.

    Attributes:
        times: times of the rows.
        rows: chunks of saved states, each of shape (rows, N), and of states at events.
        hits: the events that took place, each with the index of its row.
        reduced: what `plan.reduce` made of each row, if it was given; `rows` is empty then.
        y: state at `t_end`.
        message: a sentence with a black box's own words on its failure, or nothing.
        h: length of the step that would have come next.
        pieces, ends: interpolants and step ends, where dense output was asked for.
    """

    t_end: float
    y: Tensor
    h: float = 0.0
    status: Status = Status.SUCCESS
    message: str = ""
    failed_samples: tuple[int, ...] = ()
    accepted: int = 0
    rejected: int = 0
    times: list[float] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)
    hits: list[tuple[Hit, int]] = field(default_factory=list)
    reduced: list[Any] = field(default_factory=list)
    pieces: list[DensePiece] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)


def integrate(
    problem: Problem, plan: Plan, *, clock: Clock | None = None, recorder: Recorder | None = None
) -> Outcome:
    """Solve a problem as planned.

    Args:
        problem, plan: what and how.
        clock: hands out times; by default as floats.
        recorder: told of every accepted step.

    Returns:
        The outcome; a failure is a status, never an exception.
    """
    return _Loop(problem, plan, clock or Clock(problem, plan.ts), recorder).run()


def targets(problem: Problem, controller: Controller) -> list[float]:
    """Times at which a step must end, the first of them last: t1 and the controller's stops."""

    def ahead(t: float) -> float:
        return problem.direction * (t - problem.t0)

    inside = {stop for stop in controller.stops if 0 < ahead(stop) < ahead(problem.t1)}
    return [problem.t1, *sorted(inside, key=ahead, reverse=True)]


def not_finite(packing: Packing, *vectors: Tensor) -> tuple[int, ...]:
    """The samples in which any of some packed vectors is NaN or infinite."""
    if any(map(mapped, vectors)):  # samples of which member?
        return ()
    bad: set[int] = set()
    for vector in vectors:
        for leaf in packing.per_sample(vector.detach()):
            bad.update((~leaf.isfinite().all(dim=1)).nonzero().flatten().tolist())
    return tuple(sorted(bad))


class _Loop:
    """State of one solve: where it stands, the step to try next, and what was found."""

    def __init__(
        self, problem: Problem, plan: Plan, clock: Clock, recorder: Recorder | None
    ) -> None:
        self.problem, self.plan, self.clock, self.recorder = problem, plan, clock, recorder
        self.saver = Saver(problem, plan, clock)
        self.controller = plan.controller
        field_, packing = problem.field, problem.field.packing
        self.stepper = plan.solver.bind(field_, packing)
        told = isinstance(self.stepper, CompleteStepper)
        self.tolerance = None if told else _Tolerance(plan, problem.y0)
        self.sign = problem.direction
        self.targets = targets(problem, self.controller)
        self.found = Outcome(problem.t0, problem.y0)
        self.watch = Watch(plan.events, problem.t0, problem.y0) if plan.events else None
        self.memory = Memory()
        self.control: Any = self.controller.init(plan.solver.error_order)
        self.holds = everywhere if active() else bool
        self.finite = True  # whether the last attempt was
        self.tried = 0.0  # its length, before it was cut short at a target

    def run(self) -> Outcome:
        found = self.found
        self._keep(self.saver.initial_times(), self.saver.initial(found.y))
        self._start()
        attempts = 0
        while self.targets and found.status is Status.SUCCESS:
            if attempts == self.plan.max_steps:
                found.status = Status.MAX_STEPS
                break
            attempts += 1
            self._attempt()
        return found

    def _start(self) -> None:
        """First stage and first step."""
        problem, plan, found = self.problem, self.plan, self.found
        if plan.dt0 is None and isinstance(self.stepper, CompleteStepper):
            self.memory, found.h = self.stepper.begin(problem.t0, problem.t1, found.y)
            self._check_start(self.memory.slope)
            return
        self.memory = self.stepper.init(self.clock.time(problem.t0), found.y, problem.f0)
        if plan.dt0 is not None:
            found.h = plan.dt0
            return
        assert self.tolerance is not None
        with torch.no_grad():
            y0, slope = found.y.detach(), self.memory.slope
            if slope is None:  # a method whose first step needs no slope at its start
                slope = problem.field(y0.real.new_tensor(problem.t0), y0).clone()
            found.h = initial_step(
                lambda t, y: problem.field(y.real.new_tensor(t), y),
                problem.t0,
                y0,
                slope.detach(),
                problem.t1 - problem.t0,
                plan.solver.error_order,
                self.tolerance.scale(y0),
                plan.norm,
            )
        self._check_start(slope)

    def _check_start(self, slope: Tensor | None) -> None:
        """A first step that is NaN says that the field is not finite at the start."""
        if math.isnan(self.found.h):
            self.found.status = Status.NON_FINITE
            self.found.failed_samples = (
                () if slope is None else not_finite(self.problem.field.packing, slope)
            )

    def _attempt(self) -> None:
        """Try one step, and take it or shorten it."""
        found, t = self.found, self.found.t_end
        t_next = self._next_time()
        h = abs(t_next - t)
        if h < self._shortest(t) and t_next != self.targets[-1]:
            self._underflow(None)
            return
        step = self.stepper.step(self.clock.time(t), self.clock.time(t_next), found.y, self.memory)
        ratio = step.measured
        if ratio is None:
            ratio = self._ratio(step)
        decision = self.controller.decide(h, ratio, self.control)
        self.control = decision.state
        if decision.accept and (self.controller.adaptive or math.isfinite(ratio)):
            self._accept(t, t_next, step, decision)
        else:
            self._reject(step, ratio, decision)

    def _shortest(self, t: float) -> float:
        """The least length that moves the time; near t = 0 in proportion to the span."""
        span = abs(self.problem.t1 - self.problem.t0)
        least = 1e-6 * span if math.isfinite(span) else 0.0
        return ULPS * math.ulp(max(abs(t), least))

    def _next_time(self) -> float:
        """End of the step to try: at most the next target, and never past it."""
        t, target = self.found.t_end, self.targets[-1]
        bounds = self.controller
        self.tried = h = min(max(self.found.h, bounds.min_step), bounds.max_step)
        if abs(target - t) <= h * (1.0 + _STRETCH):
            return target
        return t + self.sign * h

    def _ratio(self, step: Step) -> float:
        """Error over tolerance; for a constant step 0, or NaN where the state is not finite."""
        y1 = step.y1.detach()
        if not self.controller.adaptive:
            # A sum is cheaper than a look at each element; it may overflow, hence the second look.
            finite = self.holds(y1.sum().isfinite()) or self.holds(y1.isfinite().all())
            return 0.0 if finite else math.nan
        if torch.is_grad_enabled():  # entering the context costs as much as an operation
            with torch.no_grad():
                return self._ratio(step)
        assert self.tolerance is not None  # a step that measured itself is not asked again
        scale = self.tolerance.scale_to(y1)
        scaled = [error / scale for error in step.errors]
        found = self.plan.norm(*scaled, combine=self.stepper.combine)
        return step.judge(found.tolist() if found.ndim else [found.item()])

    def _accept(self, t: float, t_next: float, step: Step, decision: Decision) -> None:
        found = self.found
        reach = Reach(t, t_next) if self.watch is None else self.watch.reach(t, t_next, step)
        rows = self.saver.rows(reach, step)
        if rows:
            self._keep(self.saver.times(reach), rows)
            first = len(found.times) - len(reach.hits)
            found.hits += [(hit, first + i) for i, hit in enumerate(reach.hits)]
        if self.plan.save.dense:
            found.pieces.append(dense_piece(step))
            found.ends.append(reach.end)
        if self.recorder is not None:
            self.recorder.accepted(Start(found.y, self.memory), reach, step, sum(map(len, rows)))
        # A step cut short at a target says little about the next: keep the length it had before.
        cut_short = t_next == self.targets[-1] and abs(t_next - t) < self.tried
        found.h = max(self.tried, decision.h) if cut_short else decision.h
        found.accepted += 1
        self.finite = True
        if self.plan.on_step is not None:
            self.plan.on_step(reach.end)
        if reach.cut:
            found.status, found.t_end, found.y = Status.EVENT, reach.end, rows[-1][-1]
            return
        found.t_end, found.y, self.memory = t_next, step.y1, step.memory
        if self.tolerance is not None:
            self.tolerance.advance()
        if t_next == self.targets[-1]:
            self.targets.pop()

    def _keep(self, times: list[float], rows: tuple[Tensor, ...]) -> None:
        self.found.times += times
        reduce = self.plan.reduce
        if reduce is None:
            self.found.rows += rows
        else:
            states = (row for chunk in rows for row in chunk)
            self.found.reduced += map(reduce, times, states)

    def _reject(self, step: Step, ratio: float, decision: Decision) -> None:
        found = self.found
        found.rejected += 1
        found.h, self.memory = decision.h, step.retry
        self.finite = math.isfinite(ratio)
        too_short = self.tried <= self.controller.min_step or decision.h < self._shortest(
            found.t_end
        )
        if too_short or not self.controller.adaptive:
            self._underflow(step)

    def _underflow(self, step: Step | None) -> None:
        """No shorter step can help: say whether for the tolerance or for a state not finite."""
        found = self.found
        found.status = Status.STEP_UNDERFLOW if self.finite else Status.NON_FINITE
        if step is not None and not self.finite:
            found.failed_samples = not_finite(self.problem.field.packing, step.y1, *step.errors)
            if step.unsolved:
                found.status = Status.UNSOLVED


class _Tolerance:
    """The scale that errors are measured against: atol + rtol * max(|y|, |y1|), elementwise."""

    def __init__(self, plan: Plan, y0: Tensor) -> None:
        real = y0.detach().real
        # A floor keeps 0 / 0 out of the error ratio where atol and the state are both zero.
        floor = torch.finfo(real.dtype).tiny ** 0.5
        atol = torch.as_tensor(plan.atol, dtype=real.dtype, device=real.device)
        self.atol = atol.clamp(min=floor)
        self.rtol = plan.rtol
        self.size = y0.detach().abs()
        self._next = self.size

    def scale(self, y: Tensor) -> Tensor:
        return self._weigh(y.abs())

    def scale_to(self, y1: Tensor) -> Tensor:
        """Scale of a step from the present state to `y1`."""
        self._next = y1.abs()
        return self._weigh(torch.maximum(self.size, self._next))

    def advance(self) -> None:
        """The step was taken: its end is the present state."""
        self.size = self._next

    def _weigh(self, size: Tensor) -> Tensor:
        if isinstance(self.rtol, Tensor):
            return torch.addcmul(self.atol, self.rtol, size)
        return torch.add(self.atol, size, alpha=self.rtol)
