"""The four energy potentials of the plane, densities known up to a constant.

From table 1 of Rezende and Mohamed (2015, "Variational inference with normalizing flows"): targets
to be matched by minimising KL(q || p), where p is proportional to exp(-U).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .plane import Bounds, check_points

__all__ = ["POTENTIALS", "Potential", "log_normalizer"]

# The square on which the paper shows the densities, and where the wall begins.
EDGE = 4.0
# How far the density reaches into the wall; as wide as the band of U2.
WALL_STD = 0.4

# Outside of [-8, 8]^2 each of the four densities is below exp(-50) of its peak.
REACH = 8.0
INTERVALS = 1024


@dataclass(frozen=True)
class Potential:
    """An unnormalised density exp(-U), walled in where it has no finite integral by itself.

    U2, U3 and U4 are bands along the whole z1 axis. Their integral is infinite, so that
    KL(q || p) has no lower bound: a flow that spreads along z1 gains without end. The paper shows
    them on [-4, 4]^2 and says no more; much public code leaves them as they are, some (normflows)
    multiplies by a wide envelope that bends the density everywhere. Here a wall, half a Gaussian of
    standard deviation 0.4, stands at ``|z1| = 4``: within the square, the density is the paper's up
    to its constant.

    Attributes:
        name: Its name in `POTENTIALS`.
        energy: U as in the paper, ``(..., 2) -> (...)``, in the type of its argument.
        confined: Whether `log_density` adds the wall.
        bounds: The paper's square, for plots: left, right, bottom, top.
    """

    name: str
    energy: Callable[[Tensor], Tensor]
    confined: bool
    bounds: Bounds = (-EDGE, EDGE, -EDGE, EDGE)

    def log_density(self, z: Tensor) -> Tensor:
        """-U(z), less the wall if there is one: ``(..., 2) -> (...)``, differentiable."""
        check_points(z, "z")
        if not self.confined:
            return -self.energy(z)
        beyond = (z[..., 0].abs() - EDGE).clamp(min=0)
        return -self.energy(z) - 0.5 * (beyond / WALL_STD) ** 2


def log_normalizer(potential: Potential, bounds: Bounds | None = None) -> float:
    """Log of the integral of exp(log_density), by Simpson's rule.

    Args:
        potential: One of `POTENTIALS`.
        bounds: Integrate over this rectangle; ``None`` for the whole plane.

    Returns:
        Natural logarithm, correct to 1e-8 over the plane, to 1e-6 over other rectangles, whose
        nodes may miss the foot of the wall. ``KL(q || p)`` is the mean over q of
        ``log q - log_density``, plus this.

    Raises:
        InputError: If the rectangle is empty or not finite.
    """
    left, right, bottom, top = bounds or (-REACH, REACH, -REACH, REACH)
    if not (left < right and bottom < top and all(map(math.isfinite, (left, right, bottom, top)))):
        raise InputError("bounds", repr(bounds), "finite left < right and bottom < top")
    x, log_x = _simpson(left, right)
    y, log_y = _simpson(bottom, top)
    points = torch.stack(torch.meshgrid(x, y, indexing="ij"), dim=-1)
    with torch.no_grad():
        log_each = potential.log_density(points) + log_x[:, None] + log_y
    return float(log_each.flatten().logsumexp(0))


def _simpson(low: float, high: float) -> tuple[Tensor, Tensor]:
    """Nodes and log weights."""
    nodes = torch.linspace(low, high, INTERVALS + 1, dtype=torch.float64)
    weights = torch.full_like(nodes, 2.0)
    weights[1::2] = 4.0
    weights[0] = weights[-1] = 1.0
    return nodes, (weights * (high - low) / (3 * INTERVALS)).log()


# The paper takes logarithms of sums of exponentials, which underflow in single precision 5 units
# away from a band: logaddexp keeps the value and the gradient that pulls a far point back.


def _bell(x: Tensor, std: float) -> Tensor:
    return -0.5 * (x / std) ** 2


def _wave(z1: Tensor) -> Tensor:
    return torch.sin(0.5 * math.pi * z1)


def _u1(z: Tensor) -> Tensor:
    """A ring of radius 2, cut into a left and a right crescent."""
    radius = torch.linalg.vector_norm(z, dim=-1)
    sides = torch.logaddexp(_bell(z[..., 0] - 2, 0.6), _bell(z[..., 0] + 2, 0.6))
    return -_bell(radius - 2, 0.4) - sides


def _u2(z: Tensor) -> Tensor:
    """A band along a sine."""
    return -_bell(z[..., 1] - _wave(z[..., 0]), 0.4)


def _u3(z: Tensor) -> Tensor:
    """The band splits in two around z1 = 1 and closes again."""
    height = z[..., 1] - _wave(z[..., 0])
    dip = 3 * _bell(z[..., 0] - 1, 0.6).exp()
    return -torch.logaddexp(_bell(height, 0.35), _bell(height + dip, 0.35))


def _u4(z: Tensor) -> Tensor:
    """The band splits in two at z1 = 1 and stays so; the lower branch is 3 below the upper."""
    height = z[..., 1] - _wave(z[..., 0])
    step = 3 * torch.sigmoid((z[..., 0] - 1) / 0.3)
    return -torch.logaddexp(_bell(height, 0.4), _bell(height + step, 0.35))


POTENTIALS: dict[str, Potential] = {
    potential.name: potential
    for potential in (
        Potential("u1", _u1, confined=False),
        Potential("u2", _u2, confined=True),
        Potential("u3", _u3, confined=True),
        Potential("u4", _u4, confined=True),
    )
}
"""The potentials by name, in the paper's order."""
