"""Lanes through their events: times and states there and after the handlers, with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import GradientError, InputError
from ..events import Event, check_values
from ..samples import LaneField, matrix_of, rows_packing

__all__ = ["Hits", "LanePath", "Passage", "conditions", "passage", "rates_along"]


class LanePath(Protocol):
    """The solutions of some lanes near their events, such as a `LaneExtension` of their steps."""

    def at(self, places: Tensor, times: Tensor) -> Tensor:
        """States at `times`, shape (m,), of the lanes at `places`, shape (m,)."""


class Hits(NamedTuple):
    """Events of a round, at most one a lane.

    Attributes:
        lanes: positions, rising, shape (k,).
        times: when, by the clocks.
        events, elements: which event, and which of its condition's elements.
        final: whether it ends the lane's solve.
        rates: change of the condition in time along the path; none where no gradient is wanted.
    """

    lanes: Tensor
    times: Tensor
    events: Tensor
    elements: Tensor
    final: Tensor
    rates: Tensor


class Passage(NamedTuple):
    """Lanes through their events: times, shape (k,), states there and after the handlers."""

    times: Tensor
    states: Tensor
    after: Tensor


def conditions(events: Sequence[Event], field: LaneField, t: Tensor, y: Tensor) -> list[Tensor]:
    """Values of each event's condition, shape (lanes, elements), float64.

    Raises:
        InputError: if one is not a real tensor with the lanes leading.
    """
    found = []
    for event in events:
        values = field.applied(event.condition, t.to(y.real.dtype), y)
        check_values(values)
        if not values.ndim or values.shape[0] != field.count:
            given = f"output of shape {tuple(values.shape)} for {field.count} samples"
            raise InputError("event.condition", given, "a value for each sample, (batch, ...)")
        found.append(values.reshape(field.count, -1).double())
    return found


def passage(
    events: Sequence[Event],
    field: LaneField,
    path: LanePath,
    hits: Hits,
    *,
    higher: bool = False,
) -> Passage:
    """Times and states of hits, differentiable: the time by the implicit function theorem.

    A correction by Newton's method at the root changes no value, and has the root's first
    derivatives; a second one, whose rates carry a graph too, those up to the third.

    Args:
        events: all of them.
        field: for the lanes that were hit.
        path: theirs.
        hits: what happened.
        higher: whether more than first derivatives may be wanted.
    """
    places = torch.arange(field.count, device=hits.times.device)
    times = hits.times
    if torch.is_grad_enabled():
        for _ in range(2 if higher else 1):
            moved = _zeros_on(path.at(places, times)) if higher else torch.zeros_like(times)
            at = times + moved
            values = _chosen(conditions(events, field, at, path.at(places, at)), hits)
            rates = _rates_of(values, moved, create_graph=True) if higher else hits.rates
            shift = -values / rates
            times = times + (shift - shift.detach())
    states = path.at(places, times)
    after = states
    for number, event in enumerate(events):
        mine = ((hits.events == number) & ~hits.final).nonzero().squeeze(1)
        if event.handler is None or not mine.shape[0]:
            continue
        own = field.of(mine)
        at, there = times.index_select(0, mine), states.index_select(0, mine)
        found = own.applied(event.handler, at.to(states.real.dtype), there)
        packing = field.owner.packing
        rows_packing(packing, own.count).check_like(found, "event.handler")
        after = after.index_copy(0, mine, matrix_of(packing, found))
    return Passage(times, states, after)


def _zeros_on(states: Tensor) -> Tensor:
    """Zeros to differentiate by, shape (k,), above all that the states were computed from.

    Autograd looks through a graph down to what it differentiates by. For a leaf that is all of the
    graph: with every event all steps before it.
    """
    zeros = (states.real * 0).sum(1).double()
    return zeros if zeros.requires_grad else zeros.requires_grad_()


def _chosen(values: Sequence[Tensor], hits: Hits) -> Tensor:
    """Of the conditions of all events the elements that were hit, shape (k,)."""
    found = torch.zeros_like(hits.times)
    for number, table in enumerate(values):
        mine = (hits.events == number).nonzero().squeeze(1)
        if mine.shape[0]:
            found = found.index_copy(0, mine, table[mine, hits.elements[mine]])
    return found


def rates_along(events: Sequence[Event], field: LaneField, path: LanePath, hits: Hits) -> Tensor:
    """Change of the conditions that were hit, in time along the paths, shape (k,).

    Raises:
        GradientError: where there is none: a condition touches zero, or cannot be differentiated.
    """
    with torch.enable_grad():
        times = hits.times.detach().requires_grad_()
        places = torch.arange(field.count, device=times.device)
        states = path.at(places, times)
        values = _chosen(conditions(events, field, times, states), hits)
        return _rates_of(values, times, create_graph=False)


def _rates_of(values: Tensor, times: Tensor, *, create_graph: bool) -> Tensor:
    """Derivatives of conditions, each in its own time.

    Raises:
        GradientError: where there is none: a condition touches zero, or cannot be differentiated.
    """
    rates: Tensor | None = None
    if values.requires_grad:
        (rates,) = torch.autograd.grad(
            values.sum(), times, create_graph=create_graph, allow_unused=True
        )
    if rates is None or bool((rates == 0).any()):
        raise GradientError(
            "the time of an event has no derivative: its condition does not pass through zero but "
            "touches it, or cannot be differentiated. Solve under `torch.no_grad()`."
        )
    return rates if create_graph else rates.detach()
