"""A whole solve by graphs of the device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...integrate import Clock, Outcome, Reach, Saver, Whole
from ...integrate.loop import not_finite, targets
from ...problem import Plan, Problem
from ...solution import Status
from ...solvers.base import DensePiece, Memory, Step
from ...solvers.tableau import CENTRE
from ..driving import Counts

if TYPE_CHECKING:
    from .solver import GraphedSolver

__all__ = ["GraphedSolve"]

_TIME, _TARGET, _LENGTH, _RATIO, _ACCEPTED = range(4, 9)
"""Where a clock has what: see `NUMBERS`."""

_ALONE = Counts(number=1, rest=0, done=0, least=0.0)
"""A joint solve is that of one lane."""

_LOOK = 64
"""Rounds after which progress is shown, where somebody looks."""


_Span = tuple[float, float, Tensor, Tensor | None, Tensor]
"""Ends of a step, the state at its start, its slopes, the state at its end."""


class _Passed(NamedTuple):
    """A step that counts.

    Attributes:
        t, t_next: its ends.
        y: state at its start.
        slopes: shape (stages, N); None where they are not wanted.
        first_row, last_row: of output, counted from the first that a step gave.
    """

    t: float
    t_next: float
    y: Tensor
    slopes: Tensor | None
    first_row: int
    last_row: int


@dataclass(slots=True)
class _Ended(Step):
    """A step as output is asked of it."""

    piece: DensePiece | None

    def dense(self) -> DensePiece:
        """Its interpolant."""
        assert self.piece is not None
        return self.piece


class GraphedSolve(Whole):
    """A solve that a device takes, and that is remembered.

    Args:
        solver: takes it.
        problem, plan: what and how.
        record: whether it will be walked back over.
    """

    forgotten = False
    """What is forgotten is computed again where it is asked for."""

    def __init__(self, solver: GraphedSolver, problem: Problem, plan: Plan, record: bool) -> None:
        self._solver, self._problem, self._plan = solver, problem, plan
        self._remembers = record or bool(plan.ts)
        self._saver = Saver(problem, plan, Clock(problem, plan.ts))
        self._y0 = solver.packed(problem.y0.detach()).clone()
        self._passed: list[_Passed] | None = None
        self._end = self._y0
        self.outcome = self._taken()

    # --- forward ----------------------------------------------------------------------------

    def _taken(self) -> Outcome:
        """Take the solve."""
        problem, plan, saver = self._problem, self._plan, self._saver
        found = Outcome(t_end=problem.t0, y=problem.y0, times=list(saver.initial_times()))
        found.rows += saver.initial(self._y0)
        carried, begun = self._start()
        slope, records, attempts = carried[-1], list[list[Tensor]](), 0
        for target in reversed(targets(problem, plan.controller)):
            carried[0][_TARGET].fill_(target)
            carried, attempts = self._towards(carried, attempts, records, found)
            if found.status is not Status.SUCCESS:
                break
        clock = carried[0].tolist()
        if math.isnan(begun.item()):  # the field is not finite at the start: nothing was tried
            attempts, found.failed_samples = 0, not_finite(problem.field.packing, slope)
        found.t_end, found.h, found.accepted = clock[_TIME], clock[_LENGTH], int(clock[_ACCEPTED])
        found.rejected = attempts - found.accepted
        per_step = self._solver.program.evaluations_per_step
        problem.field.evaluations += attempts * per_step + 2 * (plan.dt0 is None)
        self._end = carried[1]
        self._save(records, found)
        return found

    def _start(self) -> tuple[list[Tensor], Tensor]:
        """What the first round is given of its own, and the length that it tries."""
        solver, problem, plan, y0 = self._solver, self._problem, self._plan, self._y0
        program, sign = solver.program, problem.direction
        span = abs(problem.t1 - problem.t0)
        numbers = [sign, span, *solver.tolerances, problem.t0, problem.t1, math.nan, 0.0, 0.0]
        memory = program.request.control().memory(torch.zeros(1, dtype=torch.float64))
        clock = torch.tensor([*numbers, *map(float, memory)], dtype=torch.float64).to(y0.device)
        slope = None
        if plan.dt0 is not None:
            clock[_LENGTH].fill_(plan.dt0)
            if program.fsal:
                time = y0.real.new_full((), problem.t0, dtype=problem.field.packing.time_dtype)
                slope = problem.field(time, y0).detach()
        else:
            assert solver.start is not None
            between = torch.zeros_like(clock)
            for place, number in enumerate((problem.t0, problem.t1, *solver.tolerances)):
                between[place].fill_(number)
            slope, h = solver.start.run([between, y0, *solver.prepared(solver.start)])
            clock[_LENGTH].copy_(h)
        carried = [clock, y0, *([slope] if program.fsal and slope is not None else [])]
        return carried, clock[_LENGTH].clone()

    def _towards(
        self, carried: list[Tensor], attempts: int, records: list[list[Tensor]], found: Outcome
    ) -> tuple[list[Tensor], int]:
        """Rounds until one reaches the target, or none can."""
        plan, solver = self._plan, self._solver
        rounds, common = solver.taking(carried), solver.prepared(solver.program.step)
        while attempts < plan.max_steps:
            most = plan.max_steps - attempts
            if plan.on_step is not None:
                most = min(most, _LOOK)
            taken = rounds.take([*carried, *common], _ALONE, most, record=self._remembers)
            attempts += taken.number
            records += taken.records
            carried = taken.inputs[: len(carried)]
            if not taken.last:
                self._show(carried[0])
                continue
            attempts += 1
            _, _, arrived, _, _ = taken.last[0].tolist()
            after = taken.last[1 : 1 + len(carried)]
            if not arrived:
                self._fail(found, after[0], taken.last[1 + len(carried)])
            elif self._remembers:
                records.append([*carried[:2], *taken.last[2 + len(carried) :]])
            self._show(after[0])
            return after, attempts
        found.status = Status.MAX_STEPS
        return carried, attempts

    def _show(self, clock: Tensor) -> None:
        """Tell who looks how far the solve has come."""
        if self._plan.on_step is not None:
            self._plan.on_step(clock[_TIME].item())

    def _fail(self, found: Outcome, clock: Tensor, y1: Tensor) -> None:
        """Say whether no shorter step helps for the tolerance or for a state not finite."""
        if math.isfinite(clock[_RATIO].item()):
            found.status = Status.STEP_UNDERFLOW
            return
        found.status = Status.NON_FINITE
        found.failed_samples = not_finite(self._problem.field.packing, y1)

    def _save(self, records: Sequence[Sequence[Tensor]], found: Outcome) -> None:
        """The steps that count, and their output."""
        passed, row = [], 0
        steps = self._steps(records, found.t_end)
        if not self._remembers and found.status is Status.SUCCESS:  # one step, to the end
            steps = iter([(self._problem.t0, found.t_end, self._y0, None, self._end)])
        for t, t_next, y, slopes, y1 in steps:
            piece = None if slopes is None else self._piece(t, t_next, y, slopes)
            reach = Reach(t, t_next)
            rows = self._saver.rows(reach, _Ended(y1, (), Memory(), Memory(), piece))
            if rows:
                found.rows += rows
                found.times += self._saver.times(reach)
            count = sum(map(len, rows))
            passed.append(_Passed(t, t_next, y, slopes, row, row + count))
            row += count
        self._passed = passed if self._remembers else None

    def _steps(self, records: Sequence[Sequence[Tensor]], t_end: float) -> Iterator[_Span]:
        """The accepted ones: their ends, the state at the start, slopes, the state at the end."""
        if not records:
            return
        times = [*torch.stack([clock[_TIME] for clock, *_ in records]).tolist(), t_end]
        states = [*(y for _, y, *_ in records), self._end]
        for i, (_, y, *slopes) in enumerate(records):
            if times[i + 1] != times[i]:
                own = slopes[0] if slopes else None
                yield times[i], times[i + 1], y, own, states[i + 1]

    def _piece(self, t: float, t_next: float, y: Tensor, slopes: Tensor) -> DensePiece:
        return DensePiece(t, t_next, y, slopes, self._solver.program.weights, float(CENTRE))

    # --- what was remembered ----------------------------------------------------------------

    @property
    def _known(self) -> list[_Passed]:
        """The steps; taken again where they were forgotten."""
        if self._passed is None:
            self._taken()
        assert self._passed is not None
        return self._passed

    def steps(self) -> list[tuple[float, float, int, int]]:
        """Ends and rows of the accepted steps."""
        return [(s.t, s.t_next, s.first_row, s.last_row) for s in self._known]

    def states(self) -> list[Tensor]:
        """States at the ends of the steps."""
        return [*(step.y for step in self._known), self._end]

    def forget(self) -> None:
        """Let go of all states but the first."""
        self._passed, self._end = None, self._y0

    # --- backward ---------------------------------------------------------------------------

    def pull(self, cotangents: Tensor, totals: Sequence[Tensor]) -> Tensor:
        """Walk back over the steps."""
        solver, field, passed = self._solver, self._problem.field, self._known
        end = torch.zeros_like(self._y0)
        if not passed:
            return end
        field.evaluations += len(passed) * solver.program.evaluations_per_pull
        rounds = list(self._backwards(passed, cotangents))
        pulls, after = solver.walking(solver.pulling(field), rounds[0], end, totals)
        return pulls.walk(rounds, _still, end, after)

    def _backwards(self, passed: Sequence[_Passed], cotangents: Tensor) -> Iterator[list[Tensor]]:
        """What the pull-back of each step is given, the last first."""
        solver, y0 = self._solver, self._y0
        unused = [0.0] * (solver.program.numbers - 4)
        numbers = [[step.t, step.t_next, *solver.tolerances, *unused] for step in passed]
        clocks = torch.tensor(numbers, dtype=torch.float64).to(y0.device)
        nothing = torch.zeros_like(y0)
        no_slopes = [y0.new_zeros(solver.program.rows * len(y0))] if solver.has_slopes else []
        for clock, step in zip(reversed(clocks.unbind()), reversed(passed), strict=True):
            if step.first_row == step.last_row:
                yield [clock, step.y, nothing, nothing, *no_slopes]
            else:
                yield [clock, step.y, *self._of_output(step, cotangents)]

    def _of_output(self, step: _Passed, cotangents: Tensor) -> list[Tensor]:
        """Cotangents of the end of a step, its start, and its slopes, from those of its output."""
        first = len(self._saver.initial_times()) + step.first_row
        times = self.outcome.times[first : first + step.last_row - step.first_row]
        rows = cotangents[step.first_row : step.last_row]
        inside = sum(t != step.t_next for t in times)  # those come first
        of_end, of_start = rows[inside:].sum(0), rows[:inside].sum(0)
        if step.slopes is None:
            return [of_end, of_start]
        piece = self._piece(step.t, step.t_next, step.y, step.slopes)
        basis = piece.basis(torch.tensor(times[:inside], dtype=torch.float64))
        of_slopes = basis.to(rows.device, rows.dtype).t() @ rows[:inside]
        return [of_end, of_start, of_slopes.flatten()]


def _still(own: Sequence[Tensor]) -> list[Tensor]:
    """A step that takes no time where another one began, and is worth nothing."""
    clock, y, *cotangents = own
    still = clock.clone()
    still[1] = clock[0]
    return [still, y, *map(torch.zeros_like, cotangents)]
