"""Methods that pull rounds of steps back by themselves, and what the walk back asks of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..samples import SampleField
from ..solvers.lanes import LaneStep
from .lane_rounds import TakenRound

__all__ = ["LanePull", "PullingLanes", "of_output"]


class LanePull(Protocol):
    """Pulls cotangents back over the rounds of one solve, last first."""

    def pull(
        self, round_: TakenRound, y: Tensor, cotangent: Tensor, slopes: Tensor | None
    ) -> Tensor:
        """Cotangents of what lanes carried before a round.

        Args:
            round_: all of its lanes took part; steps that do not count have no length.
            y: what the lanes carried before it.
            cotangent: of what they carry after it.
            slopes: of the rows of the interpolants, shape (rows, lanes, width), where the method
                has any; None for zeros.
        """

    def pull_all(self, rounds: Sequence[tuple[TakenRound, Tensor]], cotangent: Tensor) -> Tensor:
        """The same over rounds of the same lanes without output, the last first, each with y."""

    def totals(self) -> Sequence[Tensor]:
        """Gradients of the tensors that the method says it depends on."""


@runtime_checkable
class PullingLanes(Protocol):
    """A method that knows the derivatives of its steps."""

    @property
    def rows(self) -> int:
        """Rows of the interpolant of a step; 0 where output is at the ends of steps alone."""

    def pulling(self, field: SampleField) -> LanePull:
        """For one walk back."""

    def outline(
        self, round_: TakenRound, y: Tensor, y1: Tensor, slopes: Sequence[Tensor]
    ) -> LaneStep:
        """Steps of all lanes between the given ends, with an interpolant over the given slopes."""


def of_output(
    method: PullingLanes, round_: TakenRound, y: Tensor, width: int, cotangents: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What the rows of a round are worth at the starts of its steps, at their ends, and to slopes.

    Rows are linear in these, so the numbers themselves do not matter.

    Args:
        method, round_: whose output. There is some.
        y: what lanes carried before the round.
        width: of a state.
        cotangents: of the rows.
    """
    leaves = [torch.zeros_like(y), torch.zeros_like(y), y.new_zeros(method.rows, *y.shape)]
    with torch.enable_grad():
        start, end, slopes = (leaf.requires_grad_() for leaf in leaves)
        step = method.outline(round_, start, end, slopes.unbind())
        rows = round_.rows(step, width, None)
        assert rows is not None
    found: Sequence[Tensor | None] = torch.autograd.grad(
        [rows], leaves, [cotangents], allow_unused=True
    )
    at = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)]
    return at[0], at[1], at[2]
