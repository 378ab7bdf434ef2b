"""Rounds of per-sample stepping by the driver, as long as only the lanes need know of them."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..driving import Counts, Quiet, Wiring
from .binding import FAILED, Entry, RoundPulls, Rounds, adopted, adopted_all, known
from .library import driver

__all__ = ["NativeRounds"]

_TURN = 0.1
"""Seconds after which the driver lets Python look for an interrupt."""


class NativeRounds(NamedTuple):
    """Rounds of an artifact by the driver; see `RoundDriver`.

    Attributes:
        entry: of the artifact.
    """

    entry: Entry

    def rounds(
        self, wiring: Wiring, given: Sequence[Tensor], lanes: Counts, most: int, *, record: bool
    ) -> Quiet | None:
        """Rounds as long as they are quiet, and one more; None where there is no driver."""
        library = driver()
        if library is None:
            return None
        count = ctypes.c_int64()
        tensors = known(given)
        follows = _places(wiring.follows)
        task = Rounds(
            self.entry,
            ctypes.addressof(tensors),
            ctypes.addressof(follows),
            *(wiring.inputs, wiring.outputs, wiring.t, wiring.y),
            *(lanes.number, lanes.rest, lanes.done),
            lanes.least,
            most,
            record,
        )
        found = library.isocline_skip(ctypes.byref(task), _TURN, ctypes.byref(count))
        if found is None:
            raise RuntimeError(FAILED)
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
        self,
        rounds: Sequence[tuple[Tensor, Tensor, Tensor]],
        clock: Tensor,
        cotangent: Tensor,
        after: Sequence[Tensor],
        totals: int,
    ) -> Tensor | None:
        """The cotangent of what lanes carried before some rounds; None where there is no driver."""
        library = driver()
        if library is None:
            return None
        walked = known([tensor for round_ in rounds for tensor in round_])
        given = known([clock, cotangent, *after])
        task = RoundPulls(
            self.entry, ctypes.addressof(walked), len(rounds), ctypes.addressof(given), len(after)
        )
        found = library.isocline_pull_rounds(ctypes.byref(task))
        if found is None:
            raise RuntimeError(FAILED)
        return adopted(found)


@functools.lru_cache(maxsize=64)
def _places(follows: tuple[int, ...]) -> Any:
    """Places as the driver reads them; it copies what it keeps."""
    return (ctypes.c_int64 * len(follows))(*follows)
