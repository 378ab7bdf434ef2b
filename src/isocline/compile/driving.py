"""Rounds of steps that follow one another without the host in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

__all__ = ["Counts", "Quiet", "RoundDriver", "Wiring"]


class Wiring(NamedTuple):
    """How one round follows another.

    Attributes:
        inputs, outputs: how many it has.
        follows: for each input the output that the next round is given in its place, or -1.
        t, y: which inputs those are.
        slopes: which output is the slopes, for output between the ends of steps; None if none is.
    """

    inputs: int
    outputs: int
    follows: tuple[int, ...]
    t: int
    y: int
    slopes: int | None

    @classmethod
    def of(
        cls,
        inputs: int,
        outputs: int,
        follows: dict[int, int],
        t: int,
        y: int,
        slopes: int | None = None,
    ) -> Wiring:
        """This, from the inputs that change and the outputs that replace them."""
        places = tuple(follows.get(i, -1) for i in range(inputs))
        return cls(inputs, outputs, places, t, y, slopes)


class Counts(NamedTuple):
    """When a round is quiet, as far as lanes decide it; see `Marks` for what a round tells.

    Attributes:
        number: of lanes.
        rest: how many are at rest.
        done: how many may be done, with those.
        least: a next step as short as this ends it.
    """

    number: int
    rest: int
    done: int
    least: float


class Quiet(NamedTuple):
    """Rounds that were taken.

    Attributes:
        number: how many were quiet.
        inputs: what the next round would be given.
        last: what the last one found, if it was not quiet; else nothing.
        rounds: of each quiet one where its steps began, where they ended, and what lanes carried;
            nothing if that was not to be recorded.
        slopes: of those in which a lane passed an output time, by number. Where a driver does not
            keep slopes such a round is not quiet.
    """

    number: int
    inputs: list[Tensor]
    last: list[Tensor]
    rounds: list[tuple[Tensor, Tensor, Tensor]]
    slopes: dict[int, Tensor] = {}  # noqa: RUF012 (it is not written to)


class RoundDriver(Protocol):
    """Takes rounds of one artifact, or pull-backs of rounds, one after another."""

    def rounds(
        self, wiring: Wiring, given: Sequence[Tensor], lanes: Counts, most: int, *, record: bool
    ) -> Quiet | None:
        """Rounds as long as they are quiet, and one more; None where that is not possible.

        Args:
            wiring: how they follow.
            given: inputs of the first.
            lanes: when they are quiet.
            most: number of rounds.
            record: whether to keep where rounds began and ended.

        Raises:
            RuntimeError: if an artifact failed.
        """

    def pulled(
        self,
        rounds: Sequence[tuple[Tensor, Tensor, Tensor]],
        clock: Tensor,
        cotangent: Tensor,
        after: Sequence[Tensor],
        totals: int,
    ) -> Tensor | None:
        """The cotangent of what lanes carried before some rounds; None where that is not possible.

        Args:
            rounds: the last first; of each where its steps began, where they ended, what lanes
                carried.
            clock: the first input of a pull-back.
            cotangent: of what lanes carried at the end.
            after: its inputs after the cotangent.
            totals: how many of these, the last, are added to.

        Raises:
            RuntimeError: if an artifact failed.
        """
