"""The paper's field for flows: a sum of planar units whose weights depend on time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import InputError

__all__ = ["PlanarField"]


def _refuse(context: Tensor | None) -> None:
    if context is not None:
        raise InputError("context", "one", "none: a planar field has no place for it")


class PlanarField(nn.Module):
    """dz/dt = 1/M sum_n s_n(t) u_n(t) tanh(w_n(t)^T z + b_n(t)), Chen et al. 2018, section 4.

    The trace of a sum is the sum of the traces, so M units cost O(M), where a discrete flow of M
    hidden units would need a determinant at O(M^3). A hypernetwork of t gives u, w, b and the
    gates s in (0, 1), with which units are switched on and off along the way.

    Args:
        features: Dimension of z.
        units: M.
        hidden: Width of the hypernetwork's two hidden layers.

    Shape:
        t: ``()`` or ``(batch,)``; z and the answer: ``(batch, features)``.

    Raises:
        InputError: If a size is not positive.
    """

    def __init__(self, features: int, units: int = 64, hidden: int = 32) -> None:
        super().__init__()
        for name, value in (("features", features), ("units", units), ("hidden", hidden)):
            if value < 1:
                raise InputError(name, str(value), "at least 1")
        self.features = features
        self.units = units
        self.weights_at = nn.Sequential(
            nn.Linear(1, hidden),
            nn.Tanh(),
            nn.Linear(hidden, hidden),
            nn.Tanh(),
            nn.Linear(hidden, units * (2 * features + 2)),
        )

    def forward(self, t: Tensor, z: Tensor, context: None = None) -> Tensor:
        """Evaluate dz/dt."""
        _refuse(context)
        weight, bias, direction = self._units(t)
        return self._sum(torch.tanh(self._project(z, weight) + bias), direction)

    def with_divergence(self, t: Tensor, z: Tensor, context: None = None) -> tuple[Tensor, Tensor]:
        """Evaluate dz/dt and its divergence, shape (batch,), together."""
        _refuse(context)
        weight, bias, direction = self._units(t)
        active = torch.tanh(self._project(z, weight) + bias)
        along = (weight * direction).sum(-1)
        # The derivative of tanh is 1 - tanh^2.
        if along.ndim == 1:
            divergence = along.sum() - active.square() @ along
        else:
            divergence = along.sum(-1) - (active.square() * along).sum(-1)
        return self._sum(active, direction), divergence

    def _units(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """w, b and s u / M at the time(s) t: (M, d), (M,), (M, d), led by t's own shape."""
        m, d = self.units, self.features
        flat = self.weights_at(t.unsqueeze(-1))
        weight, direction, bias, gate = flat.split([m * d, m * d, m, m], dim=-1)
        weight = weight.unflatten(-1, (m, d))
        opened = torch.sigmoid(gate).unsqueeze(-1) / m
        return weight, bias, direction.unflatten(-1, (m, d)) * opened

    @staticmethod
    def _project(z: Tensor, weight: Tensor) -> Tensor:
        """w_n^T z, shape (batch, M)."""
        if weight.ndim == 2:
            return z @ weight.t()
        return (weight @ z.unsqueeze(-1)).squeeze(-1)

    @staticmethod
    def _sum(active: Tensor, direction: Tensor) -> Tensor:
        """Sum over the units, shape (batch, d)."""
        if direction.ndim == 2:
            return active @ direction
        return (active.unsqueeze(-2) @ direction).squeeze(-2)

    def extra_repr(self) -> str:
        """Describe the sizes."""
        return f"features={self.features}, units={self.units}"
