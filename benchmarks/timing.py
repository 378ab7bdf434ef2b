"""Interleaved timing: every candidate has a turn in each round, so that drift hits all alike.

In its turn it runs again and again for some time, as in a training loop. A single call after one of
another candidate would find the processor's caches full of that one's code and data, which costs a
solve of a millisecond more than the solve itself.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

__all__ = ["Timing", "interleaved", "publish"]


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate for a call, one entry a round: the mean over its turn."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """Median in milliseconds."""
        return 1e3 * statistics.median(self.seconds)

    def ratio(self, other: Timing) -> float:
        """Median over rounds of other's time over this one's: how many times faster this is."""
        pairs = zip(self.seconds, other.seconds, strict=True)
        return statistics.median(theirs / ours for ours, theirs in pairs)

    def spread(self, other: Timing) -> tuple[float, float]:
        """Lower and upper quartile of the same ratios."""
        pairs = zip(self.seconds, other.seconds, strict=True)
        low, _, high = statistics.quantiles((theirs / ours for ours, theirs in pairs), n=4)
        return low, high


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 3,
    turn: float = 0.05,
) -> dict[str, Timing]:
    """Time the candidates in turn, `rounds` times over, after a warm-up that is not counted.

    Args:
        candidates: by name.
        rounds: how many.
        warm_up: calls before.
        turn: seconds that each has in a round, about; it is called once at least.
    """
    calls = {}
    for name, run in candidates.items():
        least = min((_seconds(run, 1) for _ in range(warm_up)), default=turn)
        calls[name] = max(1, round(turn / least))
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, run in candidates.items():
                seconds[name].append(_seconds(run, calls[name]))
    finally:
        gc.enable()
    return {name: Timing(times) for name, times in seconds.items()}


def _seconds(run: Callable[[], object], calls: int) -> float:
    """Of one call, the mean over some."""
    began = perf_counter()
    for _ in range(calls):
        run()
    return (perf_counter() - began) / calls


def publish(description: str | None, page: Callable[[int], str], rounds: int) -> None:
    """The command line of a benchmark: make the page on one thread, print it, and write it.

    Args:
        description: for ``--help``.
        page: the page in Markdown, by the number of rounds.
        rounds: how many, unless ``--rounds`` says otherwise.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = page(options.rounds)
    print(text)
    if options.out is not None:
        options.out.write_text(text)
