"""StepBack: the exact gradient of a reversible method, with none of its states remembered.

A step of a reversible method can be taken back: from its end, and what it hands on, its start
follows to rounding. So the backward pass needs the last state alone. It steps back to where the
last step started, takes that step again under autograd, pulls the gradient through it, and goes
on so to t0 (Zhuang, Dvornek, Tatikonda and Duncan 2021, "MALI", ICLR, algorithm 4; McCallum and
Foster 2024, "Efficient, Accurate and Stable Gradients for Neural ODEs", algorithm 2).

Rounding errors grow on the way back as the reversed flow lets them: where the flow contracts, by
as much. So the start that is found is compared with the true one, and a miss is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ..capture import capture, with_tensors_of
from ..errors import GradientError
from ..problem import Plan, Problem
from ..samples import SamplePlan, SampleProblem
from ..solution import Statistics
from ..solvers.base import ReversibleStepper, Solver, Stepper
from ..solvers.coupled_lanes import CoupledLanes
from ..solvers.lane_methods import lane_stepper
from ..transforms import active
from .base import Trajectory
from .direct import recorded
from .drift import warn_of_miss
from .lane_replay import LaneReplay
from .lane_stepback import SteppedBackLanes
from .replay import Replay
from .replayed import replayed
from .replayed_lanes import dependencies, replayed_lanes
from .samples import SampleTrajectory
from .starts import Held, Taken

__all__ = ["StepBack"]


@dataclass(frozen=True, slots=True)
class StepBack:
    """Exact, in memory independent of the number of steps, for reversible methods.

    These are `Reversible(...)` around any explicit Runge-Kutta method, `ALF`, and the symplectic
    ones. The gradient is that of `Direct` up to the rounding errors that going back magnifies. A
    `GradientWarning` says so where it misses the state at t0 by more than the tolerance of the
    solve.
    """

    def run(self, problem: Problem, plan: Plan, stats: Statistics) -> Trajectory:
        """Integrate without a graph, and attach the walk back to the result.

        Raises:
            GradientError: for a method that is not reversible.
        """
        stepper = plan.solver.bind(problem.field, problem.field.packing)
        if not isinstance(stepper, ReversibleStepper):
            joint = "`ALF()` or, for separable systems, `Leapfrog()`"
            raise _cannot_go_back(plan.solver, f'`solver=Reversible("tsit5")`, {joint}')
        if active():
            return recorded(problem, plan)
        start = problem.y0.real.new_tensor(problem.t0)
        captured = capture(problem.field, start, problem.y0, plan.solver)
        problem = replace(problem, f0=captured.value)
        return replayed(Replay(problem, plan, _SteppedBack(plan), 0, stats), problem, captured)

    def run_samples(
        self, problem: SampleProblem, plan: SamplePlan, stats: Statistics
    ) -> SampleTrajectory:
        """The same for samples with steps of their own, back round by round.

        Of each sample its end and its start are kept, and of each event where the step ended that
        it cut short and what the sample went on with; of each round which samples took a step, from
        when to when.

        Raises:
            GradientError: for a method that is not reversible.
        """
        packing = problem.field.packing
        method = lane_stepper(plan.solver, packing.dtype, packing.device)
        if not isinstance(method, CoupledLanes):
            raise _cannot_go_back(plan.solver, '`solver=Reversible("tsit5")`')
        captured, problem = dependencies(problem, plan.solver)
        captured = with_tensors_of(captured, plan.events)
        starts = SteppedBackLanes(problem, plan, method)
        return replayed_lanes(LaneReplay(problem, plan, starts, 0, stats), problem, captured)

    def keeps(self, steps: int, state: int, step: int) -> tuple[int, int]:
        """Estimated bytes kept: first and last state, each with what a method carries."""
        return 4 * state, step


def _cannot_go_back(solver: Solver, others: str) -> GradientError:
    """The error of a method that is not reversible, with `others` that are."""
    return GradientError(
        f"StepBack goes back step by step, and a step of {solver.name} cannot be taken back. Use a "
        f"reversible method, such as {others}; or another adjoint: `Checkpointed(slots=k)` keeps "
        "memory constant for every method."
    )


class _SteppedBack:
    """What steps started from, found by taking them back; the start of the first is kept.

    Args:
        plan: its tolerance is what the start is to be met to.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._first: Held | None = None
        self._end: Held | None = None

    @property
    def pairs(self) -> None:
        """Any number: a tangent is not stepped back."""
        return None

    @property
    def recomputed(self) -> int:
        """None: states are found by going back."""
        return 0

    def accepted(self, start: Held, end: Held) -> None:
        """Remember the first start and the last end."""
        self._first = self._first or start
        self._end = end

    def restart(self, first: Held) -> None:
        """Nothing is kept that could be let go of."""

    def backwards(self, steps: Sequence[Taken], stepper: Stepper) -> Iterator[Held]:
        """Starts, last first."""
        if self._first is None or self._end is None:
            return  # the solve took no step
        assert isinstance(stepper, ReversibleStepper)  # since `StepBack.run`
        y, memory = self._end
        for taken in reversed(steps[1:]):
            y, memory = stepper.back(taken.reach.t, taken.reach.t_next, y, memory)
            yield Held(y, memory)
        first = steps[0].reach
        self._judge(first.t, stepper.back(first.t, first.t_next, y, memory)[0], len(steps))
        yield self._first

    def _judge(self, t0: float, found: torch.Tensor, steps: int) -> None:
        """Warn where the start was missed."""
        assert self._first is not None
        true, plan = self._first.y, self._plan
        error, size = found - true, true.abs()
        least = torch.finfo(size.dtype).tiny ** 0.5  # keeps out 0 / 0
        scale = (plan.atol + plan.rtol * size).clamp(min=least)
        ratio = float(plan.norm(error / scale))
        warn_of_miss(str(steps), t0, ratio, error, true)
