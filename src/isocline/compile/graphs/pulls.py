"""A fixed number of pull-backs of rounds over tensors that stay in their places."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .capture import Capture

__all__ = ["PULLS", "Pulls"]

PULLS = 8
"""In one graph."""

Pull = Callable[[Sequence[Tensor], Tensor, Sequence[Tensor]], Tensor]
"""From a round's own tensors, the cotangent of its end, and what is the same for all rounds, to the
cotangent of its start. The gradients of tensors are added to the last of what is the same."""


class Pulls:
    """Walks back over rounds of one shape. The host starts graphs, and waits for none.

    Args:
        pull: of one round.
        own, cotangent, after: examples of what it is given.
        totals: how many of `after`, the last, are added to.
        capture: for the device.
    """

    def __init__(
        self,
        pull: Pull,
        own: Sequence[Tensor],
        cotangent: Tensor,
        after: Sequence[Tensor],
        totals: int,
        capture: Capture,
    ) -> None:
        self._pull, self._turn = pull, threading.Lock()
        self._end = cotangent.clone()
        self._own = [[x.clone() for x in own] for _ in range(PULLS)]
        self._after = [x.clone() for x in after]
        self._totals = self._after[len(after) - totals :]
        self._replay = capture.record(self._pulls)

    def walk(
        self,
        rounds: Sequence[Sequence[Tensor]],
        still: Callable[[Sequence[Tensor]], Sequence[Tensor]],
        cotangent: Tensor,
        after: Sequence[Tensor],
    ) -> Tensor:
        """The cotangent of the start of the first of some rounds.

        Args:
            rounds: each one's own tensors, the last first.
            still: from those of a round to those of one that takes no time at the same place: with
                such a graph is filled.
            cotangent: of the end of the last.
            after: what is the same for all; the totals among it are added to.
        """
        totals = list(after[len(after) - len(self._totals) :])
        with self._turn, torch.no_grad():
            torch._foreach_copy_([self._end, *self._after], [cotangent, *after])
            for total in self._totals:
                total.zero_()
            places = [x for own in self._own for x in own]
            for first in range(0, len(rounds), PULLS):
                some = list(rounds[first : first + PULLS])
                some += [still(some[-1])] * (PULLS - len(some))
                torch._foreach_copy_(places, [x for round_ in some for x in round_])
                self._replay()
            for total, found in zip(totals, self._totals, strict=True):
                total.add_(found)
            return self._end.clone()

    def _pulls(self) -> None:
        """What the graph holds."""
        end = self._end
        for own in self._own:
            end = self._pull(own, end, self._after)
        self._end.copy_(end)
