"""One solve's memory between forward and backward pass, and the walk back over its steps."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..capture import Guard, operations_so_far
from ..integrate import Clock, Outcome, Reach, Saver, Start, integrate
from ..problem import Plan, Problem
from ..solution import Statistics
from ..solvers.base import DensePiece, Memory, Step, Stepper
from ..solvers.complete import CompleteSolver, CompleteStepper
from .base import Cotangent, ParameterGradients, pulled_back, stacked, without_hooks
from .checkpoints import Checkpoints, backwards
from .kept import KeepingSolver, KeptStep, as_leaves

__all__ = ["Replay"]

Gradients = tuple[Tensor | None, ...]


class Taken(NamedTuple):
    """An accepted step: its ends, which rows of output it gave, and the numbers it was given."""

    reach: Reach
    first_row: int
    last_row: int
    numbers: Any


class Held(NamedTuple):
    """All that a step needs to be taken again."""

    y: Tensor
    memory: Memory


@dataclass(slots=True)
class _Outline(Step):
    """A step of which the ends and slopes are leaves: outputs are linear in them."""

    y0: Tensor
    slopes: Tensor
    piece: DensePiece

    @classmethod
    def of(cls, stepper: CompleteStepper, reach: Reach, y: Tensor) -> _Outline:
        """The outline of a step from `y`."""
        y0, y1 = (y.detach().requires_grad_() for _ in range(2))
        piece = stepper.outline(reach.t, reach.t_next, y0)
        slopes = piece.slopes.requires_grad_()
        return cls(y1, (), Memory(), Memory(), y0, slopes, piece)

    def dense(self) -> DensePiece:
        """The interpolant over the leaves."""
        return self.piece


class Replay:
    """Records a forward pass and differentiates it.

    Args:
        problem, plan: what is solved, and how.
        slots: how many states to keep; None for all.
        keep: how many of the first steps keep their graphs.
        stats: for the backward pass to count into.
    """

    def __init__(
        self, problem: Problem, plan: Plan, slots: int | None, keep: int, stats: Statistics
    ) -> None:
        # The tensors that carry the caller's graph reach the autograd function as inputs; held
        # here too they would tie it into a cycle.
        times = None if problem.times is None else problem.times.detached()
        self.problem = replace(problem, y0=problem.y0.detach(), times=times)
        self.plan = plan
        self.keep = keep
        self.stats = stats
        self.checkpoints = Checkpoints[Held](slots)
        self.steps: list[Taken] = []
        self.kept: list[KeptStep] = []
        self.bases: list[tuple[Tensor, float]] = []  # weights and centres of the interpolants,
        self.lengths: list[int] = []  # and how many rows each has
        # A clock that hands out tensors where a time records a gradient, so that the same rows
        # come from the same steps forward and backward.
        self._clock = Clock(self.problem, plan.ts, times)
        self._saver = Saver(self.problem, plan, self._clock)
        self._row = len(self._saver.initial_times())

    def accepted(self, start: Start, reach: Reach, step: Step, rows: int) -> None:
        """Remember an accepted step."""
        if isinstance(step, KeptStep):
            self.kept.append(step)
        else:
            self.checkpoints.offer(Held(start.y, start.memory.essential))
        numbers = start.memory.numbers
        self.steps.append(Taken(reach, self._row, self._row + rows, numbers))
        self._row += rows

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Integrate; rows (T, N); for dense output starts (S, N) and all pieces' rows (R, N)."""
        plan = self.plan
        if self.keep:
            plan = replace(plan, solver=KeepingSolver(plan.solver, self.keep))
        self.outcome: Outcome = integrate(self.problem, plan, clock=self._clock, recorder=self)
        rows, pieces = stacked(self.outcome.rows, self.problem.y0), self.outcome.pieces
        self.outcome.rows, self.outcome.pieces = [], []
        self.outcome.y = self.problem.y0  # nobody asks for the end: do not keep it
        if not pieces:
            empty = self.problem.y0.new_empty(0)
            return rows, empty, empty.clone()
        self.bases = [(piece.weights, piece.centre) for piece in pieces]
        self.lengths = [len(piece.weights) for piece in pieces]
        starts = torch.stack([piece.y for piece in pieces])
        return rows, starts, torch.cat([piece.slopes for piece in pieces])

    def backward(
        self, captured: Sequence[Tensor], cotangents: tuple[Tensor, ...]
    ) -> tuple[Tensor, Gradients, Gradients]:
        """Gradients of y0, of (t0, t1, ts), and of the captured tensors."""
        times = self.problem.times or ()
        inputs = [*captured, *times]
        totals = ParameterGradients(len(inputs))
        with without_hooks(captured):
            gradient = self._walk(inputs, totals, cotangents)
        gradient = gradient + cotangents[0][: len(self._saver.initial_times())].sum(0)
        of_times = tuple(totals.totals[len(captured) :]) or (None, None, None)
        return gradient, of_times, tuple(totals.totals[: len(captured)])

    def _walk(
        self,
        inputs: Sequence[Tensor],
        totals: ParameterGradients,
        cotangents: tuple[Tensor, ...],
    ) -> Tensor:
        """Back over all steps: the gradient of the start, and that of `inputs` into `totals`."""
        if isinstance(self.plan.solver, CompleteSolver):
            return self._walk_whole(self.plan.solver, inputs, totals, cotangents)
        guard = Guard(inputs)
        end = Cotangent(torch.zeros_like(self.problem.y0))
        for index, held in self._recomputed():
            end, found = self._pull_again(index, held, end, inputs, cotangents, guard)
            totals.add(found)
        for index in range(len(self.kept) - 1, -1, -1):
            kept = self.kept[index]
            with torch.enable_grad():
                rows, weights = self._outputs(index, kept.y0, kept.graph, cotangents)
            # Rows come from the step's stages, which y1 does not all need: another graph.
            guard.check([kept.graph.y1, *rows], kept.leaves, (kept.size, len(rows)))
            end, found = kept.pull(end, rows, weights, inputs)
            totals.add(found)
        return self._pull_init(end, inputs, totals)

    def _walk_whole(
        self,
        solver: CompleteSolver,
        inputs: Sequence[Tensor],
        totals: ParameterGradients,
        cotangents: tuple[Tensor, ...],
    ) -> Tensor:
        """The same with a stepper that pulls back whole steps itself."""
        field = self.problem.field
        stepper = solver.bind(field, field.packing)
        buffers = [torch.zeros(tensor.shape, dtype=tensor.dtype) for tensor in inputs]
        totals.totals = list(buffers)
        end = torch.zeros_like(self.problem.y0)
        for index, held in self._recomputed():
            reach = self.steps[index].reach
            of_start, of_slopes = None, None
            if solver.has_slopes:
                end, of_start, of_slopes = self._outputs_pulled(
                    stepper, index, held, end, cotangents
                )
            else:
                taken = self.steps[index]
                if taken.first_row < taken.last_row:  # rows between steps need slopes
                    end = end + cotangents[0][taken.first_row : taken.last_row].sum(0)
            end = stepper.pull(reach.t, reach.t_next, held.y, end, of_slopes, buffers)
            if of_start is not None:
                end = end + of_start
        return end

    def _outputs_pulled(
        self,
        stepper: CompleteStepper,
        index: int,
        held: Held,
        end: Tensor,
        cotangents: tuple[Tensor, ...],
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Cotangents of a step's end, start and slopes, with those of its output between."""
        reach = self.steps[index].reach
        with torch.enable_grad():
            step = _Outline.of(stepper, reach, held.y)
            rows, weights = self._outputs(index, step.y0, step, cotangents)
        if not rows:
            return end, None, None
        leaves = [step.y1, step.y0, step.slopes]
        of_end, of_start, of_slopes = pulled_back(rows, weights, leaves)
        return end if of_end is None else end + of_end, of_start, of_slopes

    def _recomputed(self) -> Iterator[tuple[int, Held]]:
        """The steps without a graph, last first, each with what it started from."""
        offset = len(self.kept)

        def advance(index: int, held: Held) -> Held:
            reach = self.steps[offset + index].reach
            step = self._stepper.advance(reach.t, reach.t_next, held.y, held.memory)
            # What a solver settled when it was told the errors cannot be found without them.
            numbers = self.steps[offset + index + 1].numbers
            return Held(step.y1, Memory(None, step.memory.carried, numbers))

        kept, count = self.checkpoints, len(self.steps) - offset
        for index, held in backwards(kept.indices, kept.states, kept.slots, count, advance):
            yield offset + index, held

    @functools.cached_property
    def _bounds(self) -> list[int]:
        """Which rows of all pieces' slopes belong to each step: from one entry to the next."""
        return [0, *accumulate(self.lengths)]

    @functools.cached_property
    def _stepper(self) -> Stepper:
        field = self.problem.field
        return self.plan.solver.bind(field, field.packing)

    def _pull_again(
        self,
        index: int,
        held: Held,
        end: Cotangent,
        inputs: Sequence[Tensor],
        cotangents: tuple[Tensor, ...],
        guard: Guard,
    ) -> tuple[Cotangent, Gradients]:
        """Take a step again with a graph; cotangents of its start, gradients of `inputs`."""
        reach, clock = self.steps[index].reach, self._clock
        with torch.enable_grad():
            y, memory = held.y.detach().requires_grad_(), as_leaves(held.memory)
            before = operations_so_far(y)
            step = self._stepper.advance(clock.time(reach.t), clock.time(reach.t_next), y, memory)
            rows, weights = self._outputs(index, y, step, cotangents)
            size = operations_so_far(y) - before
        outputs, pulls = end.pair(step)
        leaves = [y, *memory.carried]
        guard.check([step.y1, *rows], leaves, size)
        found = pulled_back([*outputs, *rows], [*pulls, *weights], [*leaves, *inputs])
        return Cotangent(found[0], None, found[1 : len(leaves)]), found[len(leaves) :]

    def _pull_init(
        self, start: Cotangent, inputs: Sequence[Tensor], totals: ParameterGradients
    ) -> Tensor:
        """The gradient of y0, with its share in what the first step was handed."""
        if not start.carried:
            return start.y
        with torch.enable_grad():
            y0 = self.problem.y0.detach().requires_grad_()
            memory = self._stepper.init(self._clock.time(self.problem.t0), y0)
        outputs, weights = start._replace(slope=None).pair_memory(memory)
        found = pulled_back(outputs, weights, [y0, *inputs])
        totals.add(found[1:])
        return start.y if found[0] is None else start.y + found[0]

    def _outputs(
        self, index: int, start: Tensor, step: Step, cotangents: tuple[Tensor, ...]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """What a step gave besides y1, and the cotangents of that."""
        taken = self.steps[index]
        g_rows, g_starts, g_slopes = cotangents
        rows: list[Tensor] = []
        weights: list[Tensor] = []
        if taken.first_row < taken.last_row:
            rows += self._saver.rows(taken.reach, step)
            weights += g_rows[taken.first_row : taken.last_row].split([len(r) for r in rows])
        if g_slopes.numel():
            rows += [start, step.dense().slopes]
            first, last = self._bounds[index : index + 2]
            weights += [g_starts[index], g_slopes[first:last]]
        return rows, weights
