"""The reverse solve of Backsolve by lanes: states and adjoints of all samples, each at its pace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..capture import Guard
from ..errors import InputError
from ..integrate import Output, Round, SampleOutcome, integrate_samples
from ..samples import SamplePlan, SampleProblem
from ..solution import ERRORS, Status
from ..solvers.lane_methods import LaneMethod, explicit_lanes
from ..solvers.lanes import (
    ExplicitLanes,
    ExplicitLaneStep,
    LaneQuadrature,
    LaneStep,
    LaneStepper,
)
from ..state import State
from .augmented import ReverseNorm
from .drift import LaneDrift
from .lane_adjoint import AdjointSamples
from .lane_anchors import LaneAnchors
from .lane_sweep import SweepingLanes, SweptLanes

__all__ = ["LaneReverse"]

LaneNorm = Callable[[Tensor], Tensor]


class LaneReverse:
    """One reverse solve; the recorder of its loop.

    Args:
        problem: what was solved forward.
        plan: of the reverse solve, for the states of all samples alone.
        anchors: where states are known; at least one sample works.
        tensors: all that the field depends on, and those of them that want a gradient.
        norm: of the errors; None for the plan's, of state and adjoint each.
    """

    def __init__(
        self,
        problem: SampleProblem,
        plan: SamplePlan,
        anchors: LaneAnchors,
        tensors: tuple[Sequence[Tensor], Sequence[Tensor]],
        *,
        norm: ReverseNorm | None,
    ) -> None:
        self.problem, self.anchors = problem, anchors
        self.known, captured = tensors
        working = anchors.working
        self.field = AdjointSamples(problem.field, working, captured, Guard(self.known))
        rtol, atol = (_of(value, working) for value in (plan.rtol, plan.atol))
        dt0 = None if plan.dt0 is None else plan.dt0.index_select(0, working)
        alone = replace(plan, rtol=rtol, atol=atol, dt0=dt0)
        self.drift = LaneDrift(alone, anchors.y)
        width, unpack = problem.field.width, problem.field.unpack
        self.plan = replace(
            alone,
            rtol=_twice(rtol),
            atol=_twice(atol),
            norm=_both(plan.norm, width) if norm is None else _own(norm, width, unpack),
        )
        packing = problem.field.packing
        self._alone = explicit_lanes("solver", plan.solver, packing.dtype, packing.device)
        self._sweeping: SweepingLanes | None = None

    def run(self) -> tuple[Tensor, list[Tensor | None]]:
        """Adjoints of all samples at their t0, shape (batch, width); of the captured tensors."""
        anchors, working, width = self.anchors, self.field.working, self.field.width
        state = torch.cat([anchors.y, anchors.adjoint], 1)
        start, end = anchors.start, anchors.end
        problem = SampleProblem(self.field, state, start, end)  # type: ignore[arg-type]
        outcome = integrate_samples(problem, self.plan, recorder=self)
        self._check(outcome)
        places = torch.cat([output.samples for output in outcome.outputs])
        state = torch.empty_like(state).index_copy(0, places, torch.cat(outcome.rows))
        y, adjoint = state.split(width, 1)
        everyone = torch.arange(len(working), device=working.device)
        missed = self.drift.between(everyone, y, self.problem.y0.index_select(0, working))
        self.drift.note(everyone, end, missed)
        adjoints = torch.zeros_like(self.problem.y0).index_copy(0, working, adjoint)
        totals = zip(self.field.captured, self.field.totals.totals, strict=True)
        found = {id(tensor): total for tensor, total in totals}
        return adjoints, [found.get(id(tensor)) for tensor in self.known]

    def warn(self) -> None:
        """Warn if a sample's state drifted far, of that which drifted farthest."""
        self.drift.warn(self.field.working, self.field.signs)

    def stepper(self, stepper: LaneMethod) -> LaneStepper:
        """The steps proper, or those that jump at anchors if there are any on the way."""
        if not self.anchors.any:
            return stepper
        assert isinstance(stepper, ExplicitLanes)  # since `reverse_lanes`
        self._sweeping = SweepingLanes(stepper, self._alone, self.field, self.anchors, self.drift)
        return self._sweeping

    def began(self, initial: Output | None) -> None:
        """Nothing is saved on the way."""

    def accepted(self, round_: Round, step: LaneStep) -> None:
        """Gather what the steps that count are worth to the captured tensors."""
        samples, taken = round_.samples, round_.taken
        if isinstance(step, SweptLanes):
            self._gather_inside(round_, step)
            step = step.inner
        assert isinstance(step, ExplicitLaneStep)
        nodes = step.quadrature()
        if taken is not None:
            samples = samples.index_select(0, taken)
            nodes = LaneQuadrature(*(part.index_select(1, taken) for part in nodes))
        self.field.gather(samples, nodes)

    def _gather_inside(self, round_: Round, step: SweptLanes) -> None:
        """The same of the outputs within steps; and note of lanes that moved how far y strayed."""
        counts = torch.ones_like(round_.samples, dtype=torch.bool)
        if round_.taken is not None:
            counts = torch.zeros_like(counts).index_fill(0, round_.taken, True)
        for lanes, times, drift in step.drifts:
            own = counts[lanes]
            self.drift.note(round_.samples[lanes[own]], times[own], drift[own])
        if step.pulled is not None:
            assert self._sweeping is not None
            kept = counts.index_select(0, step.pulled.inside.lanes)
            self._sweeping.gather(step.pulled, kept)

    def left(self, stay: Tensor) -> None:
        """Lanes are not looked back at."""

    def _check(self, outcome: SampleOutcome) -> None:
        """Raise the typed error of samples that stopped on their way."""
        statuses = outcome.statuses
        failed = [i for i, status in enumerate(statuses) if status is not Status.SUCCESS]
        if not failed:
            return
        first = failed[0]
        clocks = [outcome.t_end[first], self.anchors.start[first], self.anchors.end[first]]
        sign = float(self.field.signs[first])
        t, began, target = (sign * float(clock) for clock in clocks)
        numbers = tuple(int(self.field.working[i]) for i in failed)
        raise ERRORS[statuses[first]](
            f"the reverse solve of Backsolve stopped in {len(failed)} of {len(statuses)} samples: "
            f"in sample {numbers[0]} at t = {t:.9g} on its way from {began:.9g} to {target:.9g}: "
            f"{statuses[first].value}. The flow may be unstable in reverse: "
            "`adjoint=Checkpointed()` takes no reverse solve.",
            time=t,
            samples=numbers,
        )


