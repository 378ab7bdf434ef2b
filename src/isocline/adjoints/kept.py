"""Steps whose graphs are kept: where memory allows, the backward pass need not take them again.

A solver is wrapped so that each step it takes records its own small graph, from leaves of its own
to its outputs. Unlike autograd through the whole loop, a rejected step's graph is dropped at once,
and the loop, which runs without a graph, knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..capture import operations_so_far
from ..solvers.base import DensePiece, Field, Solver, Step, Stepper, Time
from .base import pulled_back

__all__ = ["KeepingSolver", "KeptStep"]


@dataclass(slots=True)
class KeptStep(Step):
    """A step that carries its graph.

    Attributes:
        y0: the leaf that stands for the state at the start.
        memory0: the leaf that stands for the memory, or None where the step had none.
        graph: the step over those leaves.
        size: number of its operations.
    """

    y0: Tensor
    memory0: Tensor | None
    graph: Step
    size: int

    def dense(self) -> DensePiece:
        """The continuous extension, with its part of the graph."""
        with torch.enable_grad():
            piece = self.graph.dense()
        self.memory = None if self.graph.memory is None else self.graph.memory.detach()
        return piece

    def pull(
        self,
        y1: Tensor,
        memory: Tensor | None,
        rows: Sequence[Tensor],
        cotangents: Sequence[Tensor],
        inputs: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor | None, ...]]:
        """Gradients of the start, of the memory it was given, and of `inputs`.

        Args:
            y1: cotangent of the state at the end.
            memory: cotangent of the memory handed to the next step, if that was kept too.
            rows, cotangents: other outputs of this step's graph, and their cotangents.
            inputs: other tensors that the step depends on.
        """
        outputs, weights = [self.graph.y1, *rows], [y1, *cotangents]
        if memory is not None:
            outputs.append(self.graph.memory)
            weights.append(memory)
        found = pulled_back(outputs, weights, [*self.leaves, *inputs])
        of_memory = None if self.memory0 is None else found[1]
        return found[0], of_memory, found[len(self.leaves) :]

    @property
    def leaves(self) -> list[Tensor]:
        """Where the step's own graph ends."""
        return [self.y0] if self.memory0 is None else [self.y0, self.memory0]


@dataclass(frozen=True, slots=True)
class KeepingSolver:
    """A solver whose first steps, up to a limit, carry their graphs.

    Attributes:
        solver: the solver proper.
        limit: number of accepted steps to keep.
    """

    solver: Solver
    limit: int

    @property
    def name(self) -> str:
        """Name of the solver proper."""
        return self.solver.name

    @property
    def order(self) -> int:
        """Order of the solution."""
        return self.solver.order

    @property
    def error_order(self) -> int:
        """k, where the error estimate of one step is O(h^k)."""
        return self.solver.error_order

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its error."""
        return self.solver.adaptive

    @property
    def evaluations_per_step(self) -> int:
        """Evaluations of the field that an accepted step costs."""
        return self.solver.evaluations_per_step

    def bind(self, field: Field, like: Tensor, time_dtype: torch.dtype) -> Stepper:
        """The solver proper, bound, and wrapped."""
        return _KeepingStepper(self.solver.bind(field, like, time_dtype), self.limit)


class _KeepingStepper:
    def __init__(self, inner: Stepper, limit: int) -> None:
        self.inner = inner
        self.limit = limit
        self._tried = 0
        self._start: Tensor | None = None

    def init(self, t: Time, y: Tensor, f0: Tensor | None = None) -> Any:
        return self.inner.init(t, y, f0)

    def step(self, t: Time, t_next: Time, y: Tensor, memory: Any) -> Step:
        if y is not self._start:  # not the retry of a rejected step
            self._start = y
            self._tried += 1
        if self._tried > self.limit:
            return self.inner.step(t, t_next, y, memory)
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            # Memory from the step before is a leaf too. The first step's is the field at y0, a
            # function of the other leaf, and so would be a stage handed on by a rejected try:
            # these are taken anew.
            known = isinstance(memory, Tensor) and self._tried > 1
            slope = memory.detach().requires_grad_() if known else None
            before = operations_so_far(leaf)
            graph = self.inner.step(t, t_next, leaf, slope)
            size = operations_so_far(leaf) - before

        return KeptStep(
            y1=graph.y1.detach(),
            errors=graph.errors,
            memory=None if graph.memory is None else graph.memory.detach(),
            retry=memory if known else None,
            y0=leaf,
            memory0=slope,
            graph=graph,
            size=size,
        )

    def advance(self, t: Time, t_next: Time, y: Tensor) -> Step:
        return self.inner.advance(t, t_next, y)

    def combine_errors(self, *norms: Tensor) -> Tensor:
        return self.inner.combine_errors(*norms)
