"""Recurrent models of irregular series, as two moves: time passes, and a row is observed.

Encoders, classifiers and forecasters are made of any `Recurrence`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...errors import InputError
from .rows import Rows

__all__ = ["Memory", "Recurrence"]

Memory = tuple[Tensor, ...]
"""What a recurrence knows: tensors of shape ``(batch, ...)``."""

Fill = Callable[[Tensor], Tensor]


class Recurrence(nn.Module, ABC):
    """A hidden state that evolves between rows and is updated at rows.

    A subclass has the attributes `features` and `hidden` and the methods `start`, `advance` and
    `observe`; with `hidden_state` where the hidden state is not the memory's first tensor.
    `advance` by two spans of time is the same as by their sum, unless the recurrence `steps`.
    """

    steps: ClassVar[bool] = False
    """Whether it moves in steps instead of in time. Then a row that observes nothing is a step too,
    and is given the model's own prediction; otherwise such a row changes nothing."""

    features: int
    hidden: int

    @abstractmethod
    def start(self, size: int, like: Tensor) -> Memory:
        """The memory of `size` series before the first row; type and device as those of `like`."""

    @abstractmethod
    def advance(self, memory: Memory, gap: Tensor) -> Memory:
        """The memory after time has passed: `gap` is ``(batch,)``."""

    @abstractmethod
    def observe(self, memory: Memory, values: Tensor, mask: Tensor) -> Memory:
        """The memory after a row.

        Args:
            memory: Before it.
            values: ``(batch, features)``.
            mask: bool, ``(batch, features)``: what was observed.
        """

    def hidden_state(self, memory: Memory) -> Tensor:
        """``(batch, hidden)``."""
        return memory[0]

    def trace(self, rows: Rows, fill: Fill | None = None) -> tuple[Tensor, Tensor]:
        """Go through all rows.

        Args:
            rows: What to read.
            fill: Gives values, ``(batch, features)``, for the features that a row lacks, from the
                hidden state before it; ``None`` for zeros.

        Returns:
            The hidden states before each row, after the time before it has passed,
            ``(batch, rows, hidden)``; and the one after the last row and the time after it,
            ``(batch, hidden)``.
        """
        self._check(rows)
        size, length = rows.present.shape
        memory = self.start(size, rows.values)
        taken = rows.present if self.steps else rows.present & rows.seen
        gaps, last_gap = rows.gaps, rows.last_gap
        if not self.steps:
            # Time passes from what was first observed: a row before that must change nothing.
            gaps = gaps.where(taken.cumsum(1) > taken.long(), 0.0)
            last_gap = last_gap.where(taken.any(1), 0.0)
        # Where all series do the same, nothing has to be chosen between; one look for all rows.
        all_present, all_taken = (flags.all(0).tolist() for flags in (rows.present, taken))
        before: list[Tensor] = []
        for i in range(length):
            moved = self.advance(memory, gaps[:, i])
            hidden = self.hidden_state(moved)
            before.append(hidden)
            values, mask = rows.values[:, i], rows.mask[:, i]
            if fill is not None:
                values = values.where(mask, fill(hidden))
            updated = self.observe(moved, values, mask)
            if not all_taken[i]:
                updated = _choose(taken[:, i], updated, moved)
            memory = updated if all_present[i] else _choose(rows.present[:, i], updated, memory)
        last = self.hidden_state(self.advance(memory, last_gap))
        if not before:
            return last.new_zeros(size, 0, self.hidden), last
        return torch.stack(before, 1), last

    def _check(self, rows: Rows) -> None:
        given = rows.values.shape[2]
        if given != self.features:
            expected = f"{self.features}, as the {type(self).__name__} was made for"
            raise InputError("features of the batch", str(given), expected)


def _choose(which: Tensor, one: Memory, other: Memory) -> Memory:
    return tuple(
        a.where(which.view(-1, *(1,) * (a.ndim - 1)), b) for a, b in zip(one, other, strict=True)
    )
