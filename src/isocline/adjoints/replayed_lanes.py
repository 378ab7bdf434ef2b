"""A recorded solve in which each sample had its own steps, as a part of autograd.

Its gradient is found round by round, without a graph. Where that gradient is to be differentiated,
it comes from one graph of all rounds, taken again: exact to any order, with the memory of `Direct`.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..capture import Captured
from ..samples import SampleProblem
from .base import Inputs, backward_work
from .lane_replay import LaneReplay
from .samples import SampleTrajectory

__all__ = ["replayed_lanes"]

_LEADING = 4
"""Inputs before the captured tensors: y0, t0, t1 and ts."""


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
    rows = _ReplayedLanes.apply(replay, inputs, problem.y0, *times, *captured.tensors)  # type: ignore[no-untyped-call]
    return SampleTrajectory(replay.outcome, rows if len(rows) else None)


class _ReplayedLanes(torch.autograd.Function):
    """Rows of a solve, differentiable in y0, times and captured tensors."""

    @staticmethod
    def forward(ctx: Any, replay: LaneReplay, inputs: Inputs, *every: Tensor | None) -> Tensor:
        rows = replay.forward()
        ctx.replay, ctx.inputs = replay, inputs
        # Autograd frees what it saves once the backward pass is over; what can be computed again
        # goes with it.
        token = torch.empty(0)
        weakref.finalize(token, replay.forget)
        ctx.save_for_backward(*inputs.watched(every), token)
        return rows

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        replay, inputs = ctx.replay, ctx.inputs
        start = ctx.saved_tensors[:_LEADING]
        field = replay.problem.field
        before = field.evaluations
        if torch.is_grad_enabled():
            found = _in_one_graph(replay, start, inputs.captured, cotangent)
        else:
            with backward_work(inputs, replay.problem.y0.device, replay.stats):
                found = replay.backward(inputs.captured, cotangent)
        replay.stats.nfe_backward += field.evaluations - before
        return (None, None, *found)


def _in_one_graph(
    replay: LaneReplay,
    start: Sequence[Tensor | None],
    captured: Sequence[Tensor],
    cotangent: Tensor,
) -> tuple[Tensor | None, ...]:
    """Gradients of start, times and captured tensors, with a graph of their own."""
    # Start and times may depend on one another; the way between them is the caller's.
    own = [None if tensor is None else tensor.view_as(tensor) for tensor in start]
    rows = _again(replay, own)
    inputs = [tensor for tensor in (*own, *captured) if tensor is not None and tensor.requires_grad]
    gradients = torch.autograd.grad(rows, inputs, cotangent, create_graph=True, allow_unused=True)
    known = {id(tensor): g for tensor, g in zip(inputs, gradients, strict=True)}
    return tuple(known.get(id(tensor)) for tensor in (*own, *captured))


def _again(replay: LaneReplay, start: Sequence[Tensor | None]) -> Tensor:
    """The rows of a solve, with a graph. Where steps begin and end within it are constants."""
    y, t0, t1, ts = start
    assert y is not None
    problem, initial = replay.problem, replay.initial
    rows = [] if initial is None else [y.index_select(0, initial.ends)]
    for round_ in replay.rounds:
        movers, output = round_.movers, round_.output
        times = _ends(round_.of_movers(round_.t), movers, problem.t0, t0)
        until = _ends(round_.of_movers(round_.t_next), movers, problem.t1, t1)
        states = y.index_select(0, movers)
        step = round_.again(replay.method, problem.field, (times, until), states)
        if output is not None:
            wanted = None if ts is None else ts.reshape(-1).index_select(0, output.wanted)
            found = round_.rows(step, wanted)
            assert found is not None
            rows.append(found)
        y = y.index_copy(0, movers, step.y1)
    return torch.cat(rows)


def _ends(clocks: Tensor, movers: Tensor, bound: Tensor, traced: Tensor | None) -> Tensor:
    """Ends of steps; where they are those of a solve, with its graph."""
    if traced is None:
        return clocks
    own = clocks == bound.index_select(0, movers)
    return torch.where(own, traced.index_select(0, movers), clocks)
