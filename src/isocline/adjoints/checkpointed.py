"""Checkpointed: the exact gradient of the discrete solve, from its accepted steps alone.

Forward, the loop runs without a graph; what is remembered of an accepted step is (t, t_next, y),
and for the first steps, as long as they fit a budget, the step's own graph. Backward, each step
is differentiated by its graph, or taken again with one, and forgotten. With `slots=k` only k
states are kept and the others recomputed, to the same gradient.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..capture import Captured, capture
from ..errors import InputError
from ..integrate import Clock
from ..problem import Plan, Problem, autocast_off
from ..solution import Statistics
from ..solvers.base import DensePiece
from ..solvers.complete import CompleteSolver
from .base import Inputs, Trajectory, is_wanted, once, tensors_of_times
from .checkpoints import Checkpoints
from .replay import Replay

__all__ = ["Checkpointed"]


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """The default: exact, and lean in memory.

    Attributes:
        slots: how many states to keep, at least 1; None keeps one per accepted step. Fewer slots
            cost more evaluations: one slot costs n^2 / 2 steps for n.
        graph_budget: bytes of step graphs to keep, so that small problems need no recomputation;
            0 for none. The size of one step's graph is estimated from one evaluation of the
            field. No graphs are kept where `slots` is given.
    """

    slots: int | None = None
    graph_budget: int = 64 * 2**20

    def __post_init__(self) -> None:
        Checkpoints[Any](self.slots)  # says what is wrong with `slots`
        budget: Any = self.graph_budget
        if not isinstance(budget, int) or budget < 0:
            given = repr(budget)
            raise InputError("graph_budget", given, "a whole number of bytes, 0 or more")

    def run(self, problem: Problem, plan: Plan, stats: Statistics) -> Trajectory:
        """Integrate without a graph of the whole, and attach the backward pass to the result."""
        captured, problem = _dependencies(problem, plan)
        inputs = Inputs(captured, problem.field.tensor_args)
        every = [problem.y0, *tensors_of_times(problem.times), *captured.tensors]
        keep = self._graphs_to_keep(captured, plan) if is_wanted(every) else 0
        replay = Replay(problem, plan, self.slots, keep, stats)
        rows, starts, slopes = _Replayed.apply(replay, inputs, *every)  # type: ignore[no-untyped-call]
        clock = Clock(problem, plan.ts, problem.times)
        parts = zip(starts, slopes.split(replay.lengths), replay.bases, strict=True)
        pieces = tuple(
            DensePiece(clock.time(reach.t), clock.time(reach.t_next), y, k, *basis)
            for (reach, *_), (y, k, basis) in zip(replay.steps, parts, strict=False)
        )
        return Trajectory(replay.outcome, rows, pieces)

    def keeps(self, steps: int, state: int, step: int) -> tuple[int, int]:
        """Estimated bytes kept: states, and graphs as far as the budget goes."""
        if self.slots is not None:
            return min(steps, self.slots) * state, step
        graphs = min(steps, self.graph_budget // max(1, step))
        return graphs * step + (steps - graphs) * state, 0 if graphs == steps else step

    def _graphs_to_keep(self, captured: Captured, plan: Plan) -> int:
        """How many steps' graphs fit the budget."""
        value = captured.value
        if self.slots is not None or value is None:
            return 0
        stage = captured.graph_bytes + 2 * value.numel() * value.element_size()
        return self.graph_budget // max(1, stage * plan.solver.evaluations_per_step)


def _dependencies(problem: Problem, plan: Plan) -> tuple[Captured, Problem]:
    """What the field depends on; the problem with what was evaluated to find it out."""
    if isinstance(plan.solver, CompleteSolver):
        tensors = plan.solver.depends_on
        return Captured(tensors, (True,) * len(tensors), None, 0), problem
    start = problem.y0.real.new_tensor(problem.t0)
    captured = capture(problem.field, start, problem.y0, plan.solver)
    return captured, replace(problem, f0=captured.value)


class _Replayed(torch.autograd.Function):
    """Rows and dense data of a solve, differentiable in y0, times and captured tensors."""

    @staticmethod
    def forward(
        ctx: Any, replay: Replay, inputs: Inputs, *every: Tensor | None
    ) -> tuple[Tensor, ...]:
        outputs = replay.forward()
        ctx.replay, ctx.inputs = replay, inputs
        # Autograd frees what it saves once the backward pass is over. Kept graphs go with it.
        token = torch.empty(0)
        weakref.finalize(token, replay.kept.clear)
        ctx.save_for_backward(*inputs.watched(every), token)
        return outputs

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        replay: Replay = ctx.replay
        inputs: Inputs = ctx.inputs
        saved = ctx.saved_tensors
        field, began = replay.problem.field, perf_counter()
        before = field.evaluations
        with torch.no_grad(), autocast_off(replay.problem.y0.device):
            y0, times, captured = replay.backward(inputs.captured, cotangents)
        replay.stats.nfe_backward += field.evaluations - before
        replay.stats.wall_time_backward += perf_counter() - began
        causes = [*saved[:4], *inputs.captured, *cotangents]
        return (None, None, *once([y0, *times, *captured], causes))
