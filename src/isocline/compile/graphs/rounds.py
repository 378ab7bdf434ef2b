"""A fixed number of rounds over tensors that stay in their places."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..driving import Counts, Wiring
from .capture import Capture, Letter

__all__ = ["ROUNDS", "Place", "Rounds", "Taken"]

ROUNDS = 8
"""In one graph. The host hears of them once. After the last round of a solve the device computes
up to twice as many in vain, those of this graph and those of the next; not measured yet."""

Run = Callable[[list[Tensor]], list[Tensor]]


class Place(NamedTuple):
    """A tensor of a round.

    Attributes:
        output: whether it is an output, else an input.
        place: which.
    """

    output: bool
    place: int


class Taken(NamedTuple):
    """Rounds that were taken.

    Attributes:
        number: how many were quiet.
        inputs: what the next round would be given, a copy.
        last: what it finds, if it is not quiet; else nothing.
        records: of each quiet round what was to be recorded.
    """

    number: int
    inputs: list[Tensor]
    last: list[Tensor]
    records: list[list[Tensor]]


class _Flight(NamedTuple):
    """A graph that was started.

    Attributes:
        reached: after it, how many rounds were quiet so far.
        records: of each of its rounds, stacked.
    """

    reached: Letter
    records: list[Tensor]


class Rounds:
    """Takes rounds of one shape: while one graph of them runs, the host reads what came of another.

    A round that is not quiet is not followed by another: it is taken again and again, and finds the
    same, until the host has heard of it.

    Args:
        run: a round. Its first output are `Marks`.
        given: examples of its inputs.
        wiring: how rounds follow.
        recorded: what is to be remembered of each, the slopes among it if there are any: with
            these a lane may pass output times in a quiet round.
        capture: for the device.
    """

    def __init__(
        self,
        run: Run,
        given: Sequence[Tensor],
        wiring: Wiring,
        recorded: Sequence[Place],
        capture: Capture,
    ) -> None:
        self._run, self._capture = run, capture
        self._follows = [(i, o) for i, o in enumerate(wiring.follows) if o >= 0]
        self._recorded = list(recorded)
        self._keeps_slopes = wiring.slopes is not None
        self._turn = threading.Lock()
        self._inputs = [x.clone() for x in given]
        clock = self._inputs[wiring.t]
        self._limits = clock.new_zeros(5, dtype=torch.float64)
        self._count = clock.new_zeros((), dtype=torch.long)
        self._found = run(list(self._inputs))
        self._rings = [
            source.new_empty(ROUNDS, *source.shape) for source in self._sources(self._found)
        ]
        self._replay = capture.record(self._rounds)

    def take(self, given: Sequence[Tensor], lanes: Counts, most: int, *, record: bool) -> Taken:
        """Rounds as long as they are quiet, at most so many."""
        with self._turn, torch.no_grad():
            self._load(given, lanes, most)
            count, records = 0, []
            ahead = self._fly(record)
            while True:
                flight, ahead = ahead, self._fly(record)
                reached = flight.reached.read()
                rounds = reached - count
                if record:
                    records += [[ring[i] for ring in flight.records] for i in range(rounds)]
                count = reached
                if rounds < ROUNDS or count == most:
                    break
            last = [x.clone() for x in self._found] if count < most else []
            return Taken(count, [x.clone() for x in self._inputs], last, records)

    def _load(self, given: Sequence[Tensor], lanes: Counts, most: int) -> None:
        torch._foreach_copy_(self._inputs, list(given))
        for i, limit in enumerate((*lanes, float(most))):  # fills: a copy from the host would wait
            self._limits[i].fill_(limit)
        self._count.zero_()

    def _fly(self, record: bool) -> _Flight:
        """Start the graph."""
        self._replay()
        letter = self._capture.letter(self._count)
        return _Flight(letter, [ring.clone() for ring in self._rings] if record else [])

    def _sources(self, found: Sequence[Tensor]) -> list[Tensor]:
        """What is recorded of a round."""
        return [(found if p.output else self._inputs)[p.place] for p in self._recorded]

    def _rounds(self) -> None:
        """What the graph holds."""
        for number in range(ROUNDS):
            found = self._run(list(self._inputs))
            for ring, source in zip(self._rings, self._sources(found), strict=True):
                ring[number].copy_(source)
            goes_on = self._goes_on(found[0])
            moved = [
                (self._inputs[i], torch.where(goes_on, found[o], self._inputs[i]))
                for i, o in self._follows
            ]
            for place, value in moved:
                place.copy_(value)
            self._count.add_(goes_on)
        self._found = found

    def _goes_on(self, marks: Tensor) -> Tensor:
        """Whether a round was quiet, and another may follow: as `native/rounds.h` decides."""
        worst, rejected, arrived, shortest, due = marks.unbind()
        number, rest, done, least, most = self._limits.unbind()
        stays = worst.isfinite() & (rejected + rest < number) & (arrived <= done)
        if not self._keeps_slopes:
            stays = stays & (due == 0.0)
        return stays & (shortest > least) & (self._count < most)
