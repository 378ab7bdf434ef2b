"""The active set of per-sample stepping: the samples that are still being solved, one lane each."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from ..samples import LaneField, SamplePlan, SampleProblem

__all__ = ["LaneTolerance", "Lanes", "started", "stops_of"]


@dataclass(slots=True)
class Lanes:
    """Where each lane stands. Tensors are replaced, never written into: a recorder may hold them.

    A lane whose sample is done may stay for a while, at rest: its steps have no length.

    Attributes:
        samples: of the lanes, shape (lanes,).
        t, t1: clocks now and at the end, float64.
        h: length of the step to try next, float64.
        y: what the lanes carry, shape (lanes, copies * width): the states, and whatever the method
            takes along beside them.
        width: of a state.
        first: the slope that the steps start with, if it is known for all lanes.
        field: the field for these samples.
        rejected: how many steps of each were rejected so far.
        moved: which lanes start from an event, whose time may carry a graph; None where none does.
        resting: which lanes are done; None where none is.
        rest: how many those are.
    """

    samples: Tensor
    t: Tensor
    t1: Tensor
    h: Tensor
    y: Tensor
    width: int
    first: Tensor | None
    field: LaneField
    rejected: Tensor
    moved: Tensor | None = None
    resting: Tensor | None = None
    rest: int = 0

    @classmethod
    def of(cls, problem: SampleProblem, copies: int) -> Lanes:
        """One lane for every sample, at its start, with so many states side by side."""
        batch, device = problem.field.batch, problem.y0.device
        times = problem.times
        t0, t1 = (problem.t0, problem.t1) if times is None else (times.t0, times.t1)
        return cls(
            samples=torch.arange(batch, device=device),
            t=t0,
            t1=t1,
            h=torch.zeros(batch, dtype=torch.float64, device=device),
            y=started(problem.y0, copies),
            width=problem.y0.shape[1],
            first=None,
            field=problem.field.at(None),
            rejected=torch.zeros(batch, dtype=torch.long, device=device),
        )

    def __len__(self) -> int:
        return self.field.count

    @property
    def states(self) -> Tensor:
        """The states alone, shape (lanes, width)."""
        return self.y[:, : self.width]

    @property
    def working(self) -> int:
        """How many lanes are not at rest."""
        return len(self) - self.rest

    def sizes(self, t0: Tensor) -> Tensor:
        """Sizes of the lanes' times, to whose last place a step must reach; not that of 0.

        Near t = 0 it goes in proportion to the span.
        """
        start, t = t0.index_select(0, self.samples), self.t.detach()
        span = (self.t1.detach() - start).nan_to_num(posinf=0.0)
        return torch.maximum(t.abs(), 1e-6 * span)

    def progress(self, t0: Tensor) -> float:
        """The part of its way that the last lane has behind it."""
        start = t0.index_select(0, self.samples)
        part = (self.t.detach() - start) / (self.t1.detach() - start)
        return float(part.nan_to_num(1.0).amin())

    def put_to_rest(self, lanes: Tensor) -> None:
        """These lanes are done, by their positions."""
        resting = self.resting
        if resting is None:
            resting = torch.zeros(len(self), dtype=torch.bool, device=lanes.device)
        self.resting = resting.index_fill(0, lanes, True)
        self.rest += lanes.shape[0]

    def drop_resting(self) -> Tensor:
        """Let the lanes at rest leave; the positions of those that stay."""
        assert self.resting is not None
        stay = (~self.resting).nonzero().squeeze(1)
        kept = (self.samples, self.t, self.t1, self.h, self.y, self.rejected)
        self.samples, self.t, self.t1, self.h, self.y, self.rejected = (
            tensor.index_select(0, stay) for tensor in kept
        )
        if self.first is not None:
            self.first = self.first.index_select(0, stay)
        if self.moved is not None:
            self.moved = self.moved.index_select(0, stay)
        self.field = self.field.of(stay)
        self.resting, self.rest = None, 0
        return stay


def started(states: Tensor, copies: int) -> Tensor:
    """What lanes carry that start from these states, shape (lanes, copies * width)."""
    return states if copies == 1 else states.repeat(1, copies)


def stops_of(stops: tuple[float, ...], problem: SampleProblem) -> Tensor | None:
    """Times at which steps end exactly, by each sample's clock, shape (batch, stops)."""
    if not stops:
        return None
    times = torch.tensor(stops, dtype=torch.float64, device=problem.y0.device)
    signs = problem.field.signs
    return times.expand(problem.field.batch, -1) if signs is None else signs.unsqueeze(1) * times


class LaneTolerance:
    """The scale that errors are measured against: atol + rtol * max(|y|, |y1|), elementwise."""

    def __init__(self, plan: SamplePlan, y0: Tensor) -> None:
        real = y0.detach().real
        # A floor keeps 0 / 0 out of the error ratio where atol and the state are both zero.
        floor = torch.finfo(real.dtype).tiny ** 0.5
        atol = torch.as_tensor(plan.atol, dtype=real.dtype, device=real.device)
        self.atol = atol.clamp(min=floor)
        self.rtol = plan.rtol

    def keep(self, lanes: Tensor) -> None:
        """Only these lanes are left."""
        if self.atol.ndim:
            self.atol = self.atol.index_select(0, lanes)
        if isinstance(self.rtol, Tensor):
            self.rtol = self.rtol.index_select(0, lanes)

    def of(self, lanes: Tensor) -> LaneTolerance:
        """That of some of the lanes."""
        found = copy(self)
        found.keep(lanes)
        return found

    def scale(self, *states: Tensor) -> Tensor:
        """For states at one end of a step, or at both."""
        size = states[0].abs()
        for state in states[1:]:
            size = torch.maximum(size, state.abs())
        if isinstance(self.rtol, Tensor):
            return torch.addcmul(self.atol, self.rtol, size)
        return torch.add(self.atol, size, alpha=self.rtol)
