"""A recorded solve in which each sample had its own steps, as a part of autograd.

Its gradient is found round by round, without a graph. Where that gradient is to be differentiated,
it comes from one graph of all rounds, taken again: exact to any order, with the memory of `Direct`.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..apart import check_apart
from ..capture import Captured, capture
from ..integrate import Cut, started
from ..samples import SampleProblem
from ..solvers.base import Solver
from ..solvers.complete import CompleteSolver
from .base import Inputs, backward_work
from .lane_replay import LaneReplay
from .samples import SampleTrajectory

__all__ = ["dependencies", "replayed_lanes"]

_LEADING = 4
"""Inputs before the captured tensors: y0, t0, t1 and ts."""


def dependencies(
    problem: SampleProblem, solver: Solver | None = None
) -> tuple[Captured, SampleProblem]:
    """What the field depends on, and the method if given; the problem with the field at its starts.

    Raises:
        InputError: for a field that mixes samples.
    """
    field, t0, y0 = problem.field, problem.t0, problem.y0
    if isinstance(solver, CompleteSolver):
        tensors = solver.depends_on
        with torch.no_grad():
            value = field(t0.to(y0.real.dtype), y0.detach()).clone()
        captured = Captured(tensors, (True,) * len(tensors), value, 0)
    else:
        captured = capture(field, t0.to(y0.real.dtype), y0, solver)
    assert captured.value is not None
    check_apart(field, t0, y0, captured.value)
    return captured, replace(problem, f0=captured.value)


def replayed_lanes(
    replay: LaneReplay, problem: SampleProblem, captured: Captured
) -> SampleTrajectory:
    """Integrate with a recording, and give the answer its gradient.

    Args:
        replay: records the problem's rounds and differentiates them.
        problem: with the caller's graph on its start and times.
        captured: what the field depends on.
    """
    inputs = Inputs(captured, problem.field.tensor_args)
    times = (None, None, None) if problem.times is None else problem.times
    every = (problem.y0, *times, *captured.tensors)
    answer = _ReplayedLanes.apply(replay, inputs, *every)  # type: ignore[no-untyped-call]
    return SampleTrajectory.of(replay.outcome, *answer)


class _ReplayedLanes(torch.autograd.Function):
    """Rows and events of a solve, differentiable in y0, times and captured tensors."""

    @staticmethod
    def forward(
        ctx: Any, replay: LaneReplay, inputs: Inputs, *every: Tensor | None
    ) -> tuple[Tensor, ...]:
        answer = replay.forward()
        ctx.replay, ctx.inputs = replay, inputs
        # Autograd frees what it saves once the backward pass is over; what can be computed again
        # goes with it.
        token = torch.empty(0)
        weakref.finalize(token, replay.forget)
        ctx.save_for_backward(*inputs.watched(every), token)
        return answer

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        replay, inputs = ctx.replay, ctx.inputs
        start = ctx.saved_tensors[:_LEADING]
        field = replay.problem.field
        before = field.evaluations
        if torch.is_grad_enabled():
            found = _in_one_graph(replay, start, inputs.captured, cotangents)
        else:
            with backward_work(inputs, replay.problem.y0.device, replay.stats):
                found = replay.backward(inputs.captured, cotangents)
        replay.stats.nfe_backward += field.evaluations - before
        return (None, None, *found)


def _in_one_graph(
    replay: LaneReplay,
    start: Sequence[Tensor | None],
    captured: Sequence[Tensor],
    cotangents: Sequence[Tensor],
) -> tuple[Tensor | None, ...]:
    """Gradients of start, times and captured tensors, with a graph of their own."""
    # Start and times may depend on one another; the way between them is the caller's.
    own = [None if tensor is None else tensor.view_as(tensor) for tensor in start]
    answer = _again(replay, own)
    pairs = [pair for pair in zip(answer, cotangents, strict=True) if pair[0].requires_grad]
    inputs = [tensor for tensor in (*own, *captured) if tensor is not None and tensor.requires_grad]
    gradients = torch.autograd.grad(
        [output for output, _ in pairs],
        inputs,
        [cotangent for _, cotangent in pairs],
        create_graph=True,
        allow_unused=True,
    )
    known = {id(tensor): g for tensor, g in zip(inputs, gradients, strict=True)}
    return tuple(known.get(id(tensor)) for tensor in (*own, *captured))


def _again(replay: LaneReplay, start: Sequence[Tensor | None]) -> list[Tensor]:
    """The answer of a solve, with a graph. Where steps begin and end within it are constants."""
    y, t0, t1, ts = start
    assert y is not None
    problem, initial, field = replay.problem, replay.initial, replay.problem.field
    rows = [] if initial is None else [y.index_select(0, initial.ends)]
    times: list[Tensor] = []
    states: list[Tensor] = []
    y = started(y, replay.method.copies)
    onward = problem.t0  # of each sample the time of its last event
    for round_ in replay.rounds:
        movers, output = round_.movers, round_.output
        begin = _ends(round_.of_movers(round_.t), movers, problem.t0, t0)
        if round_.moved is not None:
            moved = round_.of_movers(round_.moved)
            begin = torch.where(moved, onward.index_select(0, movers), begin)
        until = _ends(round_.of_movers(round_.t_next), movers, problem.t1, t1)
        step = round_.again(replay.method, field, (begin, until), y.index_select(0, movers))
        cut, after = round_.passed(replay.plan.events, field, step, higher=True)
        if output is not None:
            wanted = None if ts is None else output.traced(ts)
            found = round_.rows(cut, field.width, wanted)
            assert found is not None
            rows.append(found)
        if isinstance(cut, Cut):
            times.append(cut.passage.times)
            states.append(cut.passage.states)
            samples = movers.index_select(0, round_.hit)
            onward = onward.index_copy(0, samples, cut.passage.times)
        y = y.index_copy(0, movers, after)
    none = y.new_empty(0, field.width)
    empty = y.new_empty(0, dtype=torch.float64)
    return [torch.cat([none, *rows]), torch.cat([empty, *times]), torch.cat([none, *states])]


def _ends(clocks: Tensor, movers: Tensor, bound: Tensor, traced: Tensor | None) -> Tensor:
    """Ends of steps; where they are those of a solve, with its graph."""
    if traced is None:
        return clocks
    own = clocks == bound.index_select(0, movers)
    return torch.where(own, traced.index_select(0, movers), clocks)
