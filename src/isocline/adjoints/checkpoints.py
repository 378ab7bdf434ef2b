"""Which states to keep on the way forward, and how to reach the others on the way back.

Forward, the number of steps is not known: with k slots every 2^m-th state is kept, m growing as
they fill. Backward it is known: between two kept states, the free slots are placed by the
binomial schedule of Griewank and Walther (2000, "Algorithm 799: revolve", ACM TOMS 26), which
needs the fewest recomputed steps for a given number of slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import comb
from typing import Generic, TypeVar

from ..errors import InputError

__all__ = ["Checkpoints", "backwards", "split"]


S = TypeVar("S")
"""Where a step starts from: a state, with all that goes with it."""


class Checkpoints(Generic[S]):
    """States kept during a forward pass.

    Args:
        slots: how many states may be kept at once, at least 1; None for all.
    """

    def __init__(self, slots: int | None) -> None:
        whole = isinstance(slots, int) and not isinstance(slots, bool)
        if slots is not None and not (whole and slots >= 1):
            raise InputError("slots", repr(slots), "a positive number of states, or None for all")
        self.slots = slots
        self.indices: list[int] = []
        self.states: list[S] = []
        self._stride = 1
        self._count = 0

    def offer(self, state: S) -> None:
        """The state from which the next step was taken."""
        index, self._count = self._count, self._count + 1
        if index % self._stride:
            return
        if self.slots is not None and len(self.states) == self.slots:
            # Keep every other one; slot 0, the start, stays.
            self._stride *= 2
            self.indices, self.states = self.indices[::2], self.states[::2]
            if index % self._stride or len(self.states) == self.slots:
                return
        self.indices.append(index)
        self.states.append(state)

    def restart(self, state: S) -> None:
        """Keep state 0 alone, from which all others can be recomputed."""
        self.indices, self.states = [0], [state]


def backwards(
    indices: list[int],
    states: list[S],
    slots: int | None,
    count: int,
    advance: Callable[[int, S], S],
) -> Iterator[tuple[int, S]]:
    """The states 0 ... count-1 in falling order, recomputing those that were not kept.

    Args:
        indices, states: what was kept, rising, beginning with state 0. Both are consumed, so that
            no more than `slots` states are ever alive: state 0 alone remains, from which another
            walk can start.
        slots: how many states may be held at once; None for any number.
        count: number of states wanted.
        advance: `(i, state i) -> state i + 1`.
    """
    for index in range(count - 1, -1, -1):
        while indices[-1] > index:
            indices.pop()
            states.pop()
        position, state = indices[-1], states[-1]
        while position < index:
            free = count if slots is None else slots - len(indices)
            goal = index if free <= 0 else position + split(index - position + 1, free + 1)
            while position < goal:
                state = advance(position, state)
                position += 1
            if free > 0:
                indices.append(position)
                states.append(state)
        yield index, state


def split(length: int, slots: int) -> int:
    """How far to advance from a kept state before keeping the next, when reversing `length` steps.

    Args:
        length: steps to reverse, at least 2; the first starts from a state that is kept.
        slots: states that may be held, that one included; at least 2.

    Returns:
        A number m from 1 to length - 1: Griewank and Walther's choice.
    """
    repeats = 1
    while comb(slots + repeats, slots) < length:
        repeats += 1
    # A segment of at most C(s + r, s) steps is reversed with no step taken more than r times.
    inside = comb(slots + repeats - 2, slots) if repeats >= 2 else 1
    rest = comb(slots - 1 + repeats, slots - 1)
    return max(1, min(length - 1, max(inside, length - rest)))
