"""A field that keeps volumes: the flow of a learnt Hamiltonian."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError

__all__ = ["HamiltonianField"]


class HamiltonianField(nn.Module):
    """dq/dt = dH/dp, dp/dt = -dH/dq for a network H(t, q, p); its divergence is zero.

    Greydanus, Dzamba and Yosinski 2019 ("Hamiltonian neural networks").

    Args:
        features: Dimension of z = (q, p), even.
        hidden: Width of the default network's two hidden layers.
        energy: ``energy(t, z) -> (batch,)``, with `t` of shape ``()`` or ``(batch,)``, in place of
            the default network.

    Shape:
        t: ``()`` or ``(batch,)``; z and the answer: ``(batch, features)``.

    Raises:
        InputError: If `features` is odd or not positive.
    """

    def __init__(self, features: int, hidden: int = 64, energy: nn.Module | None = None) -> None:
        super().__init__()
        if features < 2 or features % 2:
            raise InputError("features", str(features), "an even number: positions and momenta")
        if hidden < 1:
            raise InputError("hidden", str(hidden), "at least 1")
        self.energy = _Energy(features, hidden) if energy is None else energy

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Evaluate dz/dt."""
        slope: Tensor = torch.func.grad(lambda z: self.energy(t, z).sum())(z)
        of_position, of_momentum = slope.chunk(2, dim=-1)
        return torch.cat([of_momentum, -of_position], dim=-1)

    def with_divergence(self, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate dz/dt; the divergence is zero, shape (batch,)."""
        return self(t, z), z.new_zeros(len(z))


class _Energy(nn.Module):
    """Softplus network of (t, z): smooth, and with second derivatives."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features + 1, hidden),
            nn.Softplus(),
            nn.Linear(hidden, hidden),
            nn.Softplus(),
            nn.Linear(hidden, 1),
        )

    def forward(self, t: Tensor, z: Tensor) -> Any:
        t = t.to(z.dtype).unsqueeze(-1).expand(len(z), 1)
        return self.layers(torch.cat([t, z], dim=-1)).squeeze(-1)
