"""Steps whose graphs are kept: where memory allows, the backward pass need not take them again.

A solver is wrapped so that each step it takes records its own small graph, from leaves of its own
to its outputs. Unlike autograd through the whole loop, a rejected step's graph is dropped at once,
and the loop, which runs without a graph, knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..capture import operations_so_far
from ..solvers.base import DensePiece, Field, Memory, Solver, Step, Stepper, Time
from ..solvers.wrapped import WrappedSolver
from ..state import Packing
from .base import Cotangent, pulled_back

__all__ = ["KeepingSolver", "KeptStep", "as_leaves"]


@dataclass(slots=True)
class KeptStep(Step):
    """A step that carries its graph.

    Attributes:
        y0: the leaf that stands for the state at the start.
        memory0: leaves that stand for what was handed to the step.
        graph: the step over those leaves.
        size: number of its operations.
    """

    y0: Tensor
    memory0: Memory
    graph: Step
    size: int

    def dense(self) -> DensePiece:
        """The continuous extension, with its part of the graph."""
        with torch.enable_grad():
            piece = self.graph.dense()
        self.memory = self.graph.memory.detached()
        return piece

    def judge(self, ratios: Sequence[float]) -> float:
        """The ratio that the controller is to see."""
        ratio = self.graph.judge(ratios)
        self.memory = self.graph.memory.detached()
        self.retry = self.retry._replace(numbers=self.graph.retry.numbers)
        return ratio

    @property
    def unsolved(self) -> bool:
        """Whether the equations that y1 is defined by could not be solved."""
        return self.graph.unsolved

    def pull(
        self,
        end: Cotangent,
        rows: Sequence[Tensor],
        cotangents: Sequence[Tensor],
        inputs: Sequence[Tensor],
    ) -> tuple[Cotangent, tuple[Tensor | None, ...]]:
        """Cotangents of what the step started from, and gradients of `inputs`.

        Args:
            end: cotangents of the state at the end, and of the memory handed to the next step.
            rows, cotangents: other outputs of this step's graph, and their cotangents.
            inputs: other tensors that the step depends on.
        """
        outputs, weights = end.pair(self.graph)
        found = pulled_back([*outputs, *rows], [*weights, *cotangents], [*self.leaves, *inputs])
        y, *memory = found[: len(self.leaves)]
        slope = None if self.memory0.slope is None else memory.pop(0)
        return Cotangent(y, slope, tuple(memory)), found[len(self.leaves) :]

    @property
    def leaves(self) -> list[Tensor]:
        """Where the step's own graph ends."""
        slope = [] if self.memory0.slope is None else [self.memory0.slope]
        return [self.y0, *slope, *self.memory0.carried]


class KeepingSolver(WrappedSolver):
    """A solver whose first steps, up to a limit, carry their graphs.

    Args:
        solver: the solver proper.
        limit: number of accepted steps to keep.
    """

    def __init__(self, solver: Solver, limit: int) -> None:
        super().__init__(solver)
        self.limit = limit

    def bind(self, field: Field, packing: Packing) -> Stepper:
        """The solver proper, bound, and wrapped."""
        return _KeepingStepper(self.solver.bind(field, packing), self.limit)


class _KeepingStepper:
    def __init__(self, inner: Stepper, limit: int) -> None:
        self.inner = inner
        self.limit = limit
        self._tried = 0
        self._start: Tensor | None = None

    @property
    def combine(self) -> Callable[..., Tensor] | None:
        return self.inner.combine

    def init(self, t: Time, y: Tensor, f0: Tensor | None = None) -> Memory:
        return self.inner.init(t, y, f0)

    def step(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        if y is not self._start:  # not the retry of a rejected step
            self._start = y
            self._tried += 1
        if self._tried > self.limit:
            return self.inner.step(t, t_next, y, memory)
        given = memory or Memory()
        if self._tried == 1:
            # What the step before handed on becomes a leaf too. The first step's slope is the
            # field at y0, a function of the other leaf, and so would be one that a rejected try
            # hands on: these are taken anew.
            given = given.essential
        with torch.enable_grad():
            leaf, leaves = y.detach().requires_grad_(), as_leaves(given)
            before = operations_so_far(leaf)
            graph = self.inner.step(t, t_next, leaf, leaves)
            size = operations_so_far(leaf) - before
        return KeptStep(
            y1=graph.y1.detach(),
            errors=graph.errors,
            memory=graph.memory.detached(),
            retry=given._replace(numbers=graph.retry.numbers),
            y0=leaf,
            memory0=leaves,
            graph=graph,
            size=size,
        )

    def advance(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        return self.inner.advance(t, t_next, y, memory)


def as_leaves(memory: Memory) -> Memory:
    """The same memory, each tensor a leaf of its own that requires grad."""
    slope = None if memory.slope is None else memory.slope.detach().requires_grad_()
    carried = tuple(tensor.detach().requires_grad_() for tensor in memory.carried)
    return Memory(slope, carried, memory.numbers)
