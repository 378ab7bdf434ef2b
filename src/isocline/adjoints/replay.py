"""One solve's memory between forward and backward pass, and the walk back over its steps."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from ..capture import Guard, operations_so_far
from ..integrate import Clock, Outcome, Reach, Saver, Start, Whole, WholeRecorder, integrate
from ..problem import Plan, Problem
from ..solution import Statistics
from ..solvers.base import Memory, Step, Stepper
from ..solvers.complete import CompleteSolver
from .base import Cotangent, ParameterGradients, is_stack, pulled_back, stacked
from .kept import KeepingSolver, KeptStep, as_leaves
from .starts import Held, Starts, Taken
from .whole import walk_whole

__all__ = ["Replay"]

Gradients = tuple[Tensor | None, ...]


class Replay(WholeRecorder):
    """Records a forward pass and differentiates it.

    Args:
        problem, plan: what is solved, and how.
        starts: tells what the steps started from that keep no graph.
        keep: how many of the first steps keep their graphs.
        stats: for the backward pass to count into.
    """

    def __init__(
        self, problem: Problem, plan: Plan, starts: Starts, keep: int, stats: Statistics
    ) -> None:
        # The tensors that carry the caller's graph reach the autograd function as inputs; held
        # here too they would tie it into a cycle.
        times = None if problem.times is None else problem.times.detached()
        self.problem = replace(problem, y0=problem.y0.detach(), times=times)
        self.plan = plan
        self.keep = keep
        self.stats = stats
        self.starts = starts
        self.whole: Whole | None = None  # the solve, where it was taken at one go
        self._steps: list[Taken] = []
        self.kept: list[KeptStep] = []
        self._start: Held | None = None
        self._turn = threading.RLock()  # threads may go back through one graph
        self.bases: list[tuple[Tensor, float]] = []  # weights and centres of the interpolants,
        self.lengths: list[int] = []  # and how many rows each has
        # A clock that hands out tensors where a time records a gradient, so that the same rows
        # come from the same steps forward and backward.
        self.clock = Clock(self.problem, plan.ts, times)
        self._saver = Saver(self.problem, plan, self.clock)
        # How many rows were saved before the first step.
        self.initial_rows = self._row = len(self._saver.initial_times())

    @property
    def outputs(self) -> int:
        """How many tensors `forward` answers with."""
        return 3

    def accepted(self, start: Start, reach: Reach, step: Step, rows: int) -> None:
        """Remember an accepted step."""
        held = Held(start.y, start.memory.essential)
        if not self._steps:
            self._start = held
        if isinstance(step, KeptStep):
            self.kept.append(step)
        else:
            self.starts.accepted(held, Held(step.y1, step.memory.essential))
        numbers = start.memory.numbers
        self._steps.append(Taken(reach, self._row, self._row + rows, numbers))
        self._row += rows

    def taken_whole(self, whole: Whole) -> None:
        """Remember all steps at once."""
        self.whole = whole

    @property
    def steps(self) -> list[Taken]:
        """The accepted steps, in order."""
        if self.whole is not None and not self._steps:
            with self._turn:
                self._unfold(self.whole)
        return self._steps

    def _unfold(self, whole: Whole) -> None:
        """Remember the steps of a whole solve one by one, for those who ask for them."""
        states = [Held(y, Memory()) for y in whole.states()]
        self._start = states[0]
        if whole.forgotten:
            self.starts.restart(states[0])
        for start, end in pairwise(states):
            self.starts.accepted(start, end)
        row = self._row
        self._steps = [
            Taken(Reach(t, t_next), row + first, row + last, None)
            for t, t_next, first, last in whole.steps()
        ]

    def forget(self) -> None:
        """Keep the start alone: a backward pass, if there is one yet, takes all steps again."""
        with self._turn:
            self.kept.clear()
            if self.whole is not None:
                self.whole.forget()
            if self._start is not None:
                self.starts.restart(self._start)

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Integrate; rows (T, N); for dense output starts (S, N) and all pieces' rows (R, N)."""
        plan = self.plan
        if isinstance(plan.solver, CompleteSolver):
            self.versions = plan.solver.versions()
        if self.keep:
            plan = replace(plan, solver=KeepingSolver(plan.solver, self.keep))
        self.outcome: Outcome = integrate(self.problem, plan, clock=self.clock, recorder=self)
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

    def backward(self, captured: Sequence[Tensor], cotangents: Sequence[Tensor]) -> Gradients:
        """Gradients of y0, t0, t1 and ts, and of the captured tensors."""
        times = self.problem.times or ()
        inputs = [*captured, *times]
        totals = ParameterGradients(len(inputs))
        with self._turn:
            before = self.starts.recomputed
            gradient = self._walk(inputs, totals, cotangents)
            self.stats.steps_recomputed += self.starts.recomputed - before
        if self.initial_rows:
            gradient = gradient + cotangents[0][: self.initial_rows].sum(0)
        of_times = totals.totals[len(captured) :] or (None, None, None)
        return (gradient, *of_times, *totals.totals[: len(captured)])

    def _walk(
        self,
        inputs: Sequence[Tensor],
        totals: ParameterGradients,
        cotangents: Sequence[Tensor],
    ) -> Tensor:
        """Back over all steps: the gradient of the start, and that of `inputs` into `totals`."""
        if isinstance(self.plan.solver, CompleteSolver) and not any(map(is_stack, cotangents)):
            return walk_whole(self, self.plan.solver, inputs, totals, cotangents)
        guard = Guard(inputs)
        end = Cotangent(torch.zeros_like(self.problem.y0))
        count = len(self.kept)
        replayed = self.starts.backwards(self.steps[count:], self.stepper)
        for index, held in zip(range(len(self.steps) - 1, -1, -1), replayed, strict=False):
            end, found = self._pull_again(index, held, end, inputs, cotangents, guard)
            totals.add(found)
        for index in range(count - 1, -1, -1):
            kept = self.kept[index]
            with torch.enable_grad():
                rows, weights = self.given(index, kept.y0, kept.graph, cotangents)
            # Rows come from the step's stages, which y1 does not all need: another graph.
            guard.check([kept.graph.y1, *rows], kept.leaves, (kept.size, len(rows)))
            end, found = kept.pull(end, rows, weights, inputs)
            totals.add(found)
        return self._pull_init(end, inputs, totals)

    @functools.cached_property
    def _bounds(self) -> list[int]:
        """Which rows of all pieces' slopes belong to each step: from one entry to the next."""
        return [0, *accumulate(self.lengths)]

    @functools.cached_property
    def stepper(self) -> Stepper:
        """The method, bound to the field: steps with a graph, which compiled ones cannot have."""
        field, solver = self.problem.field, self.plan.solver
        if isinstance(solver, CompleteSolver):
            solver = solver.solver
        return solver.bind(field, field.packing)

    def _pull_again(
        self,
        index: int,
        held: Held,
        end: Cotangent,
        inputs: Sequence[Tensor],
        cotangents: Sequence[Tensor],
        guard: Guard,
    ) -> tuple[Cotangent, Gradients]:
        """Take a step again with a graph; cotangents of its start, gradients of `inputs`."""
        with torch.enable_grad():
            probe = held.y.detach().requires_grad_()
            before = operations_so_far(probe)
            leaves, step = self.take(index, held)
            rows, weights = self.given(index, leaves[0], step, cotangents)
            size = operations_so_far(probe) - before
        outputs, pulls = end.pair(step)
        guard.check([step.y1, *rows], leaves, size)
        found = pulled_back([*outputs, *rows], [*pulls, *weights], [*leaves, *inputs])
        return Cotangent(found[0], None, found[1 : len(leaves)]), found[len(leaves) :]

    def take(self, index: int, held: Held) -> tuple[list[Tensor], Step]:
        """A step again, from leaves of its own: the state, and what the method carries."""
        reach, clock = self.steps[index].reach, self.clock
        y, memory = held.y.detach().requires_grad_(), as_leaves(held.memory)
        step = self.stepper.advance(clock.time(reach.t), clock.time(reach.t_next), y, memory)
        return [y, *memory.carried], step

    def _pull_init(
        self, start: Cotangent, inputs: Sequence[Tensor], totals: ParameterGradients
    ) -> Tensor:
        """The gradient of y0, with its share in what the first step was handed."""
        if not start.carried:
            return start.y
        with torch.enable_grad():
            y0 = self.problem.y0.detach().requires_grad_()
            memory = self.stepper.init(self.clock.time(self.problem.t0), y0)
        outputs, weights = start._replace(slope=None).pair_memory(memory)
        found = pulled_back(outputs, weights, [y0, *inputs])
        totals.add(found[1:])
        return start.y if found[0] is None else start.y + found[0]

    def given(
        self, index: int, start: Tensor, step: Step, cotangents: Sequence[Tensor]
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
