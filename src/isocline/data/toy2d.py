"""Point sets in the plane, drawn afresh at every call, with their true log densities.

The usual toys of normalizing flows. A trainer draws new points in every iteration, so a flow
cannot overfit; and since each density is known, its mean over samples tells the best log
likelihood that any model can reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .pinwheel import pinwheel_log_density, sample_pinwheel
from .plane import Bounds, check_points

__all__ = ["TOY2D", "Toy2D"]

# Standard deviation of the noise on circles and moons, radius of the inner circle.
NOISE = 0.06
FACTOR = 0.5

# Mean and standard deviation of the raw moons, as rounded numbers, so that the set is the same
# whatever sample one would have measured them on.
MOONS_SHIFT = (0.5, 0.25)
MOONS_SCALE = (0.868, 0.498)

# Gauss-Legendre nodes on half a turn. Seen from radius r, the noise takes up an angle of about
# 0.06 / sqrt(r); 128 nodes resolve that to 1e-10 for r < 2 and to 1e-6 in the corners of the plot.
NODES = 128

# FFJORD's toy code (Grathwohl et al. 2019): radius 4 and noise 0.5, both divided by sqrt(2).
GAUSSIANS = 8
GAUSSIANS_RADIUS = 4 / math.sqrt(2)
GAUSSIANS_STD = 0.5 / math.sqrt(2)

# Points at once in a density that looks at many nodes for each point.
CHUNK = 8192


@dataclass(frozen=True)
class Toy2D:
    """A distribution in the plane.

    Attributes:
        name: Its name in `TOY2D`.
        sample: ``(n, generator) -> (n, 2)``, float32, independent points; on the device of the
            generator, on which alone they depend.
        log_density: ``(n, 2) -> (n,)``, the normalised log density in nats. It computes in double
            precision, answers in the type of its argument, and is differentiable, save that of
            the checkerboard, which is flat. ``None`` where it is not known.
        bounds: Rectangle that shows nearly all of the mass: left, right, bottom, top.
        entropy: Nats per point, which is the lowest mean negative log likelihood that any model
            can reach; integrated on a grid of the plane. ``None`` with the log density.
    """

    name: str
    sample: Callable[[int, torch.Generator], Tensor]
    log_density: Callable[[Tensor], Tensor] | None
    bounds: Bounds
    entropy: float | None


def _uniform(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator, device=generator.device)


def _normal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, 2, generator=generator, device=generator.device)


def _choice(n: int, among: int, generator: torch.Generator) -> Tensor:
    return torch.randint(among, (n,), generator=generator, device=generator.device)


# scikit-learn spaces the angles of its circles and moons evenly (linspace) and puts exactly half
# of the points on each curve, which is a fixed set plus noise. Here angle and curve are drawn at
# random, so that points are independent; the distribution that both fill is the same.


def _sample_circles(n: int, generator: torch.Generator) -> Tensor:
    angle = 2 * math.pi * _uniform(n, generator)
    radius = 1 - (1 - FACTOR) * _choice(n, 2, generator)
    curve = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return curve + NOISE * _normal(n, generator)


def _circles_log_density(x: Tensor) -> Tensor:
    """Both rings with equal weight: a uniform angle, convolved with a normal, in closed form.

    The integral of exp(k cos t) over a turn is 2 pi I0(k); with the scaled Bessel function
    exp(-k) I0(k), no exponential overflows.
    """
    check_points(x, "x")
    rho = torch.linalg.vector_norm(x.double(), dim=-1)
    rings = [
        torch.special.i0e(rho * radius / NOISE**2).log() - 0.5 * ((rho - radius) / NOISE) ** 2
        for radius in (1.0, FACTOR)
    ]
    log_sum = torch.logaddexp(*rings)
    return (log_sum - math.log(2) - math.log(2 * math.pi * NOISE**2)).to(x.dtype)


def _sample_moons(n: int, generator: torch.Generator) -> Tensor:
    angle = math.pi * _uniform(n, generator)
    upper = torch.stack([angle.cos(), angle.sin()], dim=1)
    # The lower moon is the upper one turned by half a turn about (0.5, 0.25).
    shift = upper.new_tensor(MOONS_SHIFT)
    lower = 2 * shift - upper
    on_lower = _choice(n, 2, generator).bool()[:, None]
    raw = torch.where(on_lower, lower, upper) + NOISE * _normal(n, generator)
    return (raw - shift) / raw.new_tensor(MOONS_SCALE)


def _moons_log_density(x: Tensor) -> Tensor:
    """Both half circles by quadrature over the angle, and the Jacobian of the standardisation."""
    check_points(x, "x")
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    angle = torch.from_numpy(0.5 * math.pi * (nodes + 1)).to(x.device)
    curve = torch.stack([angle.cos(), angle.sin()], dim=1)
    log_weights = torch.from_numpy(weights / 2).log().to(x.device)
    scale = x.new_tensor(MOONS_SCALE, dtype=torch.float64)
    shift = x.new_tensor(MOONS_SHIFT, dtype=torch.float64)
    # The constant of the noise, and one half for either moon, less log |d x / d raw|.
    constant = math.log(2) + math.log(2 * math.pi * NOISE**2) - float(scale.log().sum())

    def moon(raw: Tensor) -> Tensor:
        # |raw - curve|^2 with |curve| = 1: one product of matrices in place of a big difference.
        half_square = 0.5 * (raw.square().sum(-1, keepdim=True) + 1) - raw @ curve.T
        return torch.logsumexp(log_weights - half_square / NOISE**2, dim=-1)

    parts = []
    for part in x.double().split(CHUNK):
        raw = part * scale + shift
        parts.append(torch.logaddexp(moon(raw), moon(2 * shift - raw)) - constant)
    return torch.cat(parts).to(x.dtype)


def _sample_checkerboard(n: int, generator: torch.Generator) -> Tensor:
    column = _choice(n, 4, generator) - 2
    row = 2 * _choice(n, 2, generator) - 2 + column % 2
    # The largest number below one would round up into the next square, where the density is zero.
    place = [_uniform(n, generator).clamp(max=1 - 2**-23) for _ in range(2)]
    return torch.stack([column + place[0], row + place[1]], dim=1)


def _checkerboard_log_density(x: Tensor) -> Tensor:
    """Uniform on 8 unit squares, so -log 8 on them and minus infinity elsewhere.

    The usual board on [-4, 4]^2 has 8 squares of area 4 and the log density -log 32. This one is
    half as large, on [-2, 2]^2, which gives each coordinate a standard deviation of 1.15, near
    that of a standard normal base.
    """
    check_points(x, "x")
    inside = (x.abs() <= 2).all(-1)
    square = x.floor().clamp(-2, 1).sum(-1) % 2 == 0
    level = x.new_full(x.shape[:-1], -math.log(8))
    return torch.where(inside & square, level, -math.inf)


def _gaussian_centres(like: Tensor) -> Tensor:
    angle = torch.arange(GAUSSIANS, dtype=like.dtype, device=like.device) * (2 * math.pi / 8)
    return GAUSSIANS_RADIUS * torch.stack([angle.cos(), angle.sin()], dim=1)


def _sample_gaussians(n: int, generator: torch.Generator) -> Tensor:
    noise = GAUSSIANS_STD * _normal(n, generator)
    return _gaussian_centres(noise)[_choice(n, GAUSSIANS, generator)] + noise


def _gaussians_log_density(x: Tensor) -> Tensor:
    check_points(x, "x")
    exact = x.double()
    square = (exact[..., None, :] - _gaussian_centres(exact)).square().sum(-1)
    log_sum = torch.logsumexp(-0.5 * square / GAUSSIANS_STD**2, dim=-1)
    constant = math.log(GAUSSIANS * 2 * math.pi * GAUSSIANS_STD**2)
    return (log_sum - constant).to(x.dtype)


def _square(half: float) -> Bounds:
    return (-half, half, -half, half)


TOY2D: dict[str, Toy2D] = {
    toy.name: toy
    for toy in (
        Toy2D("two-circles", _sample_circles, _circles_log_density, _square(1.5), 0.787645),
        Toy2D("two-moons", _sample_moons, _moons_log_density, _square(2.5), 1.315765),
        Toy2D(
            "checkerboard",
            _sample_checkerboard,
            _checkerboard_log_density,
            _square(2.5),
            math.log(8),
        ),
        Toy2D("pinwheel", sample_pinwheel, pinwheel_log_density, _square(4.5), 2.317788),
        Toy2D("8gaussians", _sample_gaussians, _gaussians_log_density, _square(4.5), 2.831578),
    )
}
"""The point sets by name."""
