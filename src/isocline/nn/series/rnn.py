"""Plain recurrent networks, without and with the time between rows as an input."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import InputError
from .recurrence import Fill, Memory, Recurrence
from .rows import Rows

__all__ = ["RNN", "Cell"]

Cell = Literal["rnn", "gru"]


class RNN(Recurrence):
    """A recurrent network over rows: a step from each row to the next.

    Its input is the row's values; with ``mask=True`` what of them was observed, and with
    ``time=True`` the time to the next row (the second baseline of Chen et al. 2018, section 5.1).

    Args:
        features: Features of a row.
        hidden: Size of the hidden state.
        cell: ``"gru"``, or ``"rnn"`` for Elman's with tanh.
        time: Whether it sees times.
        mask: Whether it sees what was observed. A forecaster that was fitted to complete rows alone
            has never seen a mask of 0, and would at each step on its own predictions.
        unit: What times are divided by, so that the usual time between rows is not far from 1.

    Raises:
        InputError: If the size is not positive, or there is no such cell.
    """

    steps: ClassVar[bool] = True

    def __init__(
        self,
        features: int,
        hidden: int = 25,
        cell: Cell = "gru",
        *,
        time: bool = True,
        mask: bool = True,
        unit: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value, least in (("features", features, 0), ("hidden", hidden, 1)):
            if value < least:
                raise InputError(name, str(value), f"at least {least}")
        if cell not in ("rnn", "gru"):
            raise InputError("cell", repr(cell), "'rnn' or 'gru'")
        self.features = features
        self.hidden = hidden
        if not 0.0 < unit < math.inf:
            raise InputError("unit", str(unit), "positive and finite")
        self.time = time
        self.mask = mask
        self.unit = unit
        self._width = features * (1 + int(mask))
        kind = nn.GRU if cell == "gru" else nn.RNN
        # A row without features or times is an event in a sequence: it needs an input all the same.
        self.network = kind(max(self._width + int(time), 1), hidden, batch_first=True)

    def start(self, size: int, like: Tensor) -> Memory:
        """Hidden state, and the input of the next step: nothing was seen yet."""
        nothing = like.new_zeros(size, self._width)
        return like.new_zeros(size, self.hidden), nothing

    def advance(self, memory: Memory, gap: Tensor) -> Memory:
        """One step, with the last row as its input."""
        hidden, row = memory
        inputs = self._inputs(row, gap)
        cell = torch.gru_cell if isinstance(self.network, nn.GRU) else torch.rnn_tanh_cell
        weights = self.network.all_weights[0]
        return cell(inputs, hidden, *weights), row

    def observe(self, memory: Memory, values: Tensor, mask: Tensor) -> Memory:
        """The row becomes the input of the next step."""
        return memory[0], self._row(values, mask)

    def trace(self, rows: Rows, fill: Fill | None = None) -> tuple[Tensor, Tensor]:
        """As in the base class, in one call of the network where nothing has to be filled in."""
        if fill is not None and not bool((rows.mask.all(-1) | ~rows.present).all()):
            return super().trace(rows, fill)
        self._check(rows)
        # The input of a step is the row before it, and the time since; a series' last step follows
        # its last row, wherever the padding begins.
        read = F.pad(self._row(rows.values, rows.mask), (0, 0, 1, 0))
        lengths = rows.lengths.unsqueeze(1)
        gaps = F.pad(rows.gaps, (0, 1)).scatter(1, lengths, rows.last_gap.unsqueeze(1))
        states, _ = self.network(self._inputs(read, gaps))
        end = lengths.unsqueeze(-1).expand(-1, 1, self.hidden)
        return states[:, :-1], states.gather(1, end).squeeze(1)

    def _row(self, values: Tensor, mask: Tensor) -> Tensor:
        return torch.cat([values, mask.to(values.dtype)], -1) if self.mask else values

    def _inputs(self, row: Tensor, gap: Tensor) -> Tensor:
        inputs = torch.cat([row, gap.unsqueeze(-1) / self.unit], -1) if self.time else row
        return inputs if inputs.shape[-1] else inputs.new_ones(*inputs.shape[:-1], 1)
