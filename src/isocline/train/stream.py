"""Batches that follow from the number of the iteration, for a run that may start in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Generic, TypeVar

import torch
from torch import Tensor

from .seeding import generator

__all__ = ["Passes", "Stream"]

B = TypeVar("B")


class Stream(Generic[B]):
    """Training batches of one epoch, each a function of the number of its iteration.

    It can start in the middle (`load_state_dict`, the protocol that Lightning knows).

    Args:
        draw: Makes the batch of an iteration.
        first: Number of the first iteration.
        length: How many there are.
    """

    def __init__(self, draw: Callable[[int], B], first: int, length: int) -> None:
        self.draw = draw
        self.first = first
        self.length = length
        self.position = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[B]:
        start, self.position = self.position, 0
        for number in range(start, self.length):
            self.position = number + 1
            yield self.draw(self.first + number)
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        """How many batches of this epoch have been handed out."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration start after so many batches; past the end, from the start."""
        self.position = state["position"] % self.length


class Passes:
    """Which of a number of items go into which batch: pass after pass, each in an order of its own.

    Args:
        count: How many items there are.
        batch_size: Items in a batch of one process. Fewer than that are one batch.
        *seeds: What the orders follow from.
    """

    def __init__(self, count: int, batch_size: int, *seeds: int) -> None:
        self.count = count
        self.batch_size = batch_size

        @lru_cache(maxsize=2)
        def order(number: int) -> Tensor:
            return torch.randperm(count, generator=generator(*seeds, number))

        self._order = order

    def indices(self, iteration: int, rank: int = 0, world_size: int = 1) -> Tensor:
        """int64: the items of a batch."""
        size = min(self.batch_size, max(1, self.count // world_size))
        number, position = divmod(iteration, max(1, self.count // (size * world_size)))
        first = (position * world_size + rank) * size
        return self._order(number)[first : first + size]
