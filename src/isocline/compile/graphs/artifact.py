"""A traced graph that runs operation by operation, so that a device can record it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...errors import CompileWarning
from ..building import Artifact
from ..driving import Counts, Quiet, Wiring
from ..tracing import Traced, first_line
from .capture import CAPTURES
from .pulls import Pulls
from .rounds import Place, Rounds

__all__ = ["GraphedRounds", "captured"]

_MOST = 8
"""Shapes for which one artifact keeps graphs. Each holds as much memory as what it computes."""

T = TypeVar("T", Rounds, Pulls)


def captured(traced: Traced) -> Artifact:
    """What runs a graph on the device that it was traced for."""
    graph = traced.graph

    def run(inputs: list[Any]) -> list[Tensor]:
        with torch.no_grad():
            return list(graph.forward(*inputs))

    return Artifact(run, graphs=GraphedRounds(run))


class GraphedRounds:
    """Takes rounds of an artifact by graphs of the device; see `RoundDriver`.

    Args:
        run: the artifact.
    """

    def __init__(self, run: Callable[[list[Any]], list[Tensor]]) -> None:
        self._run = run
        self._made: dict[Any, Any] = {}
        self._broken = False

    def rounds(
        self, wiring: Wiring, given: Sequence[Tensor], lanes: Counts, most: int, *, record: bool
    ) -> Quiet | None:
        """Rounds as long as they are quiet, and one more; None if they cannot be captured."""
        with_output = wiring.slopes is not None
        made = self._or_none(lambda: self.taking(wiring, given, marks=with_output))
        if made is None:
            return None
        taken = made.take(given, lanes, most, record=record or with_output)
        starts, rounds, slopes = taken.records, [], dict[int, Tensor]()
        if starts:
            ends = [*(t for t, *_ in starts[1:]), taken.inputs[wiring.t]]
            rounds = [(t, t_next, y) for (t, y, *_), t_next in zip(starts, ends, strict=True)]
        if starts and with_output:
            due = torch.stack([marks for *_, marks in starts])[:, 4].tolist()
            slopes = {i: starts[i][2] for i, number in enumerate(due) if number}
        return Quiet(taken.number, taken.inputs, taken.last, rounds, slopes)

    def pulled(
        self,
        rounds: Sequence[tuple[Tensor, Tensor, Tensor]],
        clock: Tensor,
        cotangent: Tensor,
        after: Sequence[Tensor],
        totals: int,
    ) -> Tensor | None:
        """The cotangent of what lanes carried before some rounds; None as above."""

        def pull(own: Sequence[Tensor], end: Tensor, rest: Sequence[Tensor]) -> Tensor:
            return self._run([rest[0], *own, end, *rest[1:]])[0]

        rest = [clock, *after]
        made = self._or_none(lambda: self.pulling(pull, rounds[0], cotangent, rest, totals))
        if made is None:
            return None
        return made.walk(rounds, lambda own: (own[0], own[0], own[2]), cotangent, rest)

    def taking(self, wiring: Wiring, given: Sequence[Tensor], *, marks: bool) -> Rounds:
        """What takes rounds with inputs of these shapes.

        It remembers t and y, the slopes if there are any, and the marks, if they are wanted.
        """
        recorded = [Place(False, wiring.t), Place(False, wiring.y)]
        recorded += [] if wiring.slopes is None else [Place(True, wiring.slopes)]
        recorded += [Place(True, 0)] if marks else []
        key = (wiring, tuple(recorded), _shapes(given))
        capture = CAPTURES[given[0].device.type]
        return self._once(key, lambda: Rounds(self._run, given, wiring, recorded, capture))

    def pulling(
        self,
        pull: Callable[[Sequence[Tensor], Tensor, Sequence[Tensor]], Tensor],
        own: Sequence[Tensor],
        cotangent: Tensor,
        after: Sequence[Tensor],
        totals: int,
    ) -> Pulls:
        """What walks back over rounds with inputs of these shapes; see `Pulls`."""
        key = ("pull", totals, _shapes([*own, cotangent, *after]))
        capture = CAPTURES[cotangent.device.type]
        return self._once(key, lambda: Pulls(pull, own, cotangent, after, totals, capture))

    def _once(self, key: Any, make: Callable[[], T]) -> T:
        found: T | None = self._made.pop(key, None)
        if found is None:
            while len(self._made) >= _MOST:
                self._made.pop(next(iter(self._made)))  # the one used longest ago
            with torch.inference_mode(False), torch.no_grad():
                found = make()
        self._made[key] = found
        return found

    def _or_none(self, make: Callable[[], T]) -> T | None:
        """What `make` makes; if it fails once, a warning, and None from then on."""
        if self._broken:
            return None
        try:
            return make()
        except RuntimeError as error:
            self._broken = True
            text = "`compile=True`: rounds run one by one, since they cannot be captured: "
            warnings.warn(text + first_line(error), CompileWarning, stacklevel=2)
            return None


def _shapes(tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    return tuple((x.shape, x.dtype) for x in tensors)
