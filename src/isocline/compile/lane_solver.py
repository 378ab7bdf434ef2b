"""A solver whose rounds of steps are compiled, for per-sample stepping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from torch import Tensor

from ..adjoints.lane_pulls import LanePull
from ..adjoints.lane_rounds import TakenRound
from ..integrate.attempts import Attempts
from ..samples import LaneField, SampleField, SamplePlan, SampleProblem
from ..solvers.base import Field
from ..solvers.complete import CompleteSolver
from ..solvers.lane_methods import LaneMethod
from ..solvers.lanes import ExplicitLanes, LaneSlope, LaneStep
from ..state import Packing, tree_leaves
from .building import Artifact
from .lane_attempts import CompiledAttempts, CompiledLaneStep
from .lane_program import LaneProgram, paired
from .lane_pull import CompiledPull

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

    def attempts(self, problem: SampleProblem, plan: SamplePlan, critical: float) -> Attempts:
        """For one solve."""
        return CompiledAttempts(self._solver, self, problem, plan, critical)

    def pulling(self, field: SampleField) -> LanePull:
        """For one walk back."""
        return CompiledPull(self._solver, field)

    def outline(
        self, round_: TakenRound, y: Tensor, y1: Tensor, slopes: Sequence[Tensor]
    ) -> LaneStep:
        """Steps of all lanes between the given ends, with an interpolant over the given slopes."""
        return CompiledLaneStep(self, y1, y, None, round_.t, round_.t_next, y, slopes)
