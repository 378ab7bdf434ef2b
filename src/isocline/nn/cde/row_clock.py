"""A clock that strikes at every row: one unit of time for each piece of a path.

A CDE does not care how fast its path is run through. On this clock all paths of a batch have their
knots at the same times, whole numbers, and a step that ends there sees a polynomial, not a kink.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InputError
from ...solvers import Solver
from ...solvers.explicit import ExplicitRungeKutta
from .path import CubicPath

__all__ = ["RowClock", "check_one_sided", "slope_on_rows"]


@dataclass(frozen=True)
class RowClock:
    """Derivatives of paths by a clock on which piece i lasts from i to i + 1.

    Attributes:
        table: ``(pieces, 3, batch, channels)``, the powers 0 to 2 of the time since i. A series
            that ends before others is 0 from there on.
    """

    table: Tensor

    @classmethod
    def of(cls, path: CubicPath) -> RowClock:
        """The clock of a batch of paths."""
        gap = path.knots.diff(dim=1)
        pieces = path.coefficients[:, : gap.shape[1]]  # none for a path with one knot
        power = torch.arange(1, 4, device=gap.device)
        scale = power * gap.unsqueeze(-1) ** power
        return cls((pieces[:, :, 1:] * scale.unsqueeze(-1)).permute(1, 2, 0, 3).contiguous())

    @property
    def pieces(self) -> int:
        """How long the clock goes."""
        return self.table.shape[0]


def slope_on_rows(t: Tensor, table: Tensor) -> Tensor:
    """Derivatives at the 0-d time `t` of a `RowClock`: ``(batch, channels)``.

    At a whole number it is that of the piece which begins there.
    """
    piece = t.detach().long().clamp(max=table.shape[0] - 1)
    first, second, third = table.index_select(0, piece.reshape(1)).squeeze(0).unbind(0)
    since = t - piece
    return first + since * (second + since * third)


def check_one_sided(solver: Solver) -> None:
    """Raise unless the solution of a step depends on no derivative at the end of the step.

    There the derivative of the path is that of the next piece. The first stage of the next step,
    with which a step that is "first same as last" ends, is welcome to see it.

    Raises:
        InputError: If it does, or the solver has no tableau to tell.
    """
    table = solver.tableau if isinstance(solver, ExplicitRungeKutta) else None
    if table is None or any(b and c == 1 for b, c in zip(table.b, table.c, strict=True)):
        expected = "a method whose solution needs no stage at the end of the step: bosh3 (order 3)"
        remedy = "Or set `row_steps=None`, for steps across rows."
        raise InputError("solver", repr(solver), f"{expected}, ralston, midpoint, euler", remedy)
