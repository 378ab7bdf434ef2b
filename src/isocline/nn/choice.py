"""Which of several ways to the same answer is cheaper: decided by what each was measured to cost.

Knows nothing of what is chosen, nor of how a cost is measured. It is asked before each piece of
work, and told afterwards what the work cost where it asked to be told.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from ..errors import InputError

__all__ = ["Answer", "CheaperWay"]


class Answer(NamedTuple):
    """Which way to go, and whether its cost is wanted.

    Attributes:
        way: Its name.
        wanted: Whether `CheaperWay.tell` is to be called with what it cost.
    """

    way: str
    wanted: bool


class CheaperWay:
    """The cheaper of some ways, for each kind of work by itself.

    The first pieces of work of a kind are trials: the ways take turns. From then on the way with
    the least median cost is taken. Costs change, so there are further rounds of trials, each after
    twice as many pieces of work as the one before: however many pieces there are, what the dearer
    way costs in trials is a share that goes to nothing.

    A trial whose cost is never told counts for nothing. As long as costs are not known of every
    way, the answer is what the last full round said, or else the first way.

    Args:
        ways: Their names, at least one; the first is taken where nothing is known.
        trials: How often each is tried in a round, at least 1.
        again: How many pieces of work lie between the first round of trials and the second, at
            least 1.
        clock: What costs are measured with, where they are times: seconds since some moment.

    Raises:
        InputError: If there are no ways, or a name comes twice, or a number is below 1.
    """

    def __init__(
        self,
        ways: Sequence[str],
        *,
        trials: int = 3,
        again: int = 200,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not ways or len(set(ways)) < len(ways):
            raise InputError("ways", repr(ways), "one name or more, none of them twice")
        for name, value in (("trials", trials), ("again", again)):
            if value < 1:
                raise InputError(name, str(value), "at least 1")
        self.ways = tuple(ways)
        self.trials = trials
        self.again = again
        self.clock = clock
        self._records: dict[Hashable, _Record] = {}

    def ask(self, kind: Hashable, *, trial: bool = True) -> Answer:
        """Which way the next piece of work is to go.

        Args:
            kind: Of the work: pieces of one kind cost about the same.
            trial: Whether the piece may be a trial. If not, it does not count as a piece either,
                and the answer is the same until a cost is told.
        """
        record = self._records.get(kind)
        if not trial:
            return Answer(self.ways[0] if record is None else record.cheapest(), wanted=False)
        if record is None:
            record = self._records[kind] = _Record(self.ways)
        return record.next(self.trials, self.again)

    def tell(self, kind: Hashable, way: str, cost: float) -> None:
        """What a piece of work cost that was a trial.

        Args:
            kind: Of the work.
            way: Which way it went.
            cost: In any unit, the same for all ways.

        Raises:
            InputError: If there is no such way, or the cost is negative or not finite.
        """
        self._known(way)
        if not (math.isfinite(cost) and cost >= 0):
            raise InputError("cost", str(cost), "a finite number, 0 or more")
        self._records.setdefault(kind, _Record(self.ways)).told(way, cost)

    def exclude(self, kind: Hashable, way: str) -> None:
        """Take no further piece of work of this kind along a way that turned out impassable.

        Raises:
            InputError: If there is no such way, or it is the last of the kind.
        """
        self._known(way)
        record = self._records.setdefault(kind, _Record(self.ways))
        if record.ways == (way,):
            raise InputError("way", repr(way), "a way beside which there is another")
        record.exclude(way)

    def costs(self) -> dict[Hashable, dict[str, float]]:
        """Of each kind the median costs of its ways, as far as they are known."""
        return {kind: record.medians() for kind, record in self._records.items()}

    def forget(self) -> None:
        """Begin anew, for instance where a model was moved to another device."""
        self._records.clear()

    def _known(self, way: str) -> None:
        if way not in self.ways:
            raise InputError("way", repr(way), f"one of {', '.join(map(repr, self.ways))}")


class _Record:
    """What is known of one kind of work.

    Args:
        ways: Names of the ways.
    """

    def __init__(self, ways: tuple[str, ...]) -> None:
        self.ways = ways
        self._costs: dict[str, list[float]] = {way: [] for way in ways}  # of this round
        self._before: dict[str, float] = {}  # medians of the last full round
        self._asked = 0  # pieces of work since this round began
        self._round = 0

    def next(self, trials: int, again: int) -> Answer:
        """The answer for the next piece of work, which is counted."""
        if len(self.ways) == 1:
            return Answer(self.ways[0], wanted=False)
        round_of_trials = trials * len(self.ways)
        if self._asked >= round_of_trials + again * 2**self._round:
            self._before = self.medians()
            self._costs = {way: [] for way in self.ways}
            self._asked, self._round = 0, self._round + 1
        place = self._asked
        self._asked += 1
        if place < round_of_trials:
            return Answer(self.ways[place % len(self.ways)], wanted=True)
        return Answer(self.cheapest(), wanted=False)

    def told(self, way: str, cost: float) -> None:
        """Remember a cost; of a way that was excluded meanwhile, for nothing."""
        if way in self.ways:
            self._costs[way].append(cost)

    def exclude(self, way: str) -> None:
        """Forget a way."""
        self.ways = tuple(other for other in self.ways if other != way)
        self._costs.pop(way, None)
        self._before.pop(way, None)

    def medians(self) -> dict[str, float]:
        """Median costs: of this round once every way has some, else of the one before."""
        if all(self._costs.values()):
            return {way: statistics.median(costs) for way, costs in self._costs.items()}
        return dict(self._before)

    def cheapest(self) -> str:
        """The way with the least median cost; of equals, and where nothing is known, the first."""
        medians = self.medians()
        return min(self.ways, key=lambda way: medians.get(way, math.inf))