def _of(value: float | Tensor, working: Tensor) -> float | Tensor:
    """A tolerance of some samples."""
    return value.index_select(0, working) if isinstance(value, Tensor) else value


def _twice(value: float | Tensor) -> float | Tensor:
    """A tolerance of states, for adjoints too."""
    return torch.cat([value, value], 1) if isinstance(value, Tensor) else value


def _both(norm: LaneNorm, width: int) -> LaneNorm:
    """The larger of each lane's norms of its state and of its adjoint."""

    def larger(errors: Tensor) -> Tensor:
        y, adjoint = errors.split(width, 1)
        return torch.maximum(norm(y), norm(adjoint))

    return larger


def _own(norm: ReverseNorm, width: int, unpack: Callable[[Tensor], State]) -> LaneNorm:
    """The user's norm, of the parts of lanes; parameters have none, since they have no lane."""

    def measured(errors: Tensor) -> Tensor:
        y, adjoint = errors.split(width, 1)
        found: Any = norm(unpack(y), unpack(adjoint), {})
        if not isinstance(found, Tensor) or found.shape != (len(errors),) or found.is_complex():
            given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                "Backsolve.norm",
                f"a function that returns {given}",
                f"real, one number for each sample that it is given, shape ({len(errors)},)",
            )
        return found

    return measured
