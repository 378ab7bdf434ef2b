"""The active set of per-sample stepping: the samples that are still being solved, one lane each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..samples import LaneField, SampleProblem

__all__ = ["Lanes", "started", "stops_of"]


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
        accepted: in how many of the rounds that may have rejected some each lane's step was taken.
        idle: in how many rounds each lane was done and had not been put to rest.
        moved: which lanes start from an event, whose time may carry a graph; None where none does.
        awake: which lanes are not at rest; None where none is.
        rest: how many are.
    """

    samples: Tensor
    t: Tensor
    t1: Tensor
    h: Tensor
    y: Tensor
    width: int
    first: Tensor | None
    field: LaneField
    accepted: Tensor
    idle: Tensor
    moved: Tensor | None = None
    awake: Tensor | None = None
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
            accepted=torch.zeros(batch, dtype=torch.long, device=device),
            idle=torch.zeros(batch, dtype=torch.long, device=device),
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
        awake = self.awake
        if awake is None:
            awake = torch.ones(len(self), dtype=torch.bool, device=lanes.device)
        self.awake = awake.index_fill(0, lanes, False)
        self.rest += lanes.shape[0]

    def drop_resting(self) -> Tensor:
        """Let the lanes at rest leave; the positions of those that stay."""
        assert self.awake is not None
        stay = self.awake.nonzero().squeeze(1)
        kept = (self.samples, self.t, self.t1, self.h, self.y, self.accepted, self.idle)
        self.samples, self.t, self.t1, self.h, self.y, self.accepted, self.idle = (
            tensor.index_select(0, stay) for tensor in kept
        )
        if self.first is not None:
            self.first = self.first.index_select(0, stay)
        if self.moved is not None:
            self.moved = self.moved.index_select(0, stay)
        self.field = self.field.of(stay)
        self.awake, self.rest = None, 0
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
