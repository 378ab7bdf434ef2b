"""Compiled rounds of per-sample stepping, as the loop tries them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..integrate import Lanes
from ..integrate.attempts import CROWD, Attempt, Onward, Skipped, next_stops
from ..integrate.judging import Verdict
from ..integrate.lanes import stops_of
from ..samples import LaneField, SamplePlan, SampleProblem
from ..solvers.lanes import LaneExtension
from .driving import Counts, Wiring
from .graphs.capture import graphed
from .lane_formulas import Marks
from .lane_program import paired

if TYPE_CHECKING:
    from .lane_solver import CompiledLanes, CompiledLaneSolver

__all__ = ["CompiledAttempts", "CompiledLaneStep"]


@dataclass(slots=True)
class CompiledLaneStep:
    """A step of each lane; what it was worth is known already."""

    method: CompiledLanes
    y1: Tensor
    first: Tensor
    last: Tensor | None
    t: Tensor
    t_next: Tensor
    y0: Tensor
    slopes: Sequence[Tensor]

    @property
    def errors(self) -> tuple[Tensor, ...]:
        """They were measured with the step."""
        return ()

    def at(self, owners: Tensor, times: Tensor) -> Tensor:
        """States between the ends, from the method's interpolant."""
        lanes, places = owners.unique(return_inverse=True)
        return self.extension(lanes).at(places, times)

    def extension(self, lanes: Tensor) -> LaneExtension:
        """The continuous extensions of some lanes."""
        t, t_next, y0 = (x.index_select(0, lanes) for x in (self.t, self.t_next, self.y0))
        slopes = [slope.index_select(0, lanes) for slope in self.slopes]
        return LaneExtension(t, t_next, y0, slopes, self.method.inner.table.weights)


_NARROW_CROWD = 2
"""Where states are narrow, that lanes leave costs what a round of all of them costs some ten times.
A graph of a device is for one number of lanes, and to record another costs more than lanes at rest
do on a GPU: there they leave when all are done."""


