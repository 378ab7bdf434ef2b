"""Where the walk back over rounds of steps gets what lanes carried before each round.

Forward, a source is shown each round and keeps what it wants of it. Backward, it hands out the
starts, last first. See `starts` for the same of joint stepping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from torch import Tensor

from ..integrate import Round
from .checkpoints import Checkpoints, backwards
from .lane_rounds import TakenRound

__all__ = ["KeptLaneStarts", "LaneStarts"]

Advance = Callable[[int, Tensor], Tensor]
"""What lanes carry before round i to what those carry that there are before round i + 1."""


class LaneStarts(Protocol):
    """A source of what lanes carried where rounds of steps started."""

    def accepted(self, round_: Round, y1: Tensor) -> None:
        """A round of steps was taken, which ended at `y1`; behind its event, where one cut it."""

    def restart(self, first: Tensor) -> None:
        """Let go of all but the start of the first round, if the others can be found from it."""

    def backwards(self, rounds: Sequence[TakenRound], advance: Advance) -> Iterator[Tensor]:
        """What the lanes of each round carried before it, last first. There may be another walk."""


class KeptLaneStarts:
    """Keeps what rounds started from, all or as many as there are slots, and recomputes the rest.

    Args:
        slots: how many rounds to keep; None for all.
        budget: how many bytes of them to keep, in place of `slots`, but one round at least.
    """

    def __init__(self, slots: int | None = None, budget: int | None = None) -> None:
        self._checkpoints = Checkpoints[Tensor](slots)
        self._budget = budget

    def accepted(self, round_: Round, y1: Tensor) -> None:
        """Offer the start to the slots."""
        if self._budget is not None:
            size = round_.y.numel() * round_.y.element_size()
            self._checkpoints.slots = max(1, self._budget // size)
        self._checkpoints.offer(round_.y)

    def restart(self, first: Tensor) -> None:
        """Keep the start of the first round alone."""
        self._checkpoints.restart(first)

    def backwards(self, rounds: Sequence[TakenRound], advance: Advance) -> Iterator[Tensor]:
        """Starts, last first, recomputing those that were not kept."""
        kept = self._checkpoints
        for _, y in backwards(kept.indices, kept.states, kept.slots, len(rounds), advance):
            yield y
