"""The reverse solve of Backsolve: y, its adjoint and the parameters' from anchor to anchor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..capture import Guard
from ..integrate import Outcome, Reach, Start, integrate
from ..problem import Plan, Problem
from ..solvers.base import Step, Stepper
from .augmented import (
    AdjointField,
    ReverseNorm,
    adjoint_norm,
    by_parameter,
    extended,
    reverse_norm,
)
from .continuous import check_outcome
from .drift import Drift
from .sweep import (
    Anchor,
    Impulses,
    Jump,
    SweepingSolver,
    SweepingStepper,
    SweptStep,
    can_sweep,
)

__all__ = ["Reverse"]


class Reverse:
    """The reverse solve of state and adjoints, in one sweep or from stop to stop.

    Args:
        problem: what was solved forward.
        plan: of the reverse solve, for the state alone.
        anchors: where the state is known, in the order in which they are met.
        tensors: all that the field depends on, and those of them that want a gradient.
        norm: of the errors; None for the plan's, of state and adjoint each.
        seminorm: whether to leave out the parameters' adjoint from that.
    """

    def __init__(
        self,
        problem: Problem,
        plan: Plan,
        anchors: Sequence[Anchor],
        tensors: tuple[Sequence[Tensor], Sequence[Tensor]],
        *,
        norm: ReverseNorm | None,
        seminorm: bool,
    ) -> None:
        self.problem, self.anchors = problem, anchors
        self.known, self.captured = tensors
        self.size = problem.y0.numel()
        self.guard = Guard(self.known)
        self.field = AdjointField(problem.field, self.captured, self.guard)
        self.drift = Drift(plan, problem.y0)
        self.alone = plan
        count = self.field.packing.size - 2 * self.size
        self.plan = replace(
            plan,
            rtol=extended(plan.rtol, self.size, count),
            atol=extended(plan.atol, self.size, count),
            norm=adjoint_norm(plan.norm, self.size, seminorm)
            if norm is None
            else reverse_norm(norm, problem.field.packing, self.captured),
        )

    def run(self) -> tuple[Tensor, list[Tensor | None]]:
        """The adjoint at t0, and the gradients of the captured tensors."""
        first, *others = self.anchors
        start = torch.zeros_like(first.y) if first.cotangent is None else first.cotangent
        parameters = start.new_zeros(self.field.packing.size - 2 * self.size)
        state = torch.cat([first.y, start, parameters])
        if can_sweep(self.alone, self.problem.field, first.y):
            state = self._sweep(first.t, state, others)
        else:
            state = self._stop(first.t, state, others)
        y, adjoint, parameters = self.split(state)
        self.drift.note(self.problem.t0, self.drift.between(y, self.problem.y0))
        self.drift.warn()
        return adjoint, self._gradients(parameters)

    def split(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """State, adjoint and parameters' adjoint."""
        y, adjoint, parameters = state.tensor_split((self.size, 2 * self.size))
        return y, adjoint, parameters

    def accepted(self, start: Start, reach: Reach, step: Step, rows: int) -> None:
        """Note what an accepted step found of the drift."""
        if isinstance(step, SweptStep):
            for t, tolerances in step.jump.drifts:
                self.drift.note(t, tolerances)

    def _sweep(self, t: float, state: Tensor, anchors: Sequence[Anchor]) -> Tensor:
        """From t to t0 at one go."""
        impulses = Impulses(
            self.problem.field,
            self.alone,
            anchors,
            self.captured,
            self.guard,
            -self.problem.direction,
        )

        def make(inner: Stepper) -> SweepingStepper:
            return _SweepingStepper(inner, impulses, self)

        solver = self.plan.solver if not anchors else SweepingSolver(self.plan.solver, make)
        return self._solve(t, self.problem.t0, state, replace(self.plan, solver=solver)).y

    def _stop(self, t: float, state: Tensor, anchors: Sequence[Anchor]) -> Tensor:
        """From t to t0 with a stop at each anchor."""
        plan = self.plan
        for anchor in anchors:
            outcome = self._solve(t, anchor.t, state, plan)
            if plan.controller.adaptive:  # go on at the pace found, rather than start anew
                plan = replace(plan, dt0=outcome.h)
            y, adjoint, parameters = self.split(outcome.y)
            self.drift.note(anchor.t, self.drift.between(y, anchor.y))
            adjoint = adjoint if anchor.cotangent is None else adjoint + anchor.cotangent
            t, state = anchor.t, torch.cat([anchor.y, adjoint, parameters])
        return self._solve(t, self.problem.t0, state, plan).y

    def _solve(self, t: float, target: float, state: Tensor, plan: Plan) -> Outcome:
        problem = Problem(self.field, state, t, target)  # type: ignore[arg-type]
        recorder = self if isinstance(plan.solver, SweepingSolver) else None
        outcome = integrate(problem, plan, recorder=recorder)
        check_outcome("Backsolve", outcome, t, target)
        return outcome

    def _gradients(self, parameters: Tensor) -> list[Tensor | None]:
        """Gradients of the captured tensors, None for those that no evaluation used."""
        pieces = by_parameter(parameters, self.captured).items()
        found = {
            id(tensor): piece
            for (tensor, piece), touched in zip(pieces, self.field.touched, strict=True)
            if touched
        }
        return [found.get(id(tensor)) for tensor in self.known]


class _SweepingStepper(SweepingStepper):
    """Steps of state and adjoints that jump at anchors, and put y right there."""

    def __init__(self, inner: Stepper, impulses: Impulses, reverse: Reverse) -> None:
        super().__init__(inner, impulses)
        self.reverse, self.drift = reverse, reverse.drift

    def jump(self, t: float, t_next: float, state: Tensor, anchors: Sequence[Anchor]) -> Jump:
        """Raise the adjoints by what the anchors are worth at t; put y right if one is at t."""
        y, adjoint, parameters = self.reverse.split(state)
        drifts: tuple[tuple[float, float], ...] = ()
        if anchors[0].t == t:
            here, *anchors = anchors
            drifts = ((t, self.drift.between(y, here.y)),)
            y = here.y
            adjoint = adjoint if here.cotangent is None else adjoint + here.cotangent
        pulled = None
        if any(anchor.cotangent is not None for anchor in anchors):
            pulled = self.impulses.pull(t, t_next, y, anchors)
            adjoint = adjoint + pulled.adjoint
            raised = self.reverse.field.flattened(pulled.parameters)
            parameters = parameters + torch.cat(raised) if raised else parameters
        return Jump(torch.cat([y, adjoint, parameters]), anchors, pulled, drifts)

    def land(self, t_next: float, jump: Jump, step: Step) -> Tensor:
        """Put y right at the end, from the last anchor within the step.

        A drift within the tolerance is taken off; it grows by no more than the flow stretches it
        from there to the end. A larger one is left behind by a step of y alone from the anchor.
        """
        if not jump.inside:
            return step.y1
        t, known, _ = jump.inside[-1]
        if jump.pulled is None:
            time = torch.tensor([t], dtype=torch.float64)
            y, _, _ = self.reverse.split(step.dense().at(time)[0])
        else:
            y = jump.pulled.y
        drift = self.drift.between(y, known)
        jump.drifts += ((t, drift),)
        end, *adjoints = self.reverse.split(step.y1)
        put_right = end + (known - y) if drift <= 1 else self.impulses.advance(t, t_next, known)
        return torch.cat([put_right, *adjoints])
