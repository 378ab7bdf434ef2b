"""Backsolve where each sample has its own steps: the two solves, as a part of autograd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..capture import Captured
from ..integrate import SampleOutcome, integrate_samples
from ..problem import SaveAt
from ..samples import SamplePlan, SampleProblem
from ..solution import Statistics
from ..solvers.lane_methods import explicit_lanes
from ..validate_samples import check_first_steps, check_tolerances
from .augmented import ReverseNorm
from .base import Inputs, backward_work, check_single, once
from .continuous import Settings, reverse_method
from .lane_anchors import Rows
from .lane_backward import BackByParts, along
from .lane_parts import LaneParts, Parts
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
    answer = _BacksolvedLanes.apply(solves, inputs, *every)  # type: ignore[no-untyped-call]
    return SampleTrajectory.of(solves.outcome, *answer)


class _Known(NamedTuple):
    """States of the forward solve: of its rows, of events before their handlers, and further ones.

    Each of shape (n, width).
    """

    rows: Tensor
    events: Tensor
    further: Tensor


class _Solves:
    """The forward solve, and the reverse one that differentiates it."""

    outcome: SampleOutcome
    parts: Parts
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
        times = None if problem.times is None else problem.times.detached()
        self.problem = replace(problem, y0=problem.y0.detach(), times=times)

    def forward(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Integrate; rows, shape (rows, width), times and states of events, further states."""
        problem, plan, count = self.problem, self.plan, self.settings.checkpoints
        keeper = LaneStates(problem, count) if count else None
        noted = LaneParts(problem, plan, keeper) if plan.events else None
        found = integrate_samples(problem, plan, recorder=noted or keeper)
        self.outcome = found
        rows, times, states = found.taken_out(problem.y0)
        if noted is None or not found.happened:
            initial = 0 if found.initial is None else len(found.initial.samples)
            self.parts = Parts.whole(problem, len(rows) - initial)
        else:
            self.parts = noted.found(found)
        nobody = torch.empty(0, dtype=torch.long, device=rows.device)
        kept = (nobody, problem.t0[:0], rows[:0]) if keeper is None else keeper.kept()
        self.kept = kept[:2]
        return rows, times, states, kept[2]

    def backward(
        self, known: _Known, cotangents: Sequence[Tensor], captured: Sequence[Tensor]
    ) -> Gradients:
        """Gradients of y0, t0, t1 and ts, and of the captured tensors.

        Args:
            known: states of the rows, of the events, and further ones.
            cotangents: of the rows, and of times and states of the events.
            captured: what field and events depend on.
        """
        problem, outcome = self.problem, self.outcome
        before = problem.field.evaluations
        states, of_rows = known.rows, cotangents[0]
        initial = 0 if outcome.initial is None else len(outcome.initial.samples)
        rows, of_states = self._rows(states[initial:], of_rows[initial:]), cotangents[2]
        at, of = self.parts.rows_at, self.parts.events_at
        if len(at):  # a row that is an event's state moves as that does, not with a time of its own
            of_states = of_states.index_add(0, of, rows.cotangents.index_select(0, at))
            rows = rows._replace(cotangents=rows.cotangents.index_fill(0, at, 0.0))
        samples, clocks = self.kept
        further = Rows(samples, clocks, known.further, torch.zeros_like(known.further))
        every = rows.joined(further)
        parts = torch.cat([self.parts.rows, self.parts.of(samples, clocks)])
        tensors = captured, self.settings.wanted(captured)
        norm, of_events = self.settings.norm, (cotangents[1], of_states)
        back = BackByParts(problem, self.plan, self.reverse, self.parts, tensors, norm=norm)
        adjoint = back.run(every, parts, known.events, of_events)
        times = self._times(adjoint, rows) if self.timed else _nothing(3)
        if outcome.initial is not None:
            adjoint = adjoint.index_add(0, outcome.initial.samples, of_rows[:initial])
        self.stats.nfe_backward += problem.field.evaluations - before
        return [adjoint, *times, *back.totals.totals]

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
        g_t0 = -along(problem.field, Rows(everyone, problem.t0, problem.y0, adjoint))
        rates = along(problem.field, rows)
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


def _nothing(count: int) -> Gradients:
    return [None] * count


class _BacksolvedLanes(torch.autograd.Function):
    """Rows and events of a solve, differentiable in y0, times and captured tensors."""

    @staticmethod
    def forward(
        ctx: Any, solves: _Solves, inputs: Inputs, *every: Tensor | None
    ) -> tuple[Tensor, ...]:
        rows, times, states, further = solves.forward()
        ctx.solves, ctx.inputs = solves, inputs
        # Copies of what is answered: the next layer may well change it in place.
        ctx.save_for_backward(rows.clone(), states.clone(), further, *inputs.watched(every))
        return rows, times, states

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        for cotangent in cotangents:
            check_single("Backsolve", cotangent)
        solves: _Solves = ctx.solves
        inputs: Inputs = ctx.inputs
        rows, states, further, *saved = ctx.saved_tensors
        with backward_work(inputs, cotangents[0].device, solves.stats):
            found = solves.backward(_Known(rows, states, further), cotangents, inputs.captured)
        causes = [*saved[:4], *inputs.captured, *cotangents]
        return (None, None, *once(found, causes))
