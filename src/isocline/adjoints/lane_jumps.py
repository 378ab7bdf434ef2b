"""Back through events of samples: from cotangents behind them to those right before.

Near an event the solution is y + f (t - tau), to first order. On that line the event is passed
once more with a graph, as it is on the interpolant of a step: so the gradient of its time and state
is that of the exact solution, as that of the reverse solve is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..capture import Guard, operations_so_far
from ..events import Event
from ..integrate import Hits, passage, rates_along
from ..samples import SampleField
from .base import pulled_back

__all__ = ["Crossing"]


@dataclass(frozen=True, slots=True)
class _Line:
    """Solutions near their events: states y at `times`, and their slopes there."""

    times: Tensor
    y: Tensor
    slopes: Tensor

    def at(self, places: Tensor, times: Tensor) -> Tensor:
        """States at other times."""
        ahead = (times - self.times.index_select(0, places)).to(self.y.real.dtype)
        y, slopes = (part.index_select(0, places) for part in (self.y, self.slopes))
        return y + ahead.unsqueeze(1) * slopes


class Crossing:
    """Some events, at most one of a sample, passed once more.

    Args:
        field: of the forward solve.
        events: that were looked for.
        hits: those that are passed; `lanes` are samples. Their rates are found anew.
        states: right before the handlers, shape (k, width).

    Raises:
        GradientError: where the time of an event has no derivative.

    Attributes:
        after: states after the handlers, without a graph, shape (k, width).
    """

    def __init__(
        self, field: SampleField, events: Sequence[Event], hits: Hits, states: Tensor
    ) -> None:
        with torch.enable_grad():  # the samples' share of the arguments is to have a graph
            lanes = field.at(hits.lanes)
        with torch.no_grad():
            slopes = lanes(hits.times.to(states.real.dtype), states)
        line = _Line(hits.times, states, slopes)
        hits = hits._replace(rates=rates_along(events, lanes, line, hits))
        with torch.enable_grad():
            self._leaf = states.detach().requires_grad_()
            before = operations_so_far(self._leaf)
            self._found = passage(events, lanes, _Line(hits.times, self._leaf, slopes), hits)
            self._size = operations_so_far(self._leaf) - before
        self.samples, self.times = hits.lanes, hits.times
        self.after = self._found.after.detach()

    def __len__(self) -> int:
        return len(self.samples)

    def pulled(
        self,
        of_times: Tensor,
        of_states: Tensor,
        of_after: Tensor,
        captured: Sequence[Tensor],
        guard: Guard,
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Cotangents of the states that would be met at a fixed time; gradients of `captured`.

        Args:
            of_times: cotangents of the times, shape (k,).
            of_states: of the states at the events, shape (k, width).
            of_after: of those after the handlers.
            captured: what field, conditions and handlers depend on.
            guard: sees to it that no tensor is missed.
        """
        outputs, leaf = list(self._found), self._leaf
        guard.check(outputs, [leaf], ("events", self._size))
        cotangents = [of_times, of_states, of_after]
        found = pulled_back(outputs, cotangents, [leaf, *captured])
        return torch.zeros_like(leaf) if found[0] is None else found[0], found[1:]
