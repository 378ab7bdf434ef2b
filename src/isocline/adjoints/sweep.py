"""One reverse sweep over any number of outputs, none of which cuts a step.

An output at t_i adds its cotangent g_i to the adjoint a at that time. Let a step of the reverse
solve run from t_n past t_i to t_{n+1}. Within it y(t_i) is a function psi_i(y_n, theta) of the
state at its start, by the method's own interpolant; so through y(t_i) the loss depends on the
start of the step and on theta, and may as well be told so there:

    a(t_n) += (d psi_i / d y_n)^T g_i,    dL/d theta += (d psi_i / d theta)^T g_i.

A step of y alone, with a graph, and one vector-Jacobian product give both for all outputs in the
step; then the step proper is taken from the adjoint so raised. Steps stay as long as the
tolerance allows, at the order of the method and of its interpolant, and one that holds outputs
costs twice the evaluations, however many it holds. All of this is a function of the step's ends
and its start, so that a rejected try leaves nothing behind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..capture import Guard, operations_so_far
from ..problem import PackedField, Plan
from ..solvers.base import DensePiece, Field, Memory, Solver, Step, Stepper, Time
from ..solvers.external import Boxed
from ..solvers.wrapped import WrappedSolver
from ..state import Packing
from .base import pulled_back

__all__ = [
    "Anchor",
    "Impulses",
    "Jump",
    "SweepingSolver",
    "SweepingStepper",
    "SweptStep",
    "anchors_of",
    "can_sweep",
]


class Anchor(NamedTuple):
    """A time at which the state is known from the forward pass.

    Attributes:
        t: the time.
        y: packed state there, shape (N,).
        cotangent: gradient of the loss with respect to that state as an output, shape (N,); None
            where the loss does not depend on it.
    """

    t: float
    y: Tensor
    cotangent: Tensor | None = None


def anchors_of(
    times: Sequence[float], rows: Tensor, cotangents: Tensor, direction: int
) -> list[Anchor]:
    """Outputs as anchors, in the order in which a reverse solve meets them, one for each time.

    None of those that come before the first which the loss depends on, unless it depends on none.

    Args:
        times: of the outputs.
        rows, cotangents: states and their cotangents, each shape (T, N).
        direction: +1 where time rises in the forward solve, -1 where it falls.
    """
    wanted = cotangents.ne(0).any(1).tolist()  # a NaN is not equal to zero: it is passed on
    found: list[Anchor] = []
    for row in sorted(range(len(times)), key=lambda row: -direction * times[row]):
        t, cotangent = times[row], cotangents[row] if wanted[row] else None
        if not found or found[-1].t != t:
            found.append(Anchor(t, rows[row], cotangent))
        elif cotangent is not None:
            before = found[-1].cotangent
            both = cotangent if before is None else before + cotangent
            found[-1] = found[-1]._replace(cotangent=both)
    first = next((i for i, anchor in enumerate(found) if anchor.cotangent is not None), 0)
    return found[first:]


def can_sweep(plan: Plan, field: PackedField, y: Tensor) -> bool:
    """Whether the state may jump between two steps.

    It may not for a black box, nor where a method hands more than a slope from step to step.
    """
    if isinstance(plan.solver, Boxed):
        return False
    memory = plan.solver.bind(field, field.packing).init(0.0, y, torch.zeros_like(y))
    return not memory.carried and memory.numbers is None


class Pulled(NamedTuple):
    """What the outputs within a step are worth at its start.

    Attributes:
        adjoint: cotangent of the state there, shape (N,).
        parameters: gradients of the captured tensors, None where nothing depends on one.
        y: the state at the last of the anchors, as this step interpolates it.
    """

    adjoint: Tensor
    parameters: tuple[Tensor | None, ...]
    y: Tensor


class Impulses:
    """The anchors of a reverse solve, and what those within a step are worth at its start.

    Args:
        field: the packed field.
        plan: of the reverse solve; its method takes the steps of y.
        anchors: in the order in which the reverse solve meets them.
        captured: the tensors that are to receive a gradient.
        guard: sees to it that no tensor is missed.
        direction: of time in the reverse solve.
    """

    def __init__(
        self,
        field: PackedField,
        plan: Plan,
        anchors: Sequence[Anchor],
        captured: Sequence[Tensor],
        guard: Guard,
        direction: int,
    ) -> None:
        self.anchors, self.captured, self.guard = anchors, captured, guard
        self._direction = direction
        self._rising = [direction * anchor.t for anchor in anchors]
        self._stepper = plan.solver.bind(field, field.packing)

    def within(self, t: float, t_next: float) -> Sequence[Anchor]:
        """The anchors from t on, before `t_next`: one at `t_next` belongs to the next step."""
        first = bisect_left(self._rising, self._direction * t)
        return self.anchors[first : bisect_left(self._rising, self._direction * t_next)]

    def pull(self, t: float, t_next: float, y: Tensor, anchors: Sequence[Anchor]) -> Pulled:
        """What these anchors within the step from (t, y) to `t_next` are worth at its start."""
        times = torch.tensor([anchor.t for anchor in anchors], dtype=torch.float64)
        nothing = torch.zeros_like(y)
        weights = [nothing if a.cotangent is None else a.cotangent for a in anchors]
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            before = operations_so_far(leaf)
            # Without an error estimate: whether the step is good enough the step proper tells.
            rows = self._stepper.advance(t, t_next, leaf, None).dense().at(times)
            size = operations_so_far(leaf) - before
        self.guard.check([rows], [leaf], size)
        adjoint, *parameters = pulled_back([rows], [torch.stack(weights)], [leaf, *self.captured])
        return Pulled(adjoint, tuple(parameters), rows[-1].detach())

    def advance(self, t: float, t_next: float, y: Tensor) -> Tensor:
        """The state at `t_next` by one step of y alone from (t, y), without a graph."""
        return self._stepper.advance(t, t_next, y, None).y1


@dataclass(slots=True)
class Jump:
    """Where a step that holds anchors starts.

    Attributes:
        state: what the step starts from.
        inside: the anchors strictly within the step.
        pulled: what those are worth; None if they have no cotangents.
        drifts: (time, tolerances): how far y had strayed, wherever that was measured.
    """

    state: Tensor
    inside: Sequence[Anchor]
    pulled: Pulled | None
    drifts: tuple[tuple[float, float], ...] = ()


@dataclass(slots=True)
class SweptStep(Step):
    """A step that holds anchors.

    Attributes:
        inner: the step proper.
        jump: where it started.
        moved: whether `y1` is another than that of the step proper.
    """

    inner: Step
    jump: Jump
    moved: bool

    def dense(self) -> DensePiece:
        """The continuous extension of the step proper."""
        piece = self.inner.dense()
        if not self.moved:
            self.memory = self.inner.memory
        return piece

    def judge(self, ratios: Sequence[float]) -> float:
        """The ratio that the controller is to see."""
        return self.inner.judge(ratios)

    @property
    def unsolved(self) -> bool:
        """Whether the equations that y1 is defined by could not be solved."""
        return self.inner.unsolved


class SweepingStepper(ABC):
    """Steps of a reverse solve that jumps at anchors. Not for methods that carry a memory.

    Args:
        inner: takes the steps proper.
        impulses: the anchors.
    """

    def __init__(self, inner: Stepper, impulses: Impulses) -> None:
        self.inner, self.impulses = inner, impulses

    @abstractmethod
    def jump(self, t: float, t_next: float, state: Tensor, anchors: Sequence[Anchor]) -> Jump:
        """The start of a step that holds these anchors, the first of them perhaps at t."""

    def land(self, t_next: float, jump: Jump, step: Step) -> Tensor:
        """The end of a step that started with a jump."""
        return step.y1

    @property
    def combine(self) -> Callable[..., Tensor] | None:
        """The rule of the method proper."""
        return self.inner.combine

    def init(self, t: Time, y: Tensor, f0: Tensor | None = None) -> Memory:
        """Memory for the first step."""
        return self.inner.init(t, y, f0)

    def step(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """One step with its error estimate, from where the anchors in it put its start."""
        start, end = float(t), float(t_next)
        anchors = self.impulses.within(start, end)
        if not anchors:
            return self.inner.step(t, t_next, y, memory)
        jump = self.jump(start, end, y, anchors)
        step = self.inner.step(t, t_next, jump.state, None)  # no slope is known where it jumped to
        y1 = self.land(end, jump, step)
        moved = y1 is not step.y1
        return SweptStep(
            y1=y1,
            errors=step.errors,
            memory=Memory() if moved else step.memory,
            retry=memory or Memory(),  # what is known before the jump: another try jumps elsewhere
            inner=step,
            jump=jump,
            moved=moved,
        )

    def advance(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """The same, with its error estimate: nobody replays a reverse solve."""
        return self.step(t, t_next, y, memory)


class SweepingSolver(WrappedSolver):
    """A solver whose steps jump at anchors.

    Args:
        solver: the solver proper.
        make: makes the stepper out of the one that takes the steps proper.
    """

    def __init__(self, solver: Solver, make: Callable[[Stepper], SweepingStepper]) -> None:
        super().__init__(solver)
        self.make = make

    def bind(self, field: Field, packing: Packing) -> Stepper:
        """The solver proper, bound, and wrapped."""
        return self.make(self.solver.bind(field, packing))
