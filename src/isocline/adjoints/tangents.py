"""Second derivatives of a recorded solve, step by step: in the memory of the first ones.

A second derivative asks for the gradient of v g, where g is the gradient of c F for the answer F of
the solve, in its start, its times and what the field uses. That is the gradient of c (J v), the
derivative of the answer in the direction v, for which steps can be taken one by one: state and
tangent go forward together, as the state of one larger system; then the walk back over it pulls
two cotangents along, lambda of the tangent (which is the first derivative's own) and mu of the
state. Each step needs its own graph only, twice differentiable, and what is kept between are pairs
of state and tangent.

Products J v come from two reverse passes, since fields need not support forward mode: u J is
linear in u, and v times its derivative in u is J v.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..solvers.base import Memory
from .base import ParameterGradients, differentiated
from .checkpoints import Checkpoints, backwards
from .replay import Replay
from .starts import Held

__all__ = ["second_derivatives"]

Found = Sequence[Tensor | None]


class _Pair(NamedTuple):
    """Where a step starts: the state with what is carried beside it, and their tangents."""

    state: tuple[Tensor, ...]
    tangent: tuple[Tensor, ...]


class _Graph(NamedTuple):
    """A step with its graph: what it starts from, where it ends, and what else it gave."""

    leaves: Sequence[Tensor]
    ends: Sequence[Tensor]
    others: Sequence[Tensor]
    weights: Sequence[Tensor]


def second_derivatives(
    replay: Replay, captured: Sequence[Tensor], cotangents: Sequence[Tensor], directions: Found
) -> tuple[Tensor | None, ...]:
    """Gradients of v g in the cotangents, in y0, t0, t1 and ts, and in the captured tensors.

    Args:
        replay: recorded the solve.
        captured: what its field depends on.
        cotangents: c, of the answer.
        directions: v, one for each of y0, t0, t1, ts and the captured tensors, or None.
    """
    tangents = _Tangents(replay, captured, cotangents, directions)
    pairs = Checkpoints[_Pair](replay.starts.pairs)
    moved, end = tangents.forward(pairs)
    of_start, of_inputs = tangents.backward(pairs, end)
    of_times = of_inputs[len(captured) :] or (None, None, None)
    return (*moved, of_start, *of_times, *of_inputs[: len(captured)])


class _Tangents:
    """State and tangent as one system, which takes the steps that were recorded."""

    def __init__(
        self,
        replay: Replay,
        captured: Sequence[Tensor],
        cotangents: Sequence[Tensor],
        directions: Found,
    ) -> None:
        times = replay.problem.times
        # What they were computed from is the caller's business, even if it is `captured`.
        self._cotangents = _detached(cotangents)
        directions = [None if tensor is None else tensor.detach() for tensor in directions]
        self._replay = replay
        self._inputs = [*captured, *(times or ())]
        self._along = [*directions[4:], *(directions[1:4] if times else ())]
        y0, along = replay.problem.y0, directions[0]
        self._start = _Pair((y0,), (torch.zeros_like(y0) if along is None else along,))

    def forward(self, pairs: Checkpoints[_Pair]) -> tuple[tuple[Tensor, ...], _Pair]:
        """The tangents of the answer, and the end; what the steps start from goes into `pairs`."""
        replay, start = self._replay, self._start
        rows = [start.tangent[0][None]] * replay.initial_rows
        dense: list[Tensor] = []
        graph = self._first()
        pair = _Pair(_detached(graph.ends), self._push(graph, start.tangent))
        for index in range(len(replay.steps)):
            pairs.offer(pair)
            graph = self._take(index, pair)
            pushed = self._push(graph, pair.tangent)
            ends, others = pushed[: len(graph.ends)], pushed[len(graph.ends) :]
            last = len(others) - (2 if replay.bases else 0)
            rows += others[:last]
            dense += others[last:]
            pair = _Pair(_detached(graph.ends), ends)
        empty = start.state[0].new_empty(0)
        whole = torch.cat(rows) if rows else empty.view(0, start.state[0].numel())
        if not dense:
            return (whole, empty, empty), pair
        return (whole, torch.stack(dense[::2]), torch.cat(dense[1::2])), pair

    def backward(
        self, pairs: Checkpoints[_Pair], end: _Pair
    ) -> tuple[Tensor | None, tuple[Tensor | None, ...]]:
        """Gradients of the start and of the inputs."""
        totals = ParameterGradients(len(self._inputs))
        zero = torch.zeros_like(end.state[0])
        first: Found = [zero, *[None] * (len(end.state) - 1)]
        second: Found = first
        walk = backwards(
            pairs.indices, pairs.states, pairs.slots, len(self._replay.steps), self._advance
        )
        for index, pair in walk:
            graph = self._take(index, pair)
            first, second = self._pull(graph, pair.tangent, first, second, totals)
        graph = self._first()
        _, second = self._pull(graph, self._start.tangent, first, second, totals)
        return second[0], tuple(totals.totals)

    def _advance(self, index: int, pair: _Pair) -> _Pair:
        """From where one step starts to where the next one does."""
        self._replay.stats.steps_recomputed += 1
        graph = self._take(index, pair, alone=True)
        return _Pair(_detached(graph.ends), self._push(graph, pair.tangent))

    def _first(self) -> _Graph:
        """What the first step is handed, as a function of y0."""
        replay = self._replay
        with torch.enable_grad():
            y0 = replay.problem.y0.detach().requires_grad_()
            memory = replay.stepper.init(replay.clock.time(replay.problem.t0), y0)
        return _Graph([y0], [y0, *memory.carried], (), ())

    def _take(self, index: int, pair: _Pair, alone: bool = False) -> _Graph:
        """A step; `alone` without what it gave besides its end."""
        y, *carried = pair.state
        numbers = self._replay.steps[index].numbers
        held = Held(y, Memory(None, tuple(carried), numbers))
        with torch.enable_grad():
            leaves, step = self._replay.take(index, held)
            ends = [step.y1, *step.memory.carried]
            if alone:
                return _Graph(leaves, ends, (), ())
            others, weights = self._replay.given(index, leaves[0], step, self._cotangents)
        return _Graph(leaves, ends, others, weights)

    def _push(self, graph: _Graph, tangent: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Tangents of all that a step gives, ends first, from those of its start."""
        outputs, inputs = [*graph.ends, *graph.others], [*graph.leaves, *self._inputs]
        with torch.enable_grad():
            dual = [torch.zeros_like(output).requires_grad_() for output in outputs]
            linear = differentiated(outputs, dual, inputs, create_graph=True)
        found = differentiated(linear, [*tangent, *self._along], dual, create_graph=False)
        return tuple(
            torch.zeros_like(output) if moved is None else moved
            for output, moved in zip(outputs, found, strict=True)
        )

    def _pull(
        self,
        graph: _Graph,
        tangent: Sequence[Tensor],
        first: Found,
        second: Found,
        totals: ParameterGradients,
    ) -> tuple[Found, Found]:
        """Both cotangents of a step's start from those of its end."""
        inputs, count = [*graph.leaves, *self._inputs], len(graph.leaves)
        with torch.enable_grad():
            pulled = differentiated(
                [*graph.ends, *graph.others], [*first, *graph.weights], inputs, create_graph=True
            )
        found = differentiated(
            [*pulled, *graph.ends],
            [*tangent, *self._along, *second],
            inputs,
            create_graph=False,
        )
        totals.add(found[count:])
        return [None if g is None else g.detach() for g in pulled[:count]], found[:count]


def _detached(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor.detach() for tensor in tensors)
