"""The continuous solutions of samples: of each step of each lane a polynomial, by its values.

Values at nodes are rows of output, so whatever gives those a gradient gives the continuous
solution its own. Nodes stay where they are when an end of the solve moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..samples import PerSample, SampleField, SampleProblem
from ..solvers.lane_methods import LaneMethod
from ..state import State, tree_rebuild
from .nodal import NODAL_CENTRE, lagrange
from .rounds import SampleOutcome

__all__ = ["SampleDense", "dense_nodes"]


def dense_nodes(stepper: LaneMethod, problem: SampleProblem) -> Tensor:
    """Parts of a step at which its interpolant is to be known, shape (degree + 1,)."""
    return lagrange(stepper.degree).nodes.to(problem.t0.device)


@dataclass(frozen=True, slots=True)
class SampleDense:
    """Polynomials of all accepted steps of all samples.

    Attributes:
        field: knows the states and which way each sample goes.
        y0: initial states, shape (batch, width).
        t0, t_end: clocks at the ends of what was solved, shape (batch,).
        starts, ends: clocks at the ends of steps, rising, shape (batch, most), then infinity.
        first: which of the polynomials each sample's first is, shape (batch,).
        values: at the nodes, shape (steps, degree + 1, width).
    """

    field: SampleField
    y0: Tensor
    t0: Tensor
    t_end: Tensor
    starts: Tensor
    ends: Tensor
    first: Tensor
    values: Tensor

    @classmethod
    def of(cls, problem: SampleProblem, outcome: SampleOutcome, rows: Tensor) -> SampleDense:
        """Out of all the rows of a solve, shape (rows, width), those that are nodes."""
        field, t0, y0 = problem.field, problem.t0, problem.y0
        outputs = [*([] if outcome.initial is None else [outcome.initial]), *outcome.outputs]
        nobody = t0.new_empty(0, dtype=torch.long)
        slots = torch.cat([nobody, *(output.slots for output in outputs)])
        samples = torch.cat([nobody, *(output.samples for output in outputs)])
        clocks = torch.cat([t0[:0], *(output.clocks for output in outputs)])
        nodes = (slots < 0).nonzero().squeeze(1)
        # Rows come in the order of each sample's time, and the nodes of a step side by side.
        order = nodes[samples[nodes].argsort(stable=True)]
        owners = samples[order].view(-1, outcome.nodes)[:, 0]
        bounds = clocks[order].view(-1, outcome.nodes)
        values = rows.index_select(0, order).view(-1, outcome.nodes, rows.shape[1])
        counts = torch.bincount(owners, minlength=field.batch)
        first = counts.cumsum(0) - counts
        ranks = torch.arange(len(owners), device=t0.device) - first[owners]
        most = int(counts.max())
        starts, ends = t0.new_full((2, field.batch, max(1, most)), torch.inf)
        starts[owners, ranks], ends[owners, ranks] = bounds[:, 0], bounds[:, -1]
        return cls(field, y0, t0, outcome.t_end, starts, ends, first, values)

    def __call__(self, t: Any) -> State:
        """States at times of all samples, or of each; see `Solution.__call__`."""
        marked = isinstance(t, PerSample)
        device, batch = self.t0.device, self.field.batch
        times = torch.as_tensor(t.value if marked else t, dtype=torch.float64, device=device)
        if marked:
            if times.ndim not in (1, 2) or times.shape[0] != batch:
                raise InputError(
                    "t", f"PerSample of shape {tuple(times.shape)}", f"({batch},) or ({batch}, m)"
                )
            single, matrix = times.ndim == 1, times.reshape(batch, -1)
        elif times.ndim > 1:
            expected = "a scalar, shape (m,), or PerSample of times of each sample"
            raise InputError("t", f"shape {tuple(times.shape)}", expected)
        else:
            single, matrix = times.ndim == 0, times.reshape(1, -1).expand(batch, -1)
        signs = self.field.signs
        clocks = matrix if signs is None else signs.unsqueeze(1) * matrix
        self._check(matrix.detach(), clocks.detach())
        rows = self._rows(clocks)
        return self.field.unpack(rows) if single else self._many(rows, matrix.shape[1])

    def _check(self, times: Tensor, clocks: Tensor) -> None:
        """Raise unless all clocks, shape (batch, m), are within what was solved."""
        start, end = self.t0.unsqueeze(1), self.t_end.unsqueeze(1)
        outside = ~((clocks >= start) & (clocks <= end))
        if bool(outside.any()):
            sample, number = outside.nonzero()[0].tolist()
            sign = 1.0 if self.field.signs is None else float(self.field.signs[sample])
            ends = [sign * float(time[sample]) + 0.0 for time in (self.t0, self.t_end)]
            given = f"{times[sample, number].item()} for sample {sample}"
            raise InputError("t", given, f"a time within {ends}")

    def _rows(self, clocks: Tensor) -> Tensor:
        """States at clocks, shape (batch, m): those of all samples for each of the m in turn."""
        counts = self.ends.isfinite().sum(1, keepdim=True)
        place = torch.searchsorted(self.ends, clocks.detach().contiguous())
        place = torch.minimum(place, (counts - 1).clamp(min=0))
        start, end = self.starts.gather(1, place), self.ends.gather(1, place)
        still = counts == 0  # these stand at their start
        theta = torch.where(still, 0.0, (clocks - start) / (end - start)).t().reshape(-1)
        first = self.y0.repeat(clocks.shape[1], 1)
        if not len(self.values):
            return first
        chosen = (self.first.unsqueeze(1) + place).clamp(max=len(self.values) - 1)
        values = self.values.index_select(0, chosen.t().reshape(-1))
        found = values[:, 0]
        for node, part in enumerate(_basis(theta, values.shape[1] - 1), 1):
            weight = part.to(values.dtype).unsqueeze(-1)
            found = torch.addcmul(found, values[:, node] - values[:, 0], weight)
        if not bool(still.any()):
            return found
        stands = still.expand_as(place).t().reshape(-1, 1)
        return torch.where(stands, first, found)

    def _many(self, rows: Tensor, count: int) -> State:
        """The state of so many times, which lead."""
        state, packing = self.field.unpack(rows), self.field.packing
        leaves = [state] if packing.single else packing.leaves(state)
        shaped = [leaf.unflatten(0, (count, self.field.batch)) for leaf in leaves]
        return shaped[0] if packing.single else tree_rebuild(packing.template, iter(shaped))


def _basis(theta: Tensor, degree: int) -> Tensor:
    """Lagrange's polynomials of all nodes but the first at parts of steps, shape (degree, m).

    By Horner's rule: a matrix product's rounding may depend on its shape.
    """
    weights = lagrange(degree).weights.to(theta.device).unsqueeze(-1)
    found = weights[:, -1] * torch.ones_like(theta)
    for power in range(degree - 2, -1, -1):
        found = weights[:, power] + found * (theta - NODAL_CENTRE)
    return found * theta
