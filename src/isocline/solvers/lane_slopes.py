"""Where the stages of a step of many lanes lie: stacked with their graph, or in a buffer."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .explicit import Coefficients

__all__ = ["Scratch", "Slopes", "Stacked"]


class Slopes(Protocol):
    """The stages of a step as they come, each times the length of its lane's step."""

    @property
    def count(self) -> int:
        """How many there are."""

    def push(self, slope: Tensor, h: Tensor) -> None:
        """Add a stage."""

    def columns(self, count: int) -> Tensor:
        """The first stages as columns, shape (lanes * width, count)."""

    def stage(self, number: int, like: Tensor) -> Tensor:
        """One stage, shape (lanes, width)."""

    def lasting(self, slope: Tensor) -> Tensor:
        """A slope safe to keep: a field may write all its answers into one buffer of its own."""


class Stacked:
    """Stages that carry a graph: stacked for each sum."""

    def __init__(self) -> None:
        self._slopes: list[Tensor] = []

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._slopes)

    def push(self, slope: Tensor, h: Tensor) -> None:
        """Add a stage."""
        self._slopes.append(slope * h)

    def columns(self, count: int) -> Tensor:
        """The first stages as columns."""
        stacked: Tensor = torch.stack(self._slopes[:count])
        return stacked.view(count, -1).t()

    def stage(self, number: int, like: Tensor) -> Tensor:
        """One stage."""
        return self._slopes[number]

    def lasting(self, slope: Tensor) -> Tensor:
        """A slope safe to keep."""
        return slope if slope.requires_grad else slope.clone()


class Scratch:
    """Stages without a graph, in a buffer that is made once for as many lanes as there are."""

    def __init__(self, table: Coefficients, like: Tensor) -> None:
        self._lanes = self._room = like.shape[0]
        self._width = like.shape[1]
        self._buffer = like.new_zeros(len(table.rows), like.numel())
        self.count = 0
        self._cut()

    def fits(self, y: Tensor) -> bool:
        """Whether there is room for the lanes of `y`."""
        return y.shape[0] <= self._room and y.shape[1] == self._width

    def begin(self, lanes: int) -> None:
        """Ready for a step of so many lanes; overwrites the stages of the step before."""
        self.count = 0
        if lanes != self._lanes:
            self._lanes = lanes
            self._cut()

    def _cut(self) -> None:
        """Views of the part of the buffer that is in use."""
        part = self._buffer[:, : self._lanes * self._width]
        self._slots: list[Tensor] = [row.view(self._lanes, self._width) for row in part]
        self._columns: list[Tensor] = [part[:i].t() for i in range(part.shape[0] + 1)]

    def push(self, slope: Tensor, h: Tensor) -> None:
        """Add a stage."""
        torch.mul(slope, h, out=self._slots[self.count])
        self.count += 1

    def columns(self, count: int) -> Tensor:
        """The first stages as columns."""
        return self._columns[count]

    def stage(self, number: int, like: Tensor) -> Tensor:
        """One stage."""
        return self._slots[number]

    def lasting(self, slope: Tensor) -> Tensor:
        """A slope safe to keep."""
        return slope.clone()
