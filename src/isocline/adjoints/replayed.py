"""A recorded solve as a part of autograd: its answer, differentiable any number of times.

The gradient of a replay is itself a function of the inputs and of the cotangents that came in. It
is found without a graph, whether or not one is asked for, so that `create_graph=True` costs
nothing by itself. Where that gradient is differentiated in turn, it is done step by step
(`tangents`), or, where graphs of all steps fit their budget, in one graph of the recorded steps
taken once more, which is quicker. Derivatives beyond the second always come from such a graph.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..capture import Captured
from ..integrate import Clock
from ..problem import Problem
from ..solvers.base import DensePiece
from .base import Inputs, Trajectory, backward_work, differentiated, tensors_of_times
from .replay import Replay
from .retaken import retaken
from .tangents import second_derivatives

__all__ = ["replayed"]

_LEADING = 4
"""Inputs before the captured tensors: y0, t0, t1 and ts."""


def replayed(replay: Replay, problem: Problem, captured: Captured) -> Trajectory:
    """Integrate with a recording, and give the answer its gradient.

    Args:
        replay: records the problem's steps and differentiates them.
        problem: with the caller's graph on its start and times.
        captured: what the field depends on.
    """
    inputs = Inputs(captured, problem.field.tensor_args)
    every = [problem.y0, *tensors_of_times(problem.times), *captured.tensors]
    rows, starts, slopes = _Replayed.apply(replay, inputs, *every)  # type: ignore[no-untyped-call]
    if not replay.lengths:  # without dense output nobody asks for the steps
        return Trajectory(replay.outcome, rows)
    clock = Clock(problem, replay.plan.ts, problem.times)
    parts = zip(starts, slopes.split(replay.lengths), replay.bases, strict=True)
    pieces = tuple(
        DensePiece(clock.time(reach.t), clock.time(reach.t_next), y, k, *basis)
        for (reach, *_), (y, k, basis) in zip(replay.steps, parts, strict=False)
    )
    return Trajectory(replay.outcome, rows, pieces)


class _Replayed(torch.autograd.Function):
    """Rows and dense data of a solve, differentiable in y0, times and captured tensors."""

    @staticmethod
    def forward(
        ctx: Any, replay: Replay, inputs: Inputs, *every: Tensor | None
    ) -> tuple[Tensor, ...]:
        outputs = replay.forward()
        ctx.replay, ctx.inputs = replay, inputs
        # Autograd frees what it saves once the backward pass is over; activation checkpointing
        # lets go of it at once. What can be computed again goes with it.
        token = torch.empty(0)
        weakref.finalize(token, replay.forget)
        ctx.save_for_backward(*inputs.watched(every), token)
        return outputs

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        start = ctx.saved_tensors[:_LEADING]
        given = (*cotangents, *start, *ctx.inputs.captured)
        return (None, None, *_pullback(ctx.replay, ctx.inputs, 1, given))


class _Pullback(torch.autograd.Function):
    """The gradient of the answer, or the gradient of a gradient of it, as a function.

    With the solve F_0(x_0), x_0 being start, times and captured tensors, that of order n is the
    vector-Jacobian product F_n(x_n) = v J(x_(n-1)) of the one before, of which x_n = (v, x_(n-1)).
    """

    @staticmethod
    def forward(
        ctx: Any, replay: Replay, inputs: Inputs, order: int, *given: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        ctx.replay, ctx.inputs, ctx.order = replay, inputs, order
        directions = given[: -_LEADING - len(inputs.captured)]
        ctx.directions = len(directions)
        ctx.save_for_backward(*directions, *inputs.watched(given[len(directions) :]))
        return _gradients(replay, inputs, order, given)

    @staticmethod
    def backward(ctx: Any, *directions: Tensor | None) -> tuple[Tensor | None, ...]:
        own = ctx.saved_tensors[: ctx.directions + _LEADING]
        given = (*directions, *own, *ctx.inputs.captured)
        return (None, None, None, *_pullback(ctx.replay, ctx.inputs, ctx.order + 1, given))


def _pullback(
    replay: Replay, inputs: Inputs, order: int, given: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """F of `order` at `given`, as `_Pullback` says; a function of it where a graph is wanted."""
    if not torch.is_grad_enabled():
        return _gradients(replay, inputs, order, given)
    found: tuple[Tensor | None, ...]
    found = _Pullback.apply(replay, inputs, order, *given)  # type: ignore[no-untyped-call]
    return found


def _gradients(
    replay: Replay, inputs: Inputs, order: int, given: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """The same without a graph, and counted as backward work."""
    field = replay.problem.field
    before = field.evaluations
    with backward_work(inputs, replay.problem.y0.device, replay.stats):
        if order == 1:
            cotangents = _present(given[: replay.outputs])
            found = replay.backward(inputs.captured, cotangents)
        elif order == 2 and replay.keep < len(replay.steps):
            x = given[-_LEADING - len(inputs.captured) :]
            directions, cotangents = given[: len(x)], _present(given[len(x) : -len(x)])
            found = second_derivatives(replay, inputs.captured, cotangents, directions)
        else:
            found = _through_one_graph(replay, inputs, order, given)
    replay.stats.nfe_backward += field.evaluations - before
    return found


def _present(cotangents: Sequence[Tensor | None]) -> list[Tensor]:
    """Those of the answer, of which autograd leaves none out."""
    return [tensor for tensor in cotangents if tensor is not None]


def _through_one_graph(
    replay: Replay, inputs: Inputs, order: int, given: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """F of `order` at `given`, by differentiating all steps, taken again in one graph."""
    # Start, times and directions get leaves of their own: they may well depend on one another, and
    # the way between them is the caller's. The field uses the captured tensors as they are.
    own = [
        None if tensor is None else tensor.detach().requires_grad_(tensor.requires_grad)
        for tensor in given[: len(given) - len(inputs.captured)]
    ]
    lengths = [_LEADING + len(inputs.captured)]  # of x_0, x_1, ...
    lengths.append(replay.outputs + lengths[0])
    while len(lengths) < order:
        lengths.append(lengths[-2] + lengths[-1])

    def value(order: int, x: Sequence[Tensor | None], again: bool) -> tuple[Tensor | None, ...]:
        if order == 0:
            return retaken(replay, x[:_LEADING])
        cut = len(x) - lengths[order - 1]
        inner = value(order - 1, x[cut:], True)
        return differentiated(inner, x[:cut], x[cut:], create_graph=again)

    with torch.enable_grad():
        return value(order, [*own, *inputs.captured], False)
