"""ODE-RNN: a recurrent network whose hidden state follows an ODE between rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...adjoints import Adjoint
from ...errors import InputError
from ...solvers import Solver
from ..fields import MLPField
from ..solving import SolvingModule, as_state
from .recurrence import Memory, Recurrence
from .rows import Rows

__all__ = ["ODERNN"]


class ODERNN(SolvingModule, Recurrence):
    """ODE-RNN (Rubanova, Chen, Duvenaud 2019, algorithm 1), with a GRU cell at the rows.

    Series of a batch have their rows at different times; stepping over the union of these would
    cost a solve for each time of any series. Instead each hidden state is solved over its own gap
    as ``dh/ds = gap field(gap s, h)``, s in [0, 1], all series at once: as many solves as the
    longest series has rows.

    Args:
        features: Features of a row.
        hidden: Size of the hidden state.
        field: Called as ``field(t, h)`` with the times since each series' last row, ``(batch,)``,
            and the hidden states, ``(batch, hidden)``. Default: a perceptron that does not see the
            time.
        solver: Name of a solver, or a solver. By default two steps of the midpoint rule in each
            gap: a gap of a few rows' length is no long way for a smooth field.
        rtol: Relative tolerance, for solvers that have an error estimate.
        atol: Absolute tolerance, for these too.
        dt0: First step in units of the gap; steps of this length for solvers without an estimate.
        adjoint: How to differentiate; ``None`` for the front door's default.
        **settings: Further settings of `SolvingModule`.

    Raises:
        InputError: If the hidden size is not positive.
    """

    def __init__(
        self,
        features: int,
        hidden: int = 64,
        field: nn.Module | None = None,
        *,
        solver: str | Solver = "midpoint",
        rtol: float = 1e-3,
        atol: float = 1e-4,
        dt0: float | None = 0.5,
        adjoint: Adjoint | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(solver=solver, rtol=rtol, atol=atol, dt0=dt0, adjoint=adjoint, **settings)
        for name, value, least in (("features", features, 0), ("hidden", hidden, 1)):
            if value < least:
                raise InputError(name, str(value), f"at least {least}")
        self.features = features
        self.hidden = hidden
        self.field = field or MLPField(hidden, hidden, depth=1, time=False)
        self.cell = nn.GRUCell(max(2 * features, 1), hidden)

    def start(self, size: int, like: Tensor) -> Memory:
        """The hidden state, and the time since the last row."""
        return like.new_zeros(size, self.hidden), like.new_zeros(size)

    def advance(self, memory: Memory, gap: Tensor) -> Memory:
        """Solve over the gap."""
        hidden, since = memory
        if not bool(gap.any()):
            return memory
        solution = self._solve(
            self._scaled, as_state(hidden), 0.0, 1.0, args=(since, gap), continued=True
        )
        return solution.ys[-1], since + gap

    def observe(self, memory: Memory, values: Tensor, mask: Tensor) -> Memory:
        """A step of the GRU on the values and the mask."""
        row = values.new_ones(len(values), 1)
        if self.features:
            row = torch.cat([values, mask.to(values.dtype)], -1)
        return self.cell(row, memory[0]), torch.zeros_like(memory[1])

    def trace(self, rows: Rows, fill: Any = None) -> tuple[Tensor, Tensor]:
        """As in the base class; the evaluations of all gaps are counted together."""
        self._forget_solves()
        return super().trace(rows, fill)

    def _scaled(self, s: Tensor, hidden: Tensor, since: Tensor, gap: Tensor) -> Tensor:
        change: Tensor = self.field(since + s * gap, hidden)
        return gap.unsqueeze(-1) * change
