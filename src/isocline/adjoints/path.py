"""A solved trajectory kept whole: on each step a polynomial, by its values at nodes.

The interpolant of a step, a polynomial of some degree D, is one and the same as its values at
D + 1 times. Kept so, it takes fewer vectors than stages, and its values are states: a loss on the
continuous solution is a loss on states at fixed times, which any adjoint can differentiate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..integrate import NODAL_CENTRE as CENTRE
from ..integrate import lagrange
from ..solvers.base import DensePiece

__all__ = ["Path", "lagrange", "nodal_values"]


def nodal_values(pieces: list[DensePiece], ends: list[float]) -> Tensor:
    """Values of all pieces, each up to its end, at the nodes of their highest degree.

    Empties `pieces`, so that not all of both is held at once.

    Returns:
        Shape (steps, D + 1, N).
    """
    degree = max(piece.weights.shape[1] for piece in pieces)
    nodes = lagrange(degree).nodes
    found: list[Tensor] = []
    for end in reversed(ends):
        piece = pieces.pop()
        found.append(piece.at(piece.t + nodes * (end - piece.t)))
    return torch.stack(found[::-1])


class Path:
    """The trajectory of a solve.

    Args:
        t0: where it starts.
        ends: where its steps end; the last may end before the end of its step's polynomial.
        values: at the nodes of each step, shape (steps, D + 1, N).
    """

    def __init__(self, t0: float, ends: list[float], values: Tensor) -> None:
        self.bounds, self.values = [t0, *ends], values
        self._direction = 1 if ends[-1] >= t0 else -1
        bounds = torch.tensor(self.bounds, dtype=torch.float64, device=values.device)
        self._starts, self._lengths = bounds[:-1], bounds.diff()
        self._rising = self._direction * bounds[1:]
        self._basis = lagrange(values.shape[1] - 1)
        self._weights = self._basis.weights.to(values.device)
        self._exponents = torch.arange(len(self._weights), device=values.device)

    def at(self, t: Tensor) -> Tensor:
        """The state at the 0-d time t on the state's device, shape (N,); nothing is read back."""
        time = t.detach().to(torch.float64).reshape(1)
        step = torch.searchsorted(self._rising, self._direction * time)
        step = step.clamp(max=len(self._rising) - 1)
        theta = (time - self._starts[step]) / self._lengths[step]
        others = self._weights @ (theta * (theta - CENTRE) ** self._exponents)
        basis = torch.cat([1 - others.sum(0, keepdim=True), others])
        return basis.to(self.values.dtype) @ self.values.index_select(0, step)[0]

    def at_number(self, t: float) -> Tensor:
        """The same at a time on the host."""
        return self.at(torch.tensor(t, dtype=torch.float64, device=self.values.device))

    @property
    def times(self) -> list[float]:
        """Times of all values, step by step."""
        found: list[float] = []
        nodes = self._basis.nodes.tolist()
        for t, end in zip(self.bounds[:-1], self.bounds[1:], strict=True):
            found += [*(t + node * (end - t) for node in nodes[:-1]), end]
        return found

    def pieces(self, values: Tensor) -> tuple[DensePiece, ...]:
        """The continuous solution made of `values`, these nodes' own, which may carry a graph."""
        bounds = zip(self.bounds[:-1], self.bounds[1:], values, strict=True)
        return tuple(
            DensePiece(t, end, y[0], (y[1:] - y[0]) / (end - t), self._basis.weights, CENTRE)
            for t, end, y in bounds
        )
