"""Where the states of samples are known from the forward pass, in the order of a reverse solve.

Each sample has times of its own. The reverse solve goes by the clock s = -u, which rises too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LaneAnchors", "Met", "Rows"]


class Rows(NamedTuple):
    """Known states of samples.

    Attributes:
        samples: whose they are, shape (rows,).
        clocks: when, by the clocks of the forward solve, float64, shape (rows,).
        states, cotangents: shape (rows, width).
    """

    samples: Tensor
    clocks: Tensor
    states: Tensor
    cotangents: Tensor

    @property
    def wanted(self) -> Tensor:
        """Which of them the loss depends on. A NaN is not equal to zero: it is passed on."""
        return self.cotangents.ne(0).any(1)

    def joined(self, others: Rows) -> Rows:
        """These, and then the others."""
        return Rows(*map(torch.cat, zip(self, others, strict=True)))

    def only(self, kept: Tensor) -> Rows:
        """Those for which `kept`, shape (rows,), is true."""
        return Rows(*(part[kept] for part in self))


class Met(NamedTuple):
    """The anchors in a round of steps, by lane and in the order of time.

    Attributes:
        lanes: positions of the lanes that have some, rising, shape (k,).
        owners: to which of those each anchor belongs, shape (m,).
        rows: which of the known states each is, shape (m,).
        times: when, by the reverse clock, shape (m,).
        here: which of them are at the start of their lane's step.
        leads, last: which are the first and the last of their lane.
    """

    lanes: Tensor
    owners: Tensor
    rows: Tensor
    times: Tensor
    here: Tensor
    leads: Tensor
    last: Tensor


class LaneAnchors:
    """The known states of all samples, and from where each is to be solved in reverse.

    Those that come before the first which the loss depends on are no anchors.

    Args:
        rows: the known states.
        t0: clocks at the start of the forward solve, where the reverse one ends, shape (batch,).

    Attributes:
        working: samples that a loss depends on beyond their start, shape (n,); what follows is of
            these.
        start, end: ends of the reverse solve by its clock, shape (n,).
        y, adjoint: states and adjoints at the start, shape (n, width).
        any: whether there are more known states on the way.
    """

    def __init__(self, rows: Rows, t0: Tensor) -> None:
        self.states, self.cotangents = rows.states, rows.cotangents
        batch, times = len(t0), -rows.clocks
        later = times < -t0.index_select(0, rows.samples)
        starting = torch.where(rows.wanted & later, times, torch.inf)
        start = torch.full_like(t0, torch.inf).scatter_reduce(0, rows.samples, starting, "amin")
        self.working = start.isfinite().nonzero().squeeze(1)
        self.start, self.end = start[self.working], -t0[self.working]
        here = times == start.index_select(0, rows.samples)
        total = rows.states.new_zeros(batch, rows.states.shape[1])
        total = total.index_add(0, rows.samples[here], rows.cotangents[here])
        self.adjoint = total.index_select(0, self.working)
        table, numbers = _by_sample(rows.samples, times, batch)
        table, self.rows = table[self.working], numbers[self.working]
        first = torch.searchsorted(table, self.start.unsqueeze(1))
        self.y = rows.states.index_select(0, self.rows.gather(1, first).squeeze(1))
        before = table <= self.start.unsqueeze(1)
        self.any = bool((~before & (table < self.end.unsqueeze(1))).any())
        self.times = table.masked_fill(before, -torch.inf)

    def within(self, samples: Tensor | None, t: Tensor, t_next: Tensor) -> Met | None:
        """The anchors from t on, before `t_next`: one at `t_next` belongs to the next step.

        Args:
            samples: of the lanes, by their place among those that work; None for all.
            t, t_next: ends of the steps, shape (lanes,).
        """
        times = self.times if samples is None else self.times.index_select(0, samples)
        first = torch.searchsorted(times, t.unsqueeze(1)).squeeze(1)
        counts = torch.searchsorted(times, t_next.unsqueeze(1)).squeeze(1) - first
        lanes = counts.nonzero().squeeze(1)
        if not lanes.shape[0]:
            return None
        counts = counts.index_select(0, lanes)
        places = torch.arange(len(lanes), device=t.device)
        owners = torch.repeat_interleave(places, counts)
        ends = counts.cumsum(0)
        ranks = torch.arange(len(owners), device=t.device) - (ends - counts)[owners]
        who, number = lanes[owners], first[lanes][owners] + ranks
        found = times[who, number]
        return Met(
            lanes,
            owners,
            self.rows[who if samples is None else samples[who], number],
            found,
            found == t[who],
            ranks == 0,
            ranks == counts[owners] - 1,
        )


def _by_sample(samples: Tensor, times: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Times of each sample, rising, shape (batch, most), filled up with infinity; their numbers."""
    order = times.argsort(stable=True)
    order = order[samples[order].argsort(stable=True)]
    counts = torch.bincount(samples, minlength=batch)
    owners = samples[order]
    ranks = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[owners]
    most = int(counts.max()) if len(order) else 0
    table = times.new_full((batch, most), torch.inf)
    numbers = torch.zeros_like(table, dtype=torch.long)
    table[owners, ranks], numbers[owners, ranks] = times[order], order
    return table, numbers