class CompiledAttempts:
    """Tries a round in one call.

    Args:
        solver, method: what was compiled.
        problem, plan: what is solved, and how.
        critical: a length down to which the shortest step is for the loop to judge.
    """

    def __init__(
        self,
        solver: CompiledLaneSolver,
        method: CompiledLanes,
        problem: SampleProblem,
        plan: SamplePlan,
        critical: float,
    ) -> None:
        self._solver, self._method, self._program = solver, method, solver.program
        self._owner = problem.field
        request = self._program.request
        self._clock, self._tolerances = _tolerances(plan, problem.y0, request.vectors)
        self._memory = request.control().memory(problem.t0)
        self._stops = stops_of(plan.controller.stops, problem)
        self._artifact = self._program.step
        self._run = self._artifact.run
        self._field: LaneField | None = None
        self._common: list[Tensor] = []
        self._due: Tensor | None = None
        self._wiring: Wiring | None = None
        self._pending: list[Tensor] = []  # a round that the driver took, to be told of
        self._least, self._begins = critical, True
        self.crowd = _NARROW_CROWD if self._program.narrow else CROWD
        if graphed(problem.y0.device):
            self.crowd = 1

    def keep(self, lanes: Tensor) -> None:
        """Only these lanes are left."""
        self._memory = tuple(x.index_select(0, lanes) for x in self._memory)
        self._tolerances = [x.index_select(0, lanes) for x in self._tolerances]

    def skip(
        self, lanes: Lanes, due: Tensor | None, *, most: int, done: int, record: bool
    ) -> Skipped | None:
        """Rounds by the driver, as long as only the lanes need know of them."""
        self._due = due
        driver = self._artifact.driver
        if driver is None or self._stops is not None or len(lanes) == 1:
            return None
        given = self._given(lanes)
        if self._wiring is None:
            self._wiring = self._wired(len(given))
        counts = Counts(len(lanes), lanes.rest, done, self._least)
        found = driver.rounds(self._wiring, given, counts, most, record=record)
        if found is None:
            return None
        rounds = found.number + bool(found.last)
        self._owner.count(self._program.evaluations_per_step * rounds, len(lanes))
        self._pending = found.last
        matrix, count = self._program.found, len(self._memory)
        _, t, _, h, y, accepted, idle, *rest = found.inputs
        self._memory = tuple(rest[:count])
        first = matrix(rest[count]) if self._program.fsal else None
        onward = Onward(t, matrix(y), first, accepted, idle, still=True)
        quiet = [(start, end, matrix(carried)) for start, end, carried in found.rounds]
        steps = {i: self._passed(quiet, onward.y, i, s) for i, s in found.slopes.items()}
        return Skipped(found.number, onward, h, quiet, steps)

    def _passed(
        self,
        rounds: Sequence[tuple[Tensor, Tensor, Tensor]],
        end: Tensor,
        number: int,
        slopes: Tensor,
    ) -> CompiledLaneStep:
        """A round that is over, for its output."""
        t, t_next, y = rounds[number]
        y1 = rounds[number + 1][2] if number + 1 < len(rounds) else end
        own = [self._program.found(slope) for slope in slopes.unbind()]
        return CompiledLaneStep(self._method, y1, y, None, t, t_next, y, own)

    def _wired(self, inputs: int) -> Wiring:
        """How one round follows another; the order of inputs and outputs is `LaneFormula`'s."""
        carried = len(self._memory) + int(self._program.fsal)
        t, h, y, accepted, idle, further = 1, 3, 4, 5, 6, 7  # inputs
        follows = {t: 1, y: 2, h: 3, accepted: 4, idle: 5}
        follows |= {further + i: 6 + i for i in range(carried)}
        outputs = 6 + carried + 2 + int(self._program.rows > 0)
        between = self._program.rows > 0 and self._program.request.dues
        return Wiring.of(inputs, outputs, follows, t, y, outputs - 1 if between else None)

    def attempt(self, lanes: Lanes) -> Attempt:
        """Try one step of every lane."""
        found, self._pending = self._pending, []
        if not found:
            found = self._run(self._given(lanes))
            self._owner.count(self._program.evaluations_per_step, len(lanes))
        return self._attempt(lanes, Marks(*found[0].tolist()), found)

    def _given(self, lanes: Lanes) -> list[Tensor]:
        """The inputs of a round."""
        if lanes.field is not self._field:
            self._field = lanes.field
            self._common = self._solver.common(self._artifact, lanes.field, self._tolerances)
        if self._begins:  # a lane whose way has no length takes a step nevertheless
            self._begins, lanes.idle = False, lanes.idle - (lanes.t == lanes.t1).long()
        given = self._program.given
        own = [*map(paired, (lanes.t, lanes.t1, lanes.h)), given(paired(lanes.y))]
        own += map(paired, (lanes.accepted, lanes.idle, *self._memory))
        if self._program.fsal:
            assert lanes.first is not None
            own.append(given(paired(lanes.first)))
        if self._stops is not None:
            stops = self._stops.index_select(0, lanes.samples)
            own.append(paired(next_stops(stops, lanes.t, lanes.t1)))
        if self._program.request.dues:
            assert self._due is not None
            own.append(paired(self._due))
        return [self._clock, *own, *self._common]

    def _attempt(self, lanes: Lanes, marks: Marks, found: list[Tensor]) -> Attempt:
        """What a round found, as the loop has it."""
        matrix, count, memories = self._program.found, len(lanes), len(self._memory)
        y, slopes, first = matrix(found[2])[:count], [], None
        if self._program.rows:
            slopes = [matrix(slope)[:count] for slope in found.pop().unbind()]
        if self._program.fsal:
            first = matrix(found.pop(6 + memories))[:count]
        _, t, _, h, accepted, idle, *rest = (x[:count] for x in found)
        *memory, ratio, accept = rest
        self._memory = tuple(memory)
        started = lanes.y if lanes.first is None else lanes.first
        step = CompiledLaneStep(self._method, y, started, first, lanes.t, t, lanes.y, slopes)
        worst, rejected, arrived, shortest, _ = marks
        verdict = Verdict(ratio, worst, accept if rejected else None, h, shortest)
        # A round that tried in vain, or in which a lane was lost, is remembered by what counts.
        still = worst < math.inf and rejected + lanes.rest < len(lanes)
        onward = Onward(t, y, first, accepted, idle, still)
        return Attempt(step, t, arrived > lanes.rest, verdict, onward)


def _tolerances(plan: SamplePlan, y0: Tensor, vectors: bool) -> tuple[Tensor, list[Tensor]]:
    """As numbers on the host, and as matrices where one of them is a matrix."""
    if not vectors:
        both = torch.tensor([plan.rtol, plan.atol], dtype=torch.float64)
        return both.to(y0.device), []
    matrices = [
        torch.as_tensor(tolerance, dtype=y0.dtype).detach().expand(y0.shape).contiguous()
        for tolerance in (plan.rtol, plan.atol)
    ]
    return torch.ones(2, dtype=torch.float64, device=y0.device), matrices
