"""The pinwheel: five blades, each a stretched Gaussian that is bent around the origin.

Drawn as by Johnson et al. (2016, "Composing graphical models with neural networks for structured
representations and fast inference"), with the settings of FFJORD's toy code (Grathwohl et al.
2019): a feature (r, t) is normal with mean (1, 0) and standard deviations 0.3 and 0.1, turned about
the origin by 2 pi k / 5 + 0.25 exp(r) for a blade k drawn at random, and doubled.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .plane import check_points

__all__ = ["pinwheel_log_density", "sample_pinwheel"]

BLADES = 5
RADIAL_STD = 0.3
TANGENTIAL_STD = 0.1
RATE = 0.25
SIZE = 2.0

# Where preimages are looked for: intervals of a turn, and Newton's steps in each. Where a blade
# folds over itself, some five standard deviations out, two preimages may share an interval and be
# missed. That loses 2e-9 of the mass.
INTERVALS = 256
NEWTON_STEPS = 6
CHUNK = 4096


def sample_pinwheel(n: int, generator: torch.Generator) -> Tensor:
    """Draw `n` points, ``(n, 2)``, float32."""
    device = generator.device
    r, t = torch.randn(2, n, generator=generator, device=device)
    r, t = 1 + RADIAL_STD * r, TANGENTIAL_STD * t
    blade = torch.randint(BLADES, (n,), generator=generator, device=device)
    # The usual code multiplies by the transposed rotation: a negative turn.
    turn = -(blade * (2 * math.pi / BLADES) + RATE * r.exp())
    cos, sin = turn.cos(), turn.sin()
    return SIZE * torch.stack([r * cos - t * sin, r * sin + t * cos], dim=1)


def pinwheel_log_density(x: Tensor) -> Tensor:
    """Log density at `x`, ``(n, 2) -> (n,)``, exact to rounding but in the outermost tails.

    A turn keeps the radius. So in polar coordinates the only unknown is the angle phi of the
    feature before the turn: ``psi = phi - 0.25 exp(rho cos phi) (mod 2 pi / 5)``, and the density
    is the sum over its roots of the feature's density, divided by ``|d psi / d phi|``. The roots
    are as many as the blades, except far out, where blades fold over themselves.
    """
    check_points(x, "x")
    return torch.cat([_log_density(part) for part in x.double().split(CHUNK)]).to(x.dtype)


def _log_density(x: Tensor) -> Tensor:
    x = x / SIZE
    rho = torch.linalg.vector_norm(x, dim=-1)
    psi = torch.atan2(x[:, 1], x[:, 0])
    with torch.no_grad():
        point, phi = _roots(rho, psi)
    # One more step of Newton, now in the graph: the derivative of a root follows from it.
    at, angle = rho[point], psi[point]
    blade = 2 * math.pi / BLADES
    error = torch.remainder(_turned(phi, at) - angle + blade / 2, blade) - blade / 2
    phi = phi - error / _slope(phi, at).detach()
    r, t = at * phi.cos(), at * phi.sin()
    log_each = (
        -0.5 * ((r - 1) / RADIAL_STD) ** 2
        - 0.5 * (t / TANGENTIAL_STD) ** 2
        - _slope(phi, at).abs().log()
    )
    # logsumexp over the roots of each point.
    largest = torch.full_like(rho, -math.inf)
    largest = largest.scatter_reduce(0, point, log_each.detach(), "amax")
    total = torch.zeros_like(rho).index_add(0, point, (log_each - largest[point]).exp())
    normal = 2 * math.pi * RADIAL_STD * TANGENTIAL_STD
    return largest + total.log() - math.log(BLADES * normal * SIZE**2)


def _turned(phi: Tensor, rho: Tensor) -> Tensor:
    return phi - RATE * _exp(rho * phi.cos())


def _slope(phi: Tensor, rho: Tensor) -> Tensor:
    return 1 + RATE * rho * phi.sin() * _exp(rho * phi.cos())


def _exp(r: Tensor) -> Tensor:
    # The clamp changes nothing where there is mass, and keeps points at any distance finite.
    return r.clamp(max=50).exp()


def _roots(rho: Tensor, psi: Tensor) -> tuple[Tensor, Tensor]:
    """Every feature angle that is turned into `psi` by some blade: index of the point, angle."""
    grid = torch.linspace(-math.pi, math.pi, INTERVALS + 1, dtype=rho.dtype, device=rho.device)
    blade = 2 * math.pi / BLADES
    # How many blades lie below the turned angle; where that changes, a blade is met.
    turned = (_turned(grid, rho[:, None]) - psi[:, None]) / blade
    count = turned.floor()
    point, interval = (count[:, 1:] != count[:, :-1]).nonzero(as_tuple=True)
    low, high = grid[interval], grid[interval + 1]
    value_low, value_high = turned[point, interval], turned[point, interval + 1]
    level = torch.maximum(count[point, interval], count[point, interval + 1])
    phi = low + (high - low) * (level - value_low) / (value_high - value_low)
    at = rho[point]
    target = level * blade + psi[point]
    for _ in range(NEWTON_STEPS):
        step = (_turned(phi, at) - target) / _slope(phi, at)
        # A root lies between its neighbours on the grid; where blades fold, Newton may leave.
        phi = torch.minimum(torch.maximum(phi - step, low), high)
    return point, phi
