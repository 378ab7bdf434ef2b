"""Where the walk back over a solve gets the states from that its steps started from.

Forward, a source is shown both ends of each step and keeps what it wants of them. Backward, it
hands out the starts, last first. This is all in which adjoints that replay steps differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ..integrate import Reach
from ..solvers.base import Memory, Stepper
from .checkpoints import Checkpoints, backwards

__all__ = ["Held", "Kept", "Starts", "Taken"]


class Held(NamedTuple):
    """All that a step needs to be taken again."""

    y: Tensor
    memory: Memory

    @property
    def bytes(self) -> int:
        """Of the state, and of what the method carries beside it."""
        tensors = (self.y, *self.memory.carried)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Taken(NamedTuple):
    """An accepted step: its ends, which rows of output it gave, and the numbers it was given."""

    reach: Reach
    first_row: int
    last_row: int
    numbers: Any


class Starts(Protocol):
    """A source of the states from which steps started."""

    @property
    def pairs(self) -> int | None:
        """How many pairs of states a second derivative may keep; None for any number."""

    @property
    def recomputed(self) -> int:
        """How many steps walks back have taken again so far, to find starts that were not kept."""

    def accepted(self, start: Held, end: Held) -> None:
        """A step was taken."""

    def restart(self, first: Held) -> None:
        """Let go of all but the start of the first step, if the others can be found from it."""

    def backwards(self, steps: Sequence[Taken], stepper: Stepper) -> Iterator[Held]:
        """What each of `steps` started from, last first. There may be another such walk later."""


class Kept:
    """Keeps what steps started from, all or as many as there are slots, and recomputes the rest.

    Args:
        slots: how many states to keep; None for all.
        budget: how many bytes of them to keep, in place of `slots`, but one state at least.

    Attributes:
        recomputed: as in `Starts`.
    """

    recomputed = 0

    def __init__(self, slots: int | None = None, budget: int | None = None) -> None:
        self._checkpoints = Checkpoints[Held](slots)
        self._budget = budget
        self._largest = 1

    @property
    def pairs(self) -> int | None:
        """As many as there are slots; half as many for a budget, since a pair is twice as large."""
        slots = self._checkpoints.slots
        return slots if slots is None or self._budget is None else max(1, slots // 2)

    def accepted(self, start: Held, end: Held) -> None:
        """Offer the start to the slots."""
        if self._budget is not None:  # what a method carries may grow as it gets going
            self._largest = max(self._largest, start.bytes)
            self._checkpoints.slots = max(1, self._budget // self._largest)
        self._checkpoints.offer(start)

    def restart(self, first: Held) -> None:
        """Keep the start of the first step alone."""
        self._checkpoints.restart(first)

    def backwards(self, steps: Sequence[Taken], stepper: Stepper) -> Iterator[Held]:
        """Starts, last first, recomputing those that were not kept."""

        def advance(index: int, held: Held) -> Held:
            self.recomputed += 1
            reach = steps[index].reach
            step = stepper.advance(reach.t, reach.t_next, held.y, held.memory)
            # What a solver settled when it was told the errors cannot be found without them.
            return Held(step.y1, Memory(None, step.memory.carried, steps[index + 1].numbers))

        kept = self._checkpoints
        for _, held in backwards(kept.indices, kept.states, kept.slots, len(steps), advance):
            yield held
