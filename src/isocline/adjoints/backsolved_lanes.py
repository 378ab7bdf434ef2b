"""Backsolve where each sample has its own steps: the two solves, as a part of autograd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..capture import Captured
from ..integrate import SampleOutcome, integrate_samples
from ..problem import SaveAt
from ..samples import SamplePlan, SampleProblem, SampleTimes
from ..solution import Statistics
from ..solvers.lane_methods import explicit_lanes
from ..validate_samples import check_first_steps, check_tolerances
from .augmented import ReverseNorm
from .base import Inputs, backward_work, check_single, once
from .continuous import Settings, reverse_method
from .lane_anchors import LaneAnchors, Rows
from .lane_reverse import LaneReverse
from .lane_states import LaneStates
from .samples import SampleTrajectory

__all__ = ["BacksolveSettings", "backsolved_lanes", "reverse_lanes"]

Gradients = list[Tensor | None]


class BacksolveSettings(Settings, Protocol):
    """What the user chose of the adjoint."""

    @property
    def norm(self) -> ReverseNorm | None:
        """Of the errors of the reverse solve."""

    @property
    def checkpoints(self) -> int:
        """How many further states to keep of each sample."""

    def wanted(self, captured: Sequence[Tensor]) -> list[Tensor]:
        """Those of the captured tensors that are to receive a gradient."""


def reverse_lanes(settings: Settings, problem: SampleProblem, plan: SamplePlan) -> SamplePlan:
    """The plan of the reverse solve, for the states alone; see `continuous.reverse_plan`.

    Raises:
        InputError: if the method cannot step as planned.
    """
    solver, controller = reverse_method(settings, plan)
    packing = problem.field.packing
    name = type(settings).__name__
    explicit_lanes(f"{name}.solver", solver, packing.dtype, packing.device)
    rtol, atol, dt0 = plan.rtol, plan.atol, plan.dt0 if settings.controller is None else None
    if settings.rtol is not None:
        rtol = check_tolerances(f"{name}.rtol", settings.rtol, packing)
    if settings.atol is not None:
        atol = check_tolerances(f"{name}.atol", settings.atol, packing)
    if settings.dt0 is not None:
        dt0 = check_first_steps(settings.dt0, packing)
    return replace(
        plan,
        solver=solver,
        controller=controller,
        rtol=rtol,
        atol=atol,
        dt0=dt0,
        max_steps=plan.max_steps if settings.max_steps is None else settings.max_steps,
        save=SaveAt(),
        events=(),
        on_step=None,
    )


def backsolved_lanes(
    settings: BacksolveSettings,
    problem: SampleProblem,
    plan: SamplePlan,
    captured: Captured,
    stats: Statistics,
) -> SampleTrajectory:
    """Integrate without a graph, and attach the reverse solve to the answer."""
    solves = _Solves(settings, problem, plan, reverse_lanes(settings, problem, plan), stats)
    inputs = Inputs(captured, problem.field.tensor_args)
    times = (None, None, None) if problem.times is None else problem.times
    every = (problem.y0, *times, *captured.tensors)
    rows = _BacksolvedLanes.apply(solves, inputs, *every)  # type: ignore[no-untyped-call]
    return SampleTrajectory(solves.outcome, rows if len(rows) else None)


class _Solves:
    """The forward solve, and the reverse one that differentiates it."""

    outcome: SampleOutcome
    kept: tuple[Tensor, Tensor]  # samples and clocks of the further states

    def __init__(
        self,
        settings: BacksolveSettings,
        problem: SampleProblem,
        plan: SamplePlan,
        reverse: SamplePlan,
        stats: Statistics,
    ) -> None:
        self.settings, self.plan, self.reverse, self.stats = settings, plan, reverse, stats
        # Where times are traced, the rows of `ts` come all from steps, also those at a start: the
        # loop sees to it by `times`, which must not hold the caller's graph here.
        self.timed = problem.times is not None
        times = problem.times
        if times is not None:
            ts = None if times.ts is None else times.ts.detach()
            times = SampleTimes(times.t0.detach(), times.t1.detach(), ts)
        self.problem = replace(problem, y0=problem.y0.detach(), times=times)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Integrate; the rows, shape (rows, width), and the further states."""
        problem, count = self.problem, self.settings.checkpoints
        keeper = LaneStates(problem, count) if count else None
        self.outcome = found = integrate_samples(problem, self.plan, recorder=keeper)
        none = problem.y0.new_empty(0, problem.y0.shape[1])
        rows, found.rows = torch.cat([none, *found.rows]), []
        nobody = torch.empty(0, dtype=torch.long, device=none.device)
        kept = (nobody, problem.t0[:0], none) if keeper is None else keeper.kept()
        self.kept = kept[:2]
        return rows, kept[2]

    def backward(
        self, states: Tensor, cotangents: Tensor, further: Tensor, captured: Sequence[Tensor]
    ) -> Gradients:
        """Gradients of y0, t0, t1 and ts, and of the captured tensors."""
        problem, outcome = self.problem, self.outcome
        before = problem.field.evaluations
        initial = 0 if outcome.initial is None else len(outcome.initial.samples)
        rows = self._rows(states[initial:], cotangents[initial:])
        samples, clocks = self.kept
        every = Rows(
            torch.cat([rows.samples, samples]),
            torch.cat([rows.clocks, clocks]),
            torch.cat([rows.states, further]),
            torch.cat([rows.cotangents, torch.zeros_like(further)]),
        )
        anchors = LaneAnchors(every, problem.t0)
        adjoint, parameters = torch.zeros_like(problem.y0), _nothing(len(captured))
        if len(anchors.working):
            tensors = captured, self.settings.wanted(captured)
            norm = self.settings.norm
            reverse = LaneReverse(problem, self.reverse, anchors, tensors, norm=norm)
            adjoint, parameters = reverse.run()
        at_start = rows.clocks == problem.t0.index_select(0, rows.samples)
        adjoint = adjoint.index_add(0, rows.samples[at_start], rows.cotangents[at_start])
        times = self._times(adjoint, rows) if self.timed else _nothing(3)
        if outcome.initial is not None:
            adjoint = adjoint.index_add(0, outcome.initial.samples, cotangents[:initial])
        self.stats.nfe_backward += problem.field.evaluations - before
        return [adjoint, *times, *parameters]

    def _rows(self, states: Tensor, cotangents: Tensor) -> Rows:
        """The output that steps gave."""
        outputs = self.outcome.outputs
        nobody, never = self.problem.t0.new_empty(0, dtype=torch.long), self.problem.t0[:0]
        samples = torch.cat([nobody, *(output.samples for output in outputs)])
        clocks = torch.cat([never, *(output.clocks for output in outputs)])
        return Rows(samples, clocks, states, cotangents)

    def _times(self, adjoint: Tensor, rows: Rows) -> Gradients:
        """Gradients of t0, t1 and ts, by the clocks."""
        problem = self.problem
        assert problem.times is not None
        everyone = torch.arange(len(problem.t0), device=problem.t0.device)
        g_t0 = -self._along(Rows(everyone, problem.t0, problem.y0, adjoint))
        rates = self._along(rows)
        g_t1, g_ts = torch.zeros_like(problem.t1), None
        if problem.times.ts is not None:
            g_ts = torch.zeros_like(problem.times.ts)
        place = 0
        for output in self.outcome.outputs:
            between, count = len(output.owners), len(output.samples)
            own = rates[place : place + count]
            samples = output.samples[between:]
            last = output.clocks[between:] == problem.t1.index_select(0, samples)
            g_t1.index_add_(0, samples, own[between:] * last)
            if g_ts is not None:
                g_ts.view(-1).index_add_(0, output.wanted, own[: len(output.wanted)])
            place += count
        return [g_t0, g_t1, g_ts]

    def _along(self, rows: Rows) -> Tensor:
        """The rates at which a loss with these cotangents changes along the flow, shape (rows,)."""
        rates = torch.zeros_like(rows.clocks)
        wanted = rows.wanted.nonzero().squeeze(1)
        if not wanted.shape[0]:
            return rates
        samples, clocks, states, cotangents = (part.index_select(0, wanted) for part in rows)
        slopes = self.problem.field.at(samples)(clocks.to(states.real.dtype), states)
        along: Tensor = torch.linalg.vecdot(slopes, cotangents).real
        return rates.index_copy(0, wanted, along.double())


def _nothing(count: int) -> Gradients:
    return [None] * count


class _BacksolvedLanes(torch.autograd.Function):
    """Rows of a solve, differentiable in y0, times and captured tensors."""

    @staticmethod
    def forward(ctx: Any, solves: _Solves, inputs: Inputs, *every: Tensor | None) -> Tensor:
        rows, further = solves.forward()
        ctx.solves, ctx.inputs = solves, inputs
        # A copy of the rows: the next layer may well change them in place.
        ctx.save_for_backward(rows.clone(), further, *inputs.watched(every))
        return rows

    @staticmethod
    def backward(ctx: Any, cotangents: Tensor) -> tuple[Tensor | None, ...]:
        check_single("Backsolve", cotangents)
        solves: _Solves = ctx.solves
        inputs: Inputs = ctx.inputs
        rows, further, *saved = ctx.saved_tensors
        with backward_work(inputs, rows.device, solves.stats):
            found = solves.backward(rows, cotangents, further, inputs.captured)
        causes = [*saved[:4], *inputs.captured, cotangents]
        return (None, None, *once(found, causes))
