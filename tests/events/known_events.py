"""Events whose times are known: bounces, swings of a pendulum, crossings of a rotation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from scipy.special import ellipk
from torch import Tensor

import isocline as ic

G, BOUNCE = 9.81, 0.9


def f64(*values: float) -> Tensor:
    """A float64 vector, or a scalar of one value."""
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


def fall(t: Tensor, y: Tensor) -> Tensor:
    """Free fall of (height, velocity)."""
    return torch.stack([y[1], torch.full_like(y[1], -G)])


def rebound(t: Tensor, y: Tensor) -> Tensor:
    """What a bounce makes of (height, velocity)."""
    return torch.stack([torch.zeros_like(y[0]), -BOUNCE * y[1]])


def height(t: Tensor, y: Tensor) -> Tensor:
    return y[0]


def ball(terminal: int = 20) -> ic.Event:
    """Bounces of a ball, the last of which ends the solve."""
    return ic.Event(height, rebound, terminal=terminal, direction=-1)


def bounces(
    count: int, h: Any = 2.0, gravity: Any = G, bounce: Any = BOUNCE, t0: Any = 0.0
) -> list[Any]:
    """Times at which a ball dropped at t0 from the height h hits the floor."""
    first = (2 * h / gravity) ** 0.5
    flight = [2 * first * bounce**k for k in range(1, count)]
    return [t0 + first + sum(flight[:k]) for k in range(count)]


def pendulum(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[1], -torch.sin(y[0])])


def pendulum_passes(count: int, amplitude: float = 2.0) -> Tensor:
    """When a pendulum released at the amplitude passes its lowest point.

    A quarter period is K(sin^2(amplitude / 2)), with the complete elliptic integral K(m).
    """
    quarter = float(ellipk(math.sin(amplitude / 2) ** 2))
    return quarter * torch.arange(1, 2 * count, 2, dtype=torch.float64)


def turned(t: Tensor, y: Tensor) -> Tensor:
    """Zero where `swing` from (1, 0) has turned by 30 degrees."""
    return y[1] + 0.5


def turning_times(span: float) -> list[float]:
    """The zeros of `turned` along the solution, where sin t = pi / 6."""
    angle = math.asin(math.pi / 6)
    found = [base + 2 * math.pi * k for k in range(-3, 4) for base in (angle, math.pi - angle)]
    inside = [t for t in found if 0 < t * math.copysign(1, span) <= abs(span)]
    return sorted(inside, key=abs)


def still(t: Tensor, y: Tensor) -> Tensor:
    """A field that moves nothing."""
    return torch.zeros_like(y)


def clocked(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of time alone as a condition."""
    return lambda t, y: function(t)


def affordable(method: type[ic.Solver]) -> dict[str, Any]:
    """A solver with a tolerance, or else a step, that its order reaches in a short time."""
    solver = method()
    tol = {1: 1e-2, 2: 1e-3, 3: 2e-4}.get(solver.order, 1e-5)
    if solver.adaptive:
        return {"solver": solver, "rtol": tol, "atol": tol}
    return {"solver": solver, "dt0": 0.05 if solver.order == 1 else 0.25}


def times_of(solution: ic.Solution) -> Tensor:
    return torch.stack([one.t for one in solution.events]) if solution.events else torch.empty(0)


def where_zero(
    condition: Callable[..., Tensor], t0: float, t1: float, dt0: float, **options: Any
) -> list[float]:
    """Times at which a condition on time alone passes through zero, with constant steps."""
    event = ic.Event(condition, terminal=0, **options)
    return times_of(
        ic.solve(still, f64(1.0, 2.0), t0, t1, solver="rk4", dt0=dt0, event=event)
    ).tolist()


def close(found: Sequence[float] | Tensor, wanted: Sequence[float] | Tensor, atol: float) -> None:
    """Assert that there are as many times as wanted, each near its own."""
    found = torch.as_tensor(found, dtype=torch.float64)
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    assert len(found) == len(wanted), f"{found.tolist()} instead of {wanted.tolist()}"
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)
