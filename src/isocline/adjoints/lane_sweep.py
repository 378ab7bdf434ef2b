"""Reverse steps by lanes that jump at known states, none of which cuts a step; see `sweep`.

What the outputs within a lane's step are worth is pulled back to its start by a step of y alone
with a graph, and y is put right at the end of the step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..capture import operations_so_far
from ..solvers.lanes import (
    ExplicitLanes,
    ExplicitLaneStep,
    LaneExtension,
    LaneSlope,
    LaneStep,
)
from .base import pulled_back
from .drift import LaneDrift
from .lane_adjoint import AdjointLanes, AdjointSamples, ReversedLanes
from .lane_anchors import LaneAnchors, Met

__all__ = ["Inside", "Pulled", "SweepingLanes", "SweptLanes"]


class Inside(NamedTuple):
    """The lanes whose steps hold anchors strictly within, and the steps of y alone over them.

    Attributes:
        lanes: positions, rising, shape (k,).
        samples: by their place among the working.
        t, t_next: ends of the steps.
        y: states that they start from, shape (k, width).
        owners: to which of those each anchor belongs, shape (m,).
        rows: which of the known states each is.
        times: when.
        last: which of them is the last of its lane.
    """

    lanes: Tensor
    samples: Tensor
    t: Tensor
    t_next: Tensor
    y: Tensor
    owners: Tensor
    rows: Tensor
    times: Tensor
    last: Tensor

    def only(self, kept: Tensor) -> Inside:
        """Those lanes for which `kept`, shape (k,), is true."""
        places = kept.cumsum(0) - 1
        own = kept.index_select(0, self.owners)
        lanes, samples, t, t_next, y = (tensor[kept] for tensor in self[:5])
        owners = places[self.owners[own]]
        return Inside(
            lanes, samples, t, t_next, y, owners, self.rows[own], self.times[own], self.last[own]
        )


class Pulled(NamedTuple):
    """What anchors within steps are worth.

    Attributes:
        inside: the anchors.
        rows: states at them, as the steps of y interpolate them, with a graph, shape (m, width).
        weights: their cotangents.
        adjoint: what those are worth at the starts of the steps, shape (k, width).
    """

    inside: Inside
    rows: Tensor
    weights: Tensor
    adjoint: Tensor

    @property
    def ends(self) -> Tensor:
        """States at the last anchor of each lane."""
        return self.rows.detach()[self.inside.last]


@dataclass(slots=True)
class SweptLanes:
    """A round of steps some of which jumped.

    Attributes:
        y1, errors, first, last: as of any `LaneStep`; `first` is from before the jumps, for lanes
            that try again.
        inner: the steps proper.
        pulled: what is within them, if there is anything.
        drifts: lanes, times and tolerances: how far y had strayed, wherever that was measured.
    """

    y1: Tensor
    errors: tuple[Tensor, ...]
    first: Tensor
    last: Tensor | None
    inner: ExplicitLaneStep
    pulled: Pulled | None
    drifts: list[tuple[Tensor, Tensor, Tensor]]

    def at(self, owners: Tensor, times: Tensor) -> Tensor:
        """States between the ends."""
        return self.inner.at(owners, times)

    def extension(self, lanes: Tensor) -> LaneExtension:
        """The continuous extensions of the steps proper."""
        return self.inner.extension(lanes)


class SweepingLanes:
    """Takes the steps of a reverse solve. It is pure, as a `LaneStepper` is.

    Args:
        inner: takes the steps proper.
        alone: the same method, for steps of y.
        field: the adjoint equation.
        anchors: the known states.
        drift: measures how far y strays.
    """

    def __init__(
        self,
        inner: ExplicitLanes,
        alone: ExplicitLanes,
        field: AdjointSamples,
        anchors: LaneAnchors,
        drift: LaneDrift,
    ) -> None:
        self.inner, self.alone, self.field = inner, alone, field
        self.anchors, self.drift = anchors, drift
        self.time_dtype = inner.time_dtype
        self.combine: Callable[..., Tensor] | None = inner.combine

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
        """One step of each lane, from where the anchors in it put its start."""
        assert isinstance(field, AdjointLanes)
        met = self.anchors.within(field.samples, t, t_next)
        if met is None:
            return self.inner.step(field, t, t_next, y, first, estimate=estimate)
        if first is None:
            first = field(t.to(self.time_dtype), y).clone()
        drifts: list[tuple[Tensor, Tensor, Tensor]] = []
        start, pulled = self._jump(field, t, t_next, y, met, drifts)
        own = field.of(met.lanes)(t[met.lanes].to(self.time_dtype), start)
        raised, slopes = y.index_copy(0, met.lanes, start), first.index_copy(0, met.lanes, own)
        step = self.inner.step(field, t, t_next, raised, slopes, estimate=estimate)
        y1, last = step.y1, step.last
        if pulled is not None:
            inside = pulled.inside
            y1 = y1.index_copy(0, inside.lanes, self._landed(step, pulled, drifts))
            if last is not None:
                times = inside.t_next.to(self.time_dtype)
                there = field.of(inside.lanes)(times, y1.index_select(0, inside.lanes))
                last = last.index_copy(0, inside.lanes, there)
        return SweptLanes(y1, step.errors, first, last, step, pulled, drifts)

    def _jump(
        self,
        field: AdjointLanes,
        t: Tensor,
        t_next: Tensor,
        y: Tensor,
        met: Met,
        drifts: list[tuple[Tensor, Tensor, Tensor]],
    ) -> tuple[Tensor, Pulled | None]:
        """States and adjoints of the lanes that jump, after it; what lies within their steps."""
        lanes, here = met.lanes, met.here
        state, adjoint = y.index_select(0, lanes).split(self.field.width, 1)
        samples = lanes if field.samples is None else field.samples.index_select(0, lanes)
        leads = met.leads & here
        if bool(leads.any()):
            at = met.owners[leads]
            known = self.anchors.states.index_select(0, met.rows[leads])
            found = self.drift.between(samples[at], state.index_select(0, at), known)
            drifts.append((lanes[at], t[lanes[at]], found))
            state = state.index_copy(0, at, known)
            worth = self.anchors.cotangents.index_select(0, met.rows[here])
            adjoint = adjoint.index_add(0, met.owners[here], worth)
        within = ~here
        if not bool(within.any()):
            return torch.cat([state, adjoint], 1), None
        every = Inside(
            lanes, samples, t[lanes], t_next[lanes], state,
            met.owners[within], met.rows[within], met.times[within], met.last[within],
        )  # fmt: skip
        holds = torch.zeros_like(lanes, dtype=torch.bool).index_fill(0, every.owners, True)
        pulled = self._pull(every.only(holds))
        adjoint = adjoint.index_add(0, holds.nonzero().squeeze(1), pulled.adjoint)
        return torch.cat([state, adjoint], 1), pulled

    def _pull(self, inside: Inside) -> Pulled:
        """What the anchors within steps are worth at their starts."""
        owner = self.field
        with torch.enable_grad():
            leaf = inside.y.detach().requires_grad_()
            before = operations_so_far(leaf)
            # Without an error estimate: whether a step is good enough the step proper tells.
            lanes = ReversedLanes(owner.lanes(inside.samples))
            step = self.alone.step(lanes, inside.t, inside.t_next, leaf, None, estimate=False)
            rows = step.at(inside.owners, inside.times)
            size = operations_so_far(leaf) - before
        owner.guard.check([rows], [leaf], ("step", size))
        weights = self.anchors.cotangents.index_select(0, inside.rows)
        (adjoint,) = pulled_back([rows], [weights], [leaf])
        return Pulled(inside, rows, weights, adjoint)

    def gather(self, pulled: Pulled, counts: Tensor) -> None:
        """Add what anchors are worth to the captured tensors.

        Args:
            pulled: over the steps that hold them.
            counts: the lanes of those whose step counts, shape (k,), bool.
        """
        captured, inside = self.field.captured, pulled.inside
        if not captured or not pulled.rows.requires_grad or not bool(counts.any()):
            return
        own = counts.index_select(0, inside.owners).unsqueeze(1)
        weights = torch.where(own, pulled.weights, 0.0)
        found = pulled_back([pulled.rows], [weights], captured)
        everyone = bool(counts.all())
        if not everyone and not all(g is None or bool(g.isfinite().all()) for g in found):
            # A graph that holds NaN spoils the gradients of others: 0 * NaN.
            self.gather(self._pull(inside.only(counts)), counts[counts])
            return
        self.field.totals.add(found)

    def _landed(
        self,
        step: LaneStep,
        pulled: Pulled,
        drifts: list[tuple[Tensor, Tensor, Tensor]],
    ) -> Tensor:
        """Ends of steps, where y is put right from the last anchor within.

        A drift within the tolerance is taken off; it grows by no more than the flow stretches it
        from there to the end. A larger one is left behind by a step of y alone from the anchor.
        """
        inside, ends = pulled.inside, pulled.ends
        known = self.anchors.states.index_select(0, inside.rows[inside.last])
        times = inside.times[inside.last]
        drift = self.drift.between(inside.samples, ends, known)
        drifts.append((inside.lanes, times, drift))
        y, adjoint = step.y1.index_select(0, inside.lanes).split(self.field.width, 1)
        y = y + (known - ends)
        far = (~(drift <= 1)).nonzero().squeeze(1)
        if far.shape[0]:
            lanes = ReversedLanes(self.field.lanes(inside.samples[far]))
            again = self.alone.step(
                lanes, times[far], inside.t_next[far], known[far], None, estimate=False
            )
            y = y.index_copy(0, far, again.y1)
        return torch.cat([y, adjoint], 1)
