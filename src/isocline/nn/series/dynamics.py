"""What a latent ODE solves: the latent state, and the integrals of its intensities."""

from __future__ import annotations

from torch import Tensor, nn

from .poisson import PoissonProcess

__all__ = ["LatentDynamics"]


class LatentDynamics(nn.Module):
    """The field of a latent state z, or of z and the integral of an intensity.

    Args:
        field: Called as ``field(t, z)``.
        events: Whose rate is integrated beside z; ``None`` for z alone.
    """

    def __init__(self, field: nn.Module, events: PoissonProcess | None) -> None:
        super().__init__()
        self.field = field
        self.events = events

    def start(self, z: Tensor) -> tuple[Tensor, ...]:
        """The state in which a solve starts from latent states ``(batch, latent)``."""
        if self.events is None:
            return (z,)
        return z, z.new_zeros(len(z), self.events.kinds)

    def forward(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The state's derivative."""
        z = state[0]
        slope: Tensor = self.field(t, z)
        return (slope,) if self.events is None else (slope, self.events.rate(z))
