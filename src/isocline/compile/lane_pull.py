"""The walk back over compiled rounds of per-sample stepping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..adjoints.lane_rounds import TakenRound
from ..samples import SampleField
from .lane_program import FEWEST, paired

if TYPE_CHECKING:
    from .lane_solver import CompiledLaneSolver

__all__ = ["CompiledPull"]


class CompiledPull:
    """Pulls rounds back, each in one call.

    Tensors with an axis of lanes have totals with that axis. They are added to those of the whole
    batch where other lanes come in.
    """

    def __init__(self, solver: CompiledLaneSolver, field: SampleField) -> None:
        assert solver.pull is not None
        self._solver, self._field, self._artifact = solver, field, solver.pull
        program = solver.program
        device = field.packing.device
        self._clock = torch.ones(2, dtype=torch.float64, device=device)
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
        program, count = self._solver.program, len(y)
        if slopes is None:
            slopes = y.new_zeros(program.rows, *y.shape)
        own = [round_.t, round_.t_next, y]
        cotangents = [cotangent, *slopes]
        if count == 1:  # a second lane, which nothing is worth anything to
            own, cotangents = [*map(paired, own)], [*map(_beside_nothing, cotangents)]
        own = [*own[:2], *map(program.given, (own[2], cotangents[0]))]
        if program.rows:
            own.append(torch.cat([program.given(one).flatten() for one in cotangents[1:]]))
        (found,) = self._artifact.run([self._clock, *own, *self._given])
        self._field.count(program.evaluations_per_pull, count)
        return program.found(found)[:count]

    def pull_all(self, rounds: Sequence[tuple[TakenRound, Tensor]], cotangent: Tensor) -> Tensor:
        """The same over rounds without output, by the driver where there is one."""
        (first, y), driver = rounds[0], self._artifact.driver
        if first.samples is not self._samples:
            self._enter(first.samples)
        if driver is not None and len(y) > 1:
            program, after = self._solver.program, self._given
            if program.rows:
                after = [y.new_zeros(program.rows * y.numel()), *after]
            walked = [(round_.t, round_.t_next, program.given(start)) for round_, start in rounds]
            end, totals = program.given(cotangent), len(self._totals)
            found = driver.pulled(walked, self._clock, end, after, totals)
            if found is not None:
                self._field.count(program.evaluations_per_pull * len(rounds), len(y))
                return program.found(found)
        for round_, start in rounds:
            cotangent = self.pull(round_, start, cotangent, None)
        return cotangent

    def totals(self) -> list[Tensor]:
        """Gradients of the tensors that the solver depends on."""
        self._leave()
        return self._totals

    def _enter(self, samples: Tensor) -> None:
        """Ready for rounds of these lanes."""
        self._leave()
        self._samples, count = samples, max(FEWEST, len(samples))
        everyone = len(samples) == self._field.batch
        field = self._field.at(None if everyone else samples)
        tolerances = []
        if self._solver.program.request.vectors:  # which no derivative depends on
            packing = self._field.packing
            ones = torch.ones(count, self._field.width, dtype=packing.dtype, device=packing.device)
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


def _beside_nothing(lane: Tensor) -> Tensor:
    """Cotangents of one lane, and zeros for another."""
    return torch.cat([lane, torch.zeros_like(lane)])


def _zeros_like(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, memory_format=torch.contiguous_format)
