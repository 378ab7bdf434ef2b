"""One field traced for rounds of one method, each sample with a step of its own."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..samples import rows_packing
from ..state import Packing
from .lane_formulas import NARROW, LaneFormula
from .program import Program
from .subjects import Subject

__all__ = ["FEWEST", "LaneProgram", "paired"]

FEWEST = 2
"""Lanes from which one graph serves any number of them: for a single one it would be another."""


class LaneProgram(Program):
    """Compiled rounds of one field and method, and their pull-back; for two lanes or more.

    Of what the field holds, those tensors have an axis of lanes that are marked `PerSample`. Its
    `request` is a `LaneRequest`.
    """

    may_be_fixed = False

    @functools.cached_property
    def width(self) -> int:
        """Numbers of a state."""
        return sum(shape[1:].numel() for shape in self._layout.packing.shapes)

    @property
    def narrow(self) -> bool:
        """Whether states come and go in columns."""
        return self.width <= NARROW

    def given(self, carried: Tensor) -> Tensor:
        """What lanes carry, shape (lanes, width), as graphs are given it."""
        return carried.t().reshape(-1) if self.narrow else carried.contiguous()

    def found(self, given: Tensor) -> Tensor:
        """The way back."""
        if self.narrow:
            return given.view(self.width, -1).t()
        return given.view(-1, self.width)

    def _traced_as(self, packing: Packing) -> Packing:
        return rows_packing(packing, max(FEWEST, packing.batch or 1))

    def _formula(self, subject: Subject) -> LaneFormula:
        tensors = [subject.tensors[slot.place] for slot in self.slots]
        return LaneFormula(self.request, subject.packing, subject.func, subject.args, tensors)

    def _leading(self, packing: Packing) -> list[Tensor]:
        return [torch.zeros(2, dtype=torch.float64, device=packing.device)]

    def _own_of_step(self, packing: Packing) -> list[Tensor]:
        y, t = self.given(_matrix(packing)), _clocks(packing)
        request = self.request
        flags = ((self.fsal, y), (request.stops, t), (request.dues, t))
        further = [example for there, example in flags if there]
        return [t, t, t, y, t.long(), t.long(), *request.control().memory(t), *further]

    def _own_of_slope(self, packing: Packing) -> list[Tensor]:
        return [_clocks(packing), self.given(_matrix(packing))]

    def _own_of_pull(self, packing: Packing) -> list[Tensor]:
        y, t = self.given(_matrix(packing)), _clocks(packing)
        return [t, t, y, y, *([y.flatten().repeat(self.rows)] if self.rows else [])]

    def _following(self, packing: Packing) -> list[Tensor]:
        y = _matrix(packing)
        signs = [_clocks(packing)] if self.request.signed else []
        return [*signs, *([y, y] if self.request.vectors else [])]

    def _example(self, tensor: Tensor, packing: Packing) -> Tensor:
        rows = packing.batch or 1
        alike = tensor.shape[0] == rows
        return tensor.contiguous() if alike else tensor.new_zeros(rows, *tensor.shape[1:])


def paired(lanes: Tensor) -> Tensor:
    """Entries of one lane twice, for a graph that serves two or more; of more as they are."""
    return lanes.repeat(2, *[1] * (lanes.ndim - 1)) if lanes.shape[0] == 1 else lanes


def _clocks(packing: Packing) -> Tensor:
    return torch.zeros(packing.batch or 1, dtype=torch.float64, device=packing.device)


def _matrix(packing: Packing) -> Tensor:
    """An example of what lanes carry."""
    width = sum(shape[1:].numel() for shape in packing.shapes)
    return torch.zeros(packing.batch or 1, width, dtype=packing.dtype, device=packing.device)
