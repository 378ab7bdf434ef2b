"""Which states to keep on the way forward, and how to reach the others on the way back.

Backward, the number of steps is known: between two kept states the free slots are placed by the
binomial schedule of Griewank and Walther (2000, "Algorithm 799: revolve", ACM TOMS 26), which
needs the fewest recomputed steps, `recomputed(length, slots)`.

Forward it is not, and which states are kept at the end decides what the way back costs. With s
slots and kept states that leave segments of lengths L_1 ... L_s, segment p is reversed when all
behind it are done with, so that s - p + 1 slots are its own: the cost is the sum of
recomputed(L_p, s - p + 1). A state that comes when all slots are full is kept, or not, and one
before it given up, so that this sum is least at that moment; of equals, the earliest is given up.
After n steps the way back costs

- what the best placement for that n would, for n up to (s + 1) (s + 2) / 2: each step is then
  recomputed at most once;
- beyond that a little more, for no rule that does not know n can be best for each: dropping a
  state gives all segments behind it one slot more than they were laid out for (Stumm and Walther
  2010, "New algorithms for optimal online checkpointing", SIAM J. Sci. Comput. 32). Over all n to
  10,000 it is at worst 22 % more with 2 slots, 10 % with 3, and 7.6 % with any other number (of
  1 ... 64, as far as measured); on average over n it is 1.3 % or less. It was never more than from
  the start alone, recomputed(n, s), the cost of a way back for which nothing else was kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import comb
from typing import Generic, TypeVar

__all__ = ["Checkpoints", "backwards", "recomputed", "split", "superfluous"]


S = TypeVar("S")
"""Where a step starts from: a state, with all that goes with it."""


class Checkpoints(Generic[S]):
    """States kept during a forward pass.

    Args:
        slots: how many states may be kept at once, at least 1; None for all. May be changed
            between two offers.
    """

    def __init__(self, slots: int | None) -> None:
        self.slots = slots
        self.indices: list[int] = []
        self.states: list[S] = []
        self._count = 0

    def offer(self, state: S) -> None:
        """The state from which the next step was taken."""
        self.indices.append(self._count)
        self.states.append(state)
        self._count += 1
        while self.slots is not None and len(self.states) > self.slots:
            lengths = [end - start for start, end in pairwise([*self.indices, self._count])]
            place = superfluous(lengths, max(self.slots, len(lengths) - 1))
            del self.indices[place], self.states[place]

    def restart(self, state: S) -> None:
        """Keep state 0 alone, from which all others can be recomputed."""
        self.indices, self.states = [0], [state]


def superfluous(lengths: Sequence[int], slots: int) -> int:
    """Which of the kept states to give up, so that the way back costs the least; never the first.

    Args:
        lengths: steps from each kept state to the next, and from the last to the end.
        slots: how many states may be kept; as many as `lengths`, less one, or more.
    """
    before, after = 0, sum(recomputed(n, slots - p) for p, n in enumerate(lengths[1:]))
    best, place = 0, 0
    for p in range(1, len(lengths)):
        own = slots - p + 1
        after -= recomputed(lengths[p], own)
        cost = before + recomputed(lengths[p - 1] + lengths[p], own) + after
        if not place or cost < best:
            best, place = cost, p
        before += recomputed(lengths[p - 1], own)
    return place


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
    repeats = _repeats(length, slots)
    # A segment of at most C(s + r, s) steps is reversed with no step taken more than r times.
    inside = comb(slots + repeats - 2, slots) if repeats >= 2 else 1
    rest = comb(slots - 1 + repeats, slots - 1)
    return max(1, min(length - 1, max(inside, length - rest)))


@functools.lru_cache(maxsize=2**16)
def recomputed(length: int, slots: int) -> int:
    """The fewest steps to take again to reverse `length` steps.

    With r the least number such that length <= C(slots + r, slots), each step is taken again at
    most r times, and they sum to r length - C(slots + r, slots + 1) (Griewank 1992, "Achieving
    logarithmic growth of temporal and spatial complexity in reverse automatic differentiation").

    Args:
        length: steps to reverse, at least 1; the first starts from a state that is kept.
        slots: states that may be held, that one included; at least 1.
    """
    repeats = _repeats(length, slots)
    return repeats * length - comb(slots + repeats, slots + 1)


def _repeats(length: int, slots: int) -> int:
    """The least r for which C(slots + r, slots) is `length` or more."""
    if slots == 1:
        return length - 1
    repeats = 0
    while comb(slots + repeats, slots) < length:
        repeats += 1
    return repeats
