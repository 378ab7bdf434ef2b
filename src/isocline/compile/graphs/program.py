"""One field traced for rounds of one method with a step for the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor

from ...state import Packing
from ..program import Program
from ..subjects import Subject
from .formula import NUMBERS, RoundFormula, RoundRequest

__all__ = ["RoundProgram"]


class RoundProgram(Program):
    """Rounds of one field and method, the start of a solve, and the pull-back of a step.

    Its `request` is a `RoundRequest`, and its step a round.
    """

    @property
    def numbers(self) -> int:
        """Of a clock."""
        request: RoundRequest = self.request
        return NUMBERS + request.memories

    def _formula(self, subject: Subject) -> RoundFormula:
        return RoundFormula(**self._of_formula(subject), request=self.request)

    def _leading(self, packing: Packing) -> list[Tensor]:
        numbers = torch.zeros(self.numbers, dtype=torch.float64, device=packing.device)
        return [numbers, *super()._leading(packing)[1:]]
