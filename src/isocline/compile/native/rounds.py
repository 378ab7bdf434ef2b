"""Rounds of per-sample stepping by the driver, as long as only the lanes need know of them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from .binding import Entry, RoundPulls, Rounds, adopted, adopted_all, known
from .library import driver

__all__ = ["Quiet", "Wiring", "driven", "pulled"]

_TURN = 0.1
"""Seconds after which the driver lets Python look for an interrupt."""


class Wiring(NamedTuple):
    """How one round follows another.

    Attributes:
        entry: of the artifact that takes rounds.
        inputs, outputs: how many it has.
        follows: for each input the output that the next round is given in its place, or -1.
        t, y: which inputs those are.
    """

    entry: Entry
    inputs: int
    outputs: int
    follows: Any
    t: int
    y: int

    @classmethod
    def of(
        cls, entry: Entry, inputs: int, outputs: int, follows: dict[int, int], t: int, y: int
    ) -> Wiring:
        """This, from the inputs that change and the outputs that replace them."""
        places = (follows.get(place, -1) for place in range(inputs))
        return cls(entry, inputs, outputs, (ctypes.c_int64 * inputs)(*places), t, y)


class Quiet(NamedTuple):
    """Rounds that were taken.

    Attributes:
        number: how many were quiet.
        inputs: what the next round would be given.
        last: what the last one found, if it was not quiet; else nothing.
        rounds: of each quiet one where its steps began, where they ended, and what lanes carried;
            nothing if that was not to be recorded.
    """

    number: int
    inputs: list[Tensor]
    last: list[Tensor]
    rounds: list[tuple[Tensor, Tensor, Tensor]]


def driven(
    wiring: Wiring,
    given: Sequence[Tensor],
    lanes: tuple[int, int, int],
    least: float,
    most: int,
    record: bool,
) -> Quiet | None:
    """Rounds by the driver; None where there is none.

    Args:
        wiring: how they follow.
        given: inputs of the first.
        lanes: how many there are, how many of them are at rest, and how many may be done.
        least: a next step as short as this ends it.
        most: number of rounds.
        record: whether to keep where rounds began and ended.

    Raises:
        RuntimeError: if an artifact failed.
    """
    library = driver()
    if library is None:
        return None
    count = ctypes.c_int64()
    tensors = known(given)
    task = Rounds(
        wiring.entry,
        ctypes.addressof(tensors),
        ctypes.addressof(wiring.follows),
        *(wiring.inputs, wiring.outputs, wiring.t, wiring.y),
        *lanes,
        least,
        most,
        record,
    )
    found = library.isocline_skip(ctypes.byref(task), _TURN, ctypes.byref(count))
    if found is None:
        raise RuntimeError("a compiled step failed; its own words stand on stderr")
    records = 3 * count.value if record else 0
    out = (ctypes.c_void_p * (wiring.outputs + wiring.inputs + records))()
    library.isocline_take(found, out)
    every = adopted_all(handle for handle in out if handle is not None)
    after = len(every) - records
    until = after - wiring.inputs
    kept = every[after:]
    rounds = list(zip(kept[::3], kept[1::3], kept[2::3], strict=True))
    return Quiet(count.value, every[until:after], every[:until], rounds)


def pulled(
    entry: Entry,
    rounds: Sequence[tuple[Tensor, Tensor, Tensor]],
    clock: Tensor,
    cotangent: Tensor,
    after: Sequence[Tensor],
) -> Tensor | None:
    """The cotangent of what lanes carried before some rounds; None where there is no driver.

    Args:
        entry: of the pull-back of a round.
        rounds: the last first; of each where its steps began, where they ended, what lanes carried.
        clock: its first input.
        cotangent: of what lanes carried at the end.
        after: its inputs after the cotangent.

    Raises:
        RuntimeError: if an artifact failed.
    """
    library = driver()
    if library is None:
        return None
    walked = known([tensor for round_ in rounds for tensor in round_])
    given = known([clock, cotangent, *after])
    task = RoundPulls(
        entry, ctypes.addressof(walked), len(rounds), ctypes.addressof(given), len(after)
    )
    found = library.isocline_pull_rounds(ctypes.byref(task))
    if found is None:
        raise RuntimeError("a compiled step failed; its own words stand on stderr")
    return adopted(found)
