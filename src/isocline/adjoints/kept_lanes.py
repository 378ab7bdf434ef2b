"""Rounds of steps whose graphs are kept: where memory allows, none need be taken again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..capture import operations_so_far
from ..samples import LaneField
from ..solvers.lane_methods import LaneMethod
from ..solvers.lanes import LaneExtension, LaneSlope, LaneStep

__all__ = ["KeepingLanes", "KeptRound"]


@dataclass(slots=True)
class KeptRound:
    """A round of steps that carries its graph, over leaves of its own.

    Attributes:
        y1, errors, first, last: as of any `LaneStep`, without a graph.
        graph: the steps over the leaves.
        leaves: what lanes carried and, where they were known, slopes at the starts.
        times: leaves for the ends of the steps, shape (lanes,); none if no gradient of a time is
            wanted.
        size: number of its operations.
    """

    y1: Tensor
    errors: tuple[Tensor, ...]
    first: Tensor
    last: Tensor | None
    graph: LaneStep
    leaves: tuple[Tensor, ...]
    times: tuple[Tensor, ...]
    size: int

    @property
    def finite(self) -> bool:
        """Whether all lanes' steps are: a graph that holds NaN spoils the gradients of others."""
        return all(bool(x.isfinite().all()) for x in (self.graph.y1, *self.graph.errors))

    def at(self, owners: Tensor, times: Tensor) -> Tensor:
        """States between the ends, without a graph."""
        return self.graph.at(owners, times)

    def extension(self, lanes: Tensor) -> LaneExtension:
        """The continuous extensions of some lanes, without a graph."""
        return self.graph.extension(lanes)


class KeepingLanes:
    """A stepper whose first rounds carry their graphs.

    Args:
        stepper: takes the steps.
        limit: number of rounds to keep.
        timed: whether a gradient of a time is wanted.
    """

    def __init__(self, stepper: LaneMethod, limit: int, *, timed: bool) -> None:
        self.inner, self.limit, self.timed = stepper, limit, timed
        self.time_dtype, self.combine = stepper.time_dtype, stepper.combine
        self._hands_on = stepper.hands_on

    def step(
        self,
        field: LaneSlope,
        t: Tensor,
        t_next: Tensor,
        y: Tensor,
        first: Tensor | None,
        *,
        estimate: bool = True,
    ) -> LaneStep:
        """One step of each lane, with its graph as long as there is room for more."""
        if not self.limit:
            return self.inner.step(field, t, t_next, y, first, estimate=estimate)
        self.limit -= 1
        assert isinstance(field, LaneField)
        with torch.enable_grad():
            leaves = [y.detach().requires_grad_()]
            # What a rejected try found is a function of the other leaf: it is found anew.
            if first is not None and self._hands_on:
                leaves.append(first.detach().requires_grad_())
            start, end = t.detach(), t_next.detach()
            if self.timed:
                start, end = start.requires_grad_(), end.requires_grad_()
            before = operations_so_far(leaves[0])
            slope = leaves[1] if leaves[1:] else None
            graph = self.inner.step(field.again(), start, end, leaves[0], slope)
            size = operations_so_far(leaves[0]) - before
        return KeptRound(
            y1=graph.y1.detach(),
            errors=graph.errors,
            first=graph.first.detach(),
            last=None if graph.last is None else graph.last.detach(),
            graph=graph,
            leaves=tuple(leaves),
            times=(start, end) if self.timed else (),
            size=size,
        )
