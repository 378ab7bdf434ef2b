"""A solver whose solves are taken by graphs of the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

from ...integrate import Whole
from ...problem import PackedField, Plan, Problem
from ...solvers.base import Field
from ...state import Packing
from ..building import Artifact
from ..driving import Wiring
from ..solver import CompiledSolver
from ..tracing import Untraceable, first_line
from .artifact import GraphedRounds
from .program import RoundProgram
from .pulls import Pulls
from .rounds import Rounds
from .solve import GraphedSolve

__all__ = ["GraphedSolver"]

CLOCK, STATE, SLOPE = 0, 1, 2
"""Inputs of a round."""


class GraphedSolver(CompiledSolver):
    """The solver proper with rounds that a device takes without the host, for one field.

    Its arguments are those of a `CompiledSolver`; `program` is a `RoundProgram`.
    """

    program: RoundProgram

    def whole(self, problem: Problem, plan: Plan, record: bool) -> Whole:
        """The whole solve."""
        return GraphedSolve(self, problem, plan, record)

    def bind(self, field: Field, packing: Packing) -> NoReturn:
        """It takes no steps one by one."""
        raise AssertionError("its solves are taken whole")

    def ready(self, field: PackedField, *, pulls: bool) -> None:
        """Record its graphs for this state, so that it is known whether the device can.

        Raises:
            Untraceable: if it cannot.
        """
        self.prepare(field, pulls=pulls)
        try:
            self._record(field, pulls)
        except RuntimeError as error:
            reason = first_line(error)
            raise Untraceable(f"its steps cannot be captured as a graph: {reason}") from error

    def _record(self, field: PackedField, pulls: bool) -> None:
        y = torch.zeros(self.packing.size, dtype=self.packing.dtype, device=self.packing.device)
        clock = y.new_zeros(self.program.numbers, dtype=torch.float64)
        self.taking([clock, y, *([y] if self.program.fsal else [])])
        if pulls:
            zeros = [clock, y, y, y, *self._of_slopes(y)]
            pull = self.pulling(field)
            self.walking(pull, zeros, y, [torch.zeros_like(x) for x in self.depends_on])

    def taking(self, own: Sequence[Tensor]) -> Rounds:
        """What takes rounds, given their own inputs."""
        given = [*own, *self.prepared(self.program.step)]
        follows = {CLOCK: 1, STATE: 2} | ({SLOPE: 3} if self.program.fsal else {})
        outputs = 4 + int(self.program.fsal) + int(self.has_slopes)
        slopes = outputs - 1 if self.has_slopes else None
        wiring = Wiring.of(len(given), outputs, follows, CLOCK, STATE, slopes)
        return _driver(self.program.step).taking(wiring, given, marks=False)

    def walking(
        self, pull: Artifact, own: Sequence[Tensor], end: Tensor, totals: Sequence[Tensor]
    ) -> tuple[Pulls, list[Tensor]]:
        """What walks back over steps, and what is the same for all of them.

        Args:
            pull: the pull-back of a step.
            own: of a step: its clock, the state at its start, cotangents of its output at its end,
                at its start, and of its slopes if they are wanted.
            end: the cotangent of the end of the solve.
            totals: what gradients are added to.
        """

        def pulled(own: Sequence[Tensor], end: Tensor, after: Sequence[Tensor]) -> Tensor:
            clock, y, of_end, of_start, *of_slopes = own
            return pull.run([clock, y, end + of_end, *of_slopes, *after])[0] + of_start

        after = [*self.prepared(pull), *totals]
        return _driver(pull).pulling(pulled, own, end, after, len(totals)), after

    def _of_slopes(self, y: Tensor) -> list[Tensor]:
        return [y.repeat(self.program.rows)] if self.has_slopes else []


def _driver(artifact: Artifact) -> GraphedRounds:
    assert isinstance(artifact.graphs, GraphedRounds)
    return artifact.graphs
