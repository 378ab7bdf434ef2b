"""The adjoint equation of each sample: what is solved in reverse by lanes, and integrated along.

In the reverse clock s = -u, with f the field by the clock u and a = dL/dy,

    dy/ds = -f,    da/ds = a^T df/dy,    dL/dtheta = int a^T df/dtheta ds.

Parameters belong to all samples. Their adjoint feeds back into nothing, so it is no part of a
lane's state: it is an integral over the steps that were accepted, by the method's own weights, and
one vector-Jacobian product over the stages of all lanes gives a round's share of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..capture import Guard, operations_so_far
from ..samples import LaneField, SampleField
from ..solvers.lanes import LaneQuadrature
from .base import ParameterGradients, pulled_back

__all__ = ["AdjointLanes", "AdjointSamples", "ReversedLanes"]


class AdjointSamples:
    """States and adjoints of some samples, side by side; stands in for a `SampleField`.

    Args:
        field: of the forward solve.
        working: the samples that are solved for, shape (n,).
        captured: the tensors that are to receive a gradient.
        guard: sees to it that no tensor is missed.

    Attributes:
        totals: gradients of the captured tensors so far.
    """

    def __init__(
        self, field: SampleField, working: Tensor, captured: Sequence[Tensor], guard: Guard
    ) -> None:
        self.field, self.working = field, working
        self.captured, self.guard = captured, guard
        self.packing, self.width = field.packing, field.width
        self.totals = ParameterGradients(len(captured))
        forward = torch.ones(field.batch, dtype=torch.float64, device=working.device)
        self.signs = -(forward if field.signs is None else field.signs)[working]

    @property
    def batch(self) -> int:
        """Number of samples that are solved for."""
        return len(self.working)

    @property
    def evaluations(self) -> int:
        """Calls of the field so far."""
        return self.field.evaluations

    def lanes(self, samples: Tensor | None) -> LaneField:
        """The field of the forward solve for some samples, by their place among the working."""
        if samples is None and self.batch == self.field.batch:
            return self.field.at(None)
        return self.field.at(self.working if samples is None else self.working[samples])

    def at(self, samples: Tensor | None) -> AdjointLanes:
        """The adjoint equation for some samples; for all with None."""
        return AdjointLanes(self, self.lanes(samples), samples)

    def gather(self, samples: Tensor, nodes: LaneQuadrature) -> None:
        """Add what steps are worth to the captured tensors.

        Args:
            samples: whose steps they are, shape (lanes,).
            nodes: the stages of those steps.
        """
        if not self.captured:
            return
        count = nodes.times.shape[0]
        states, adjoints = nodes.states.flatten(0, 1).split(self.width, 1)
        cotangents = nodes.weights.reshape(-1, 1) * adjoints
        with torch.enable_grad():
            leaf = states.detach().requires_grad_()  # the guard counts operations by it
            before = operations_so_far(leaf)
            slopes = self.lanes(samples.repeat(count))(-nodes.times.reshape(-1), leaf)
            size = operations_so_far(leaf) - before
        if slopes.requires_grad:
            self.guard.check([slopes], [leaf], ("quadrature", size))
            self.totals.add(pulled_back([slopes], [cotangents], self.captured))


class AdjointLanes:
    """The adjoint equation for the lanes of a moment.

    Args:
        owner: for all samples.
        lanes: the field of the forward solve for these.
        samples: which they are, by their place among the working; None for all.
    """

    def __init__(self, owner: AdjointSamples, lanes: LaneField, samples: Tensor | None) -> None:
        self.owner, self.field, self.samples = owner, lanes, samples

    @property
    def count(self) -> int:
        """Number of lanes."""
        return self.field.count

    def of(self, lanes: Tensor) -> AdjointLanes:
        """The equation for some of the lanes, by their positions."""
        samples = lanes if self.samples is None else self.samples.index_select(0, lanes)
        return AdjointLanes(self.owner, self.field.of(lanes), samples)

    def __call__(self, t: Tensor, state: Tensor) -> Tensor:
        """Rates of change of states and adjoints by the reverse clock, shape (lanes, 2 width)."""
        owner = self.owner
        y, adjoint = state.split(owner.width, 1)
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            before = operations_so_far(leaf)
            slope = self.field(-t, leaf)
            size = operations_so_far(leaf) - before
        if not slope.requires_grad:  # a field that depends on nothing but t
            return torch.cat([-slope, torch.zeros_like(adjoint)], 1)
        owner.guard.check([slope], [leaf], size)
        (rate,) = pulled_back([slope], [adjoint], [leaf])
        rate = torch.zeros_like(adjoint) if rate is None else rate
        return torch.cat([-slope.detach(), rate], 1)


class ReversedLanes:
    """The field alone, by the reverse clock."""

    def __init__(self, lanes: LaneField) -> None:
        self.field = lanes

    def of(self, lanes: Tensor) -> ReversedLanes:
        """The field for some of the lanes."""
        return ReversedLanes(self.field.of(lanes))

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/ds."""
        return -self.field(-t, y)
