"""Checkpointed: the exact gradient of the discrete solve, from its accepted steps alone.

Forward, the loop runs without a graph; what is remembered of an accepted step is (t, t_next, y),
and for the first steps, as long as they fit a budget, the step's own graph. Backward, each step
is differentiated by its graph, or taken again with one, and forgotten. With `slots=k` only k
states are kept and the others recomputed, to the same gradient, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from ..capture import Captured, capture, with_tensors_of
from ..errors import InputError
from ..problem import Plan, Problem
from ..samples import SamplePlan, SampleProblem
from ..solution import Statistics
from ..solvers.complete import CompleteSolver
from ..transforms import active
from .base import Trajectory, is_wanted, tensors_of_times
from .direct import recorded
from .lane_replay import LaneReplay
from .lane_starts import KeptLaneStarts
from .replay import Replay
from .replayed import replayed
from .replayed_lanes import dependencies, replayed_lanes
from .samples import SampleTrajectory
from .starts import Kept

__all__ = ["Checkpointed"]


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """The default: exact, lean in memory, and differentiable any number of times.

    Second derivatives keep to the same budgets, but a tangent goes with each state. Third ones and
    beyond take all steps once more in one graph, with the memory of `Direct`.

    Attributes:
        slots: how many states to keep, at least 1; None keeps one per accepted step, "auto" as many
            as fit into `state_budget`. Where steps are more than slots, some are recomputed:
            each of them once at most as long as n steps have about sqrt(2 n) slots, twice with the
            cube root of 6 n, and n^2 / 2 in all with one.
        state_budget: bytes of states to keep under `slots="auto"`, with what the method carries
            beside the state; one state is kept in any case.
        graph_budget: bytes of step graphs to keep, so that small problems need no recomputation;
            0 for none. The size of one step's graph is estimated from one evaluation of the
            field. No graphs are kept where `slots` is a number.

    Raises:
        InputError: for a setting that means nothing.
    """

    slots: int | Literal["auto"] | None = None
    graph_budget: int = 64 * 2**20
    state_budget: int = 2**30

    def __post_init__(self) -> None:
        slots: Any = self.slots
        whole = isinstance(slots, int) and not isinstance(slots, bool)
        if not (slots is None or slots == "auto" or (whole and slots >= 1)):
            expected = 'a positive number of states, None for all, or "auto"'
            raise InputError("slots", repr(slots), expected)
        for name in ("graph_budget", "state_budget"):
            budget = getattr(self, name)
            if not isinstance(budget, int) or isinstance(budget, bool) or budget < 0:
                raise InputError(name, repr(budget), "a whole number of bytes, 0 or more")

    def run(self, problem: Problem, plan: Plan, stats: Statistics) -> Trajectory:
        """Integrate without a graph of the whole, and attach the backward pass to the result."""
        if active():
            return recorded(problem, plan)
        captured, problem = _dependencies(problem, plan)
        every = [problem.y0, *tensors_of_times(problem.times), *captured.tensors]
        keep = self._graphs_to_keep(captured, plan) if is_wanted(every) else 0
        starts = Kept(budget=self.state_budget) if self.slots == "auto" else Kept(self.slots)
        return replayed(Replay(problem, plan, starts, keep, stats), problem, captured)

    def run_samples(
        self, problem: SampleProblem, plan: SamplePlan, stats: Statistics
    ) -> SampleTrajectory:
        """The same for samples with steps of their own; a slot keeps the states of one round."""
        captured, problem = dependencies(problem, plan.solver)
        captured = with_tensors_of(captured, plan.events)
        every = [problem.y0, *(problem.times or ()), *captured.tensors]
        # A step that an event cuts is taken again: its interpolant belongs to its graph.
        keeps = is_wanted(every) and not (plan.events or isinstance(plan.solver, CompleteSolver))
        keep = self._graphs_to_keep(captured, plan) if keeps else 0
        if self.slots == "auto":
            starts = KeptLaneStarts(budget=self.state_budget)
        else:
            starts = KeptLaneStarts(self.slots)
        return replayed_lanes(LaneReplay(problem, plan, starts, keep, stats), problem, captured)

    def keeps(self, steps: int, state: int, step: int) -> tuple[int, int]:
        """Estimated bytes kept: states, and graphs as far as the budget goes."""
        if isinstance(self.slots, int):
            return min(steps, self.slots) * state, step
        graphs = min(steps, self.graph_budget // max(1, step))
        states = steps - graphs
        if self.slots == "auto":
            states = min(states, max(1, self.state_budget // max(1, state)))
        return graphs * step + states * state, 0 if graphs == steps else step

    def _graphs_to_keep(self, captured: Captured, plan: Plan | SamplePlan) -> int:
        """How many steps' graphs fit the budget."""
        value = captured.value
        if isinstance(self.slots, int) or value is None:
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
