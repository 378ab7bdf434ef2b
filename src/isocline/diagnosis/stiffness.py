"""Is a problem stiff? Whether stability, not accuracy, is what keeps the steps short.

An explicit method is stable where h times the eigenvalues of the field's Jacobian lie in a bounded
region. Steps that sit at its edge would gain nothing from a looser tolerance. The largest
eigenvalue is found by power iteration on differences of the field (as in Sommeijer, Shampine and
Verwer 1997, "RKC: an explicit solver for parabolic PDEs", section 2.4), the edge by trying the
method on y' = -x y.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from ..solvers.base import Solver
from ..state import Packing
from .observed import Sample

__all__ = ["Stiffness", "real_stability", "stiffness"]

_ITERATIONS = 12
_NEAR = 0.6
"""A step at this part of the stability limit or beyond is held back by stability."""


@dataclass(frozen=True, slots=True)
class Stiffness:
    """How near the steps come to the method's stability limit.

    Attributes:
        radius: the largest |eigenvalue| of the field's Jacobian seen along the solution, in 1 / t.
        limit: the largest x for which the method is stable on y' = -x y with steps of length 1;
            infinite for a method that always is.
        bound: part of the steps looked at that are held back by stability, from 0 to 1.
        damped: whether the dominant eigenvalues are negative and nearly real, as of diffusion.
    """

    radius: float
    limit: float
    bound: float
    damped: bool

    @property
    def stiff(self) -> bool:
        """Whether at least half of the steps are held back by stability."""
        return self.bound >= 0.5


def stiffness(
    field: Callable[[Tensor, Tensor], Tensor], samples: Sequence[Sample], solver: Solver
) -> Stiffness | None:
    """Look at the field where steps started.

    Args:
        field: the packed field.
        samples: starts of steps.
        solver: the method.

    Returns:
        What was found; None if the field is not finite near any of the samples.
    """
    limit = real_stability(solver)
    found: list[tuple[float, float, float]] = []  # radius, its part along the real axis, h
    direction: Tensor | None = None
    for t, y, h in samples:
        radius, along, direction = _dominant(field, t, y, math.copysign(1.0, h), direction)
        if math.isfinite(radius):
            found.append((radius, along, abs(h)))
    if not found:
        return None
    held = [along < -0.7 and h * radius >= _NEAR * limit for radius, along, h in found]
    return Stiffness(
        radius=max(radius for radius, _, _ in found),
        limit=limit,
        bound=sum(held) / len(held),
        damped=median(along for _, along, _ in found) < -0.7,
    )


def _dominant(
    field: Callable[[Tensor, Tensor], Tensor],
    t: float,
    y: Tensor,
    sign: float,
    start: Tensor | None,
) -> tuple[float, float, Tensor | None]:
    """Power iteration at (t, y): |eigenvalue|, the cosine of its phase, the direction found."""
    time = y.real.new_tensor(t)
    base = field(time, y).clone()
    size = torch.finfo(y.real.dtype).eps ** 0.5 * max(1.0, torch.linalg.vector_norm(y).item())
    generator = torch.Generator(y.device).manual_seed(0)
    noise = torch.randn(y.shape, dtype=y.dtype, device=y.device, generator=generator)
    v = noise if start is None else start + 1e-2 * noise / torch.linalg.vector_norm(noise)
    v = v / torch.linalg.vector_norm(v)
    growth: list[float] = []
    phases: list[float] = []
    for _ in range(_ITERATIONS):
        image = sign * (field(time, y + size * v) - base) / size
        length = torch.linalg.vector_norm(image).item()
        if length == 0.0:
            return 0.0, 0.0, None
        if not math.isfinite(length):
            return math.nan, 0.0, None
        phases.append(torch.linalg.vecdot(v, image).real.item() / length)
        growth.append(length)
        v = image / length
    late = growth[_ITERATIONS // 2 :]
    return math.prod(late) ** (1.0 / len(late)), median(phases[_ITERATIONS // 2 :]), v


def real_stability(solver: Solver, steps: int = 30) -> float:
    """The largest x for which `steps` steps of length 1 on y' = -x y do not grow."""

    def stable(x: float) -> bool:
        y = torch.ones(2, dtype=torch.float64)
        stepper = solver.bind(lambda _, y: -x * y, Packing.of(y))
        memory, start = stepper.init(0.0, y), y
        for index in range(steps):
            step = stepper.advance(float(index), index + 1.0, y, memory)
            y, memory = step.y1, step.memory
        return bool(y.abs().max() <= start.abs().max())

    with torch.no_grad():
        low, high = 0.0, 1.0
        while stable(high):
            low, high = high, 2.0 * high
            if high > 1e6:
                return math.inf
        for _ in range(12):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if stable(middle) else (low, middle)
    return low
