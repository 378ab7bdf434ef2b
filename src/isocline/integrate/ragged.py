"""Output of per-sample stepping: each sample has output times, and as many rows, of its own.

A row of output has a sample and a slot, its number among that sample's rows. Rows come in the
order in which the lanes pass their times, and are laid out in the end.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..problem import SaveAt
from ..samples import SampleProblem
from ..solvers.lanes import LaneStep

__all__ = ["Output", "RaggedSaver", "states_of"]


class Output(NamedTuple):
    """The rows that one round of steps gives: m between the ends of steps, then k at their ends.

    Attributes:
        owners: lanes of the rows between, by position, shape (m,).
        times: when those are, shape (m,), float64.
        wanted: which of all output times the first w of them are, by index into the flattened
            matrix, shape (w,). The others are nodes of dense output, whose slot is -1.
        ends: lanes whose step's end is a row, shape (k,).
        samples, slots: of all the rows, shape (m + k,).
        clocks: times of all the rows, shape (m + k,).
    """

    owners: Tensor
    times: Tensor
    wanted: Tensor
    ends: Tensor
    samples: Tensor
    slots: Tensor
    clocks: Tensor

    def traced(self, ts: Tensor) -> Tensor:
        """The times of the rows between, with the graph of the output times `ts`."""
        own = ts.reshape(-1).index_select(0, self.wanted)
        return torch.cat([own, self.times[len(self.wanted) :]])


def states_of(step: LaneStep, output: Output, width: int, times: Tensor | None = None) -> Tensor:
    """The rows of an output, shape (m + k, width).

    Args:
        step: that it belongs to.
        output: what is wanted.
        width: of a state, which is the first that a lane carries.
        times: in place of those of `output`, with a graph.
    """
    between = output.times if times is None else times
    parts = []
    if output.owners.shape[0]:
        parts.append(step.at(output.owners, between))
    if output.ends.shape[0]:
        parts.append(step.y1[:, :width].index_select(0, output.ends))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class RaggedSaver:
    """Tells which rows of output a round of steps gives.

    Args:
        problem: has the output times.
        save: what else to keep.
        nodes: where dense output is kept of each step, in parts of it; None for none.

    Attributes:
        filled: how many rows each sample has, shape (batch,).
    """

    def __init__(self, problem: SampleProblem, save: SaveAt, nodes: Tensor | None = None) -> None:
        self.save, self.nodes = save, nodes
        self.ts = problem.ts
        # Where a time records a gradient, its row comes from the interpolant also at a step's end.
        self.recording = problem.times is not None
        batch, device = problem.field.batch, problem.y0.device
        self.filled = torch.zeros(batch, dtype=torch.long, device=device)
        self._count = 0 if self.ts is None else self.ts.shape[1]
        self._next = torch.zeros(batch, dtype=torch.long, device=device)  # by lane, as is:
        self._due = self._time_of(torch.arange(batch, device=device), self._next)

    @property
    def due(self) -> Tensor | None:
        """The next output time of each lane, infinite beyond the last; None without any."""
        return self._due

    def keep(self, lanes: Tensor) -> None:
        """Only these lanes are left."""
        self._next = self._next.index_select(0, lanes)
        if self._due is not None:
            self._due = self._due.index_select(0, lanes)

    def _time_of(self, samples: Tensor, number: Tensor) -> Tensor | None:
        """The output time of each sample with that number; infinity beyond the last."""
        if self.ts is None:
            return None
        last = number.clamp(max=self._count - 1)
        found = self.ts[samples, last]
        return found.masked_fill(number >= self._count, torch.inf)

    def initial(self, t0: Tensor) -> Output | None:
        """The rows that are initial states; `ends` are the samples."""
        everyone = torch.arange(len(t0), device=t0.device)
        none = everyone[:0]
        ends = [everyone] if self.save.t0 else []
        if self.ts is not None and not self.recording:
            count = torch.searchsorted(self.ts, t0.unsqueeze(1), right=True).squeeze(1)
            ends.append(torch.repeat_interleave(everyone, count))
            self._next = count
            self._due = self._time_of(everyone, count)
        owners = torch.cat(ends) if ends else none
        if not owners.shape[0]:
            return None
        owners = owners.sort(stable=True).values
        slots = self._slots(owners)
        clocks = t0.index_select(0, owners)
        return Output(none, t0[:0], none, owners, owners, slots, clocks)

    def output(
        self,
        samples: Tensor,
        t: Tensor,
        t_next: Tensor,
        taken: Tensor | None,
        arrived: Tensor | None,
    ) -> Output | None:
        """The rows that steps from `t` to `t_next` give.

        Args:
            samples: of the lanes, shape (lanes,).
            t, t_next: where the steps begin and end.
            taken: which lanes took theirs; None for all.
            arrived: positions of those that reached the end of their solve; None for none.
        """
        passed = self._passed(samples, t_next, taken)
        last = None if passed is None else passed[:2]
        ends = self._ends(t_next, taken, arrived, last)
        if ends is not None and not ends.shape[0]:
            ends = None
        dense = self._dense(t, t_next, taken)
        if passed is None and ends is None and dense is None:
            return None
        none = samples[:0]
        owners, times, wanted = passed or (none, t_next[:0], none)
        ends = none if ends is None else ends
        at_end = none
        if owners.shape[0] and not self.recording:
            exact = times == t_next.index_select(0, owners)
            at_end = owners[exact]
            owners, times, wanted = owners[~exact], times[~exact], wanted[~exact]
        # Of a lane's rows those between come first, then those asked for at the end.
        every = torch.cat([owners, at_end, ends])
        rows = samples.index_select(0, every)
        slots = self._slots(rows) if owners.shape[0] or at_end.shape[0] else self._single(rows)
        at_end = torch.cat([at_end, ends])
        clocks = torch.cat([times, t_next.index_select(0, at_end)])
        output = Output(owners, times, wanted, at_end, rows, slots, clocks)
        return output if dense is None else self._with_dense(output, samples, *dense)

    def _dense(
        self, t: Tensor, t_next: Tensor, taken: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """Lanes and times of the nodes of dense output, step by step."""
        if self.nodes is None:
            return None
        long = t_next > t  # a step of no length is no piece of a solution
        lanes = (long if taken is None else long & taken).nonzero().squeeze(1)
        if not lanes.shape[0]:
            return None
        start, end = (time.index_select(0, lanes).unsqueeze(1) for time in (t, t_next))
        times = torch.where(self.nodes == 1.0, end, start + self.nodes * (end - start))
        return lanes.repeat_interleave(len(self.nodes)), times.reshape(-1)

    @staticmethod
    def _with_dense(output: Output, samples: Tensor, owners: Tensor, times: Tensor) -> Output:
        """The output with these nodes after its other rows between the ends of steps."""
        place = len(output.owners)

        def among(rows: Tensor, nodes: Tensor) -> Tensor:
            return torch.cat([rows[:place], nodes, rows[place:]])

        return output._replace(
            owners=torch.cat([output.owners, owners]),
            times=torch.cat([output.times, times]),
            samples=among(output.samples, samples.index_select(0, owners)),
            slots=among(output.slots, torch.full_like(owners, -1)),
            clocks=among(output.clocks, times),
        )

    def _passed(
        self, samples: Tensor, t_next: Tensor, taken: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Lanes, times and numbers of the output times that lanes have passed."""
        if self._due is None or self.ts is None:
            return None
        due = self._due <= t_next
        if taken is not None:
            due &= taken
        if not bool(due.any()):
            return None
        lanes = due.nonzero().squeeze(1)
        who, first = samples.index_select(0, lanes), self._next.index_select(0, lanes)
        until = t_next.detach().index_select(0, lanes).unsqueeze(1)
        after = torch.searchsorted(self.ts.index_select(0, who), until, right=True).squeeze(1)
        counts = after - first
        owners = torch.repeat_interleave(lanes, counts)
        numbers = torch.repeat_interleave(first, counts) + _ranks(counts)
        wanted = samples.index_select(0, owners) * self._count + numbers
        self._next = self._next.index_copy(0, lanes, after)
        following = self._time_of(who, after)
        assert following is not None
        self._due = self._due.index_copy(0, lanes, following)
        return owners, self.ts.view(-1).index_select(0, wanted), wanted

    def _ends(
        self,
        t_next: Tensor,
        taken: Tensor | None,
        arrived: Tensor | None,
        passed: tuple[Tensor, Tensor] | None,
    ) -> Tensor | None:
        """Lanes whose step's end is a row by itself."""
        if not self.save.steps:
            return arrived if self.save.keeps_t1 else None
        wanted = torch.ones_like(t_next, dtype=torch.bool) if taken is None else taken.clone()
        if passed is not None:  # a step that ends at an output time is one row, not two
            owners, times = passed
            wanted[owners[times == t_next.index_select(0, owners)]] = False
        return wanted.nonzero().squeeze(1)

    def _single(self, samples: Tensor) -> Tensor:
        """Slots for one row of each of these samples."""
        slots = self.filled.index_select(0, samples)
        self.filled = self.filled.index_copy(0, samples, slots + 1)
        return slots

    def _slots(self, samples: Tensor) -> Tensor:
        """Slots for rows of these samples, in order; the rows count as filled."""
        order = samples.argsort(stable=True)
        counts = torch.bincount(samples, minlength=len(self.filled))
        ranks = torch.empty_like(samples)
        ranks[order] = _ranks(counts)
        slots = self.filled.index_select(0, samples) + ranks
        self.filled = self.filled + counts
        return slots


def _ranks(counts: Tensor) -> Tensor:
    """0 ... c - 1 for each count c, one after another."""
    ends = counts.cumsum(0)
    everything = torch.arange(int(ends[-1]) if ends.shape[0] else 0, device=counts.device)
    return everything - torch.repeat_interleave(ends - counts, counts)
