"""A solver whose rounds of steps are compiled, for per-sample stepping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..adjoints.lane_pulls import LanePull
from ..adjoints.lane_rounds import TakenRound
from ..integrate import Lanes
from ..integrate.attempts import Attempt, Attempts, Onward, next_stops
from ..integrate.judging import Verdict
from ..integrate.lanes import stops_of
from ..samples import LaneField, SampleField, SamplePlan, SampleProblem
from ..solvers.base import Field
from ..solvers.complete import CompleteSolver
from ..solvers.lane_methods import LaneMethod
from ..solvers.lanes import ExplicitLanes, LaneExtension, LaneSlope, LaneStep
from ..state import Packing, tree_leaves
from .building import Artifact
from .lane_formulas import Marks
from .lane_program import LaneProgram

__all__ = ["CompiledLaneSolver", "CompiledLanes"]


class CompiledLaneSolver(CompleteSolver):
    """The solver proper with compiled rounds, for one field.

    Args:
        plan: of the solve.
        inner: the method proper, for many lanes.
        program: the compiled formulas.
        used: the tensors that they depend on.
        field: of the solve.
        pull: the pull-back of a round, where that is wanted.
    """

    def __init__(
        self,
        plan: SamplePlan,
        inner: ExplicitLanes,
        program: LaneProgram,
        used: Sequence[Tensor],
        field: SampleField,
        pull: Artifact | None,
    ) -> None:
        super().__init__(plan.solver)
        self.program, self.used, self.pull = program, list(used), pull
        self._lanes = CompiledLanes(self, inner)
        leaves = list(map(id, tree_leaves(field.args)))
        # Where among the arguments those tensors are that have an axis of lanes.
        self.places = [
            leaves.index(id(tensor)) if slot.dynamic else None
            for slot, tensor in zip(program.slots, used, strict=True)
        ]

    def in_lanes(self) -> LaneMethod:
        """The method for many lanes."""
        return self._lanes

    @property
    def depends_on(self) -> tuple[Tensor, ...]:
        """The tensors that require grad, in the order in which their gradients are added up."""
        return tuple(tensor for tensor in self.used if tensor.requires_grad)

    @property
    def has_slopes(self) -> bool:
        """Whether its steps have interpolants."""
        return self.program.rows > 0

    def versions(self) -> None:
        """The walk back of per-sample stepping saves the tensors itself."""

    def demand_unchanged(self, versions: Any) -> None:
        """The same."""

    def bind(self, field: Field, packing: Packing) -> NoReturn:
        """It is no method for steps of a whole batch."""
        raise AssertionError("made for per-sample stepping")

    def common(
        self, artifact: Artifact, field: LaneField, tolerances: Sequence[Tensor]
    ) -> list[Tensor]:
        """What an artifact takes after its own inputs, for these lanes."""
        leaves = list(tree_leaves(field.args))
        found = [
            tensor if place is None else paired(leaves[place].detach().contiguous())
            for tensor, place in zip(self.used, self.places, strict=True)
        ]
        own = [] if field.signs is None else [paired(field.signs.contiguous())]
        own += [paired(tolerance) for tolerance in tolerances]
        return artifact.prepared([*own, *found], len(found))


class CompiledLanes:
    """The method proper, which tries its rounds, and pulls them back, in one call each.

    Args:
        solver: has what was compiled.
        inner: the method proper. It takes the steps that are to have a graph.
    """

    copies = 1

    def __init__(self, solver: CompiledLaneSolver, inner: ExplicitLanes) -> None:
        self._solver, self.inner = solver, inner
        self.time_dtype, self.combine = inner.time_dtype, inner.combine
        self.degree, self.hands_on = inner.degree, inner.hands_on

    @property
    def rows(self) -> int:
        """Rows of the interpolant of a step, where output between the ends is wanted."""
        return self._solver.program.rows

    def step(
        self,
        field: LaneSlope,
        t: Tensor,
        t_next: Tensor,
        y: Tensor,
        first: Tensor | None,
        *,
        estimate: bool = True,
    ) -> LaneStep:
        """One step of each lane by the method proper; see `LaneStepper`."""
        return self.inner.step(field, t, t_next, y, first, estimate=estimate)

    def attempts(self, problem: SampleProblem, plan: SamplePlan) -> Attempts:
        """For one solve."""
        return _CompiledAttempts(self._solver, self, problem, plan)

    def pulling(self, field: SampleField) -> LanePull:
        """For one walk back."""
        return _CompiledPull(self._solver, field)

    def outline(
        self, round_: TakenRound, y: Tensor, y1: Tensor, slopes: Sequence[Tensor]
    ) -> LaneStep:
        """Steps of all lanes between the given ends, with an interpolant over the given slopes."""
        return _CompiledLaneStep(self, y1, y, None, round_.t, round_.t_next, y, slopes)


@dataclass(slots=True)
class _CompiledLaneStep:
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


class _CompiledAttempts:
    """Tries a round in one call.

    Args:
        solver, method: what was compiled.
        problem, plan: what is solved, and how.
    """

    def __init__(
        self,
        solver: CompiledLaneSolver,
        method: CompiledLanes,
        problem: SampleProblem,
        plan: SamplePlan,
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

    def keep(self, lanes: Tensor) -> None:
        """Only these lanes are left."""
        self._memory = tuple(x.index_select(0, lanes) for x in self._memory)
        self._tolerances = [x.index_select(0, lanes) for x in self._tolerances]

    def attempt(self, lanes: Lanes) -> Attempt:
        """Try one step of every lane."""
        program, count = self._program, len(lanes)
        if lanes.field is not self._field:
            self._field = lanes.field
            self._common = self._solver.common(self._artifact, lanes.field, self._tolerances)
        y, first = lanes.y.contiguous(), lanes.first
        own = [lanes.t, lanes.t1, lanes.h, y]
        if program.fsal:
            assert first is not None
            own.append(first.contiguous())
        if self._stops is not None:
            stops = self._stops.index_select(0, lanes.samples)
            own.append(next_stops(stops, lanes.t, lanes.t1))
        own += self._memory
        if count == 1:
            own = [paired(x) for x in own]
        found = self._run([self._clock, *own, *self._common])
        marks = Marks(*found[0].tolist())
        if count == 1:
            found = [x[:, :1] if x.ndim == 3 else x[:1] for x in found]
        self._owner.evaluations += program.evaluations_per_step
        self._owner.rows += program.evaluations_per_step * count
        return self._attempt(lanes, marks, found)

    def _attempt(self, lanes: Lanes, marks: Marks, found: list[Tensor]) -> Attempt:
        """What a round found, as the loop has it."""
        _, t, y, h, ratio, accept, *rest = found
        memories = len(self._memory)
        self._memory, rest = tuple(rest[:memories]), rest[memories:]
        first = rest.pop(0) if self._program.fsal else None
        slopes = rest[0].unbind() if rest else ()
        started = lanes.y if lanes.first is None else lanes.first
        step = _CompiledLaneStep(self._method, y, started, first, lanes.t, t, lanes.y, slopes)
        worst, rejected, arrived, shortest = marks
        verdict = Verdict(ratio, worst, accept if rejected else None, h, shortest)
        # A round that tried in vain, or in which a lane was lost, is remembered by what counts.
        still = worst < float("inf") and rejected + lanes.rest < len(lanes)
        return Attempt(step, t, arrived > lanes.rest, verdict, Onward(t, y, first, still))


class _CompiledPull:
    """Pulls rounds back, each in one call.

    Tensors with an axis of lanes have totals with that axis. They are added to those of the whole
    batch where other lanes come in.
    """

    def __init__(self, solver: CompiledLaneSolver, field: SampleField) -> None:
        assert solver.pull is not None
        self._solver, self._field, self._artifact = solver, field, solver.pull
        program = solver.program
        self._clock = torch.ones(2, dtype=torch.float64)
        slots = zip(program.slots, solver.used, strict=True)
        wanted = [(slot.dynamic, tensor) for slot, tensor in slots if tensor.requires_grad]
        self._totals = [_zeros_like(tensor) for _, tensor in wanted]
        self._by_lane = [i for i, (dynamic, _) in enumerate(wanted) if dynamic]
        self._given: list[Tensor] = []
        self._lane_totals: list[Tensor] = []
        self._samples: Tensor | None = None

    def pull(
        self, round_: TakenRound, y: Tensor, cotangent: Tensor, slopes: Tensor | None
    ) -> Tensor:
        """Cotangents of what lanes carried before a round."""
        if round_.samples is not self._samples:
            self._enter(round_.samples)
        count, program = len(y), self._solver.program
        own = [round_.t, round_.t_next, y.contiguous(), cotangent.contiguous()]
        if count == 1:  # a second lane, which nothing is worth anything to
            own = [*map(paired, own[:3]), torch.cat([own[3], torch.zeros_like(own[3])])]
        if program.rows:
            if slopes is None:
                slopes = y.new_zeros(program.rows, *y.shape)
            if count == 1:
                slopes = torch.cat([slopes, torch.zeros_like(slopes)], 1)
            own.append(slopes.reshape(-1, y.shape[1]))
        (found,) = self._artifact.run([self._clock, *own, *self._given])
        self._field.evaluations += program.evaluations_per_pull
        self._field.rows += program.evaluations_per_pull * count
        return found[:count]

    def totals(self) -> list[Tensor]:
        """Gradients of the tensors that the solver depends on."""
        self._leave()
        return self._totals

    def _enter(self, samples: Tensor) -> None:
        """Ready for rounds of these lanes."""
        self._leave()
        self._samples, count = samples, max(2, len(samples))
        everyone = len(samples) == self._field.batch
        field = self._field.at(None if everyone else samples)
        tolerances = []
        if self._solver.program.request.vectors:  # which no derivative depends on
            ones = torch.ones(count, field.owner.width, dtype=field.owner.packing.dtype)
            tolerances = [ones, ones]
        totals = list(self._totals)
        for i in self._by_lane:
            totals[i] = totals[i].new_zeros(count, *totals[i].shape[1:])
        self._lane_totals = [totals[i] for i in self._by_lane]
        self._given = [*self._solver.common(self._artifact, field, tolerances), *totals]

    def _leave(self) -> None:
        """Add what lanes have to what samples have."""
        samples = self._samples
        if samples is None:
            return
        for i, total in zip(self._by_lane, self._lane_totals, strict=True):
            self._totals[i].index_add_(0, samples, total[: len(samples)])
        self._samples = None


def paired(lanes: Tensor) -> Tensor:
    """Entries of one lane twice, for a graph that serves two or more; of more as they are."""
    return lanes.repeat(2, *[1] * (lanes.ndim - 1)) if lanes.shape[0] == 1 else lanes


def _tolerances(plan: SamplePlan, y0: Tensor, vectors: bool) -> tuple[Tensor, list[Tensor]]:
    """As numbers on the host, and as matrices where one of them is a matrix."""
    if not vectors:
        return torch.tensor([plan.rtol, plan.atol], dtype=torch.float64), []
    matrices = [
        torch.as_tensor(tolerance, dtype=y0.dtype).detach().expand(y0.shape).contiguous()
        for tolerance in (plan.rtol, plan.atol)
    ]
    return torch.ones(2, dtype=torch.float64), matrices


def _zeros_like(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, memory_format=torch.contiguous_format)
