"""Times of evaluation kept off the ends of steps, where a field may jump.

A field with `if t < 0.5` has two values at 0.5: the one with which the step that ends there must
be computed, and the one for the step that starts there. So an evaluation at such an end of a step
is made at the next number inside it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["EVERYWHERE", "NOWHERE", "Jumps", "Sides"]

Jumps = frozenset[float] | None
"""Times at which a field jumps; None for the ends of every step."""

NOWHERE: Jumps = frozenset()
EVERYWHERE: Jumps = None


class Sides:
    """Which step is being taken, and so on which side of a jump the field is asked."""

    def __init__(self) -> None:
        self._bounds: tuple[float | None, float | None] = (None, None)
        self._known: dict[torch.dtype, tuple[float, float]] = {}

    def enter(self, t: float, t_next: float, jumps: Jumps) -> None:
        """A step from t to t_next, either way in time, is being taken."""
        low, high = (end if jumps is None or end in jumps else None for end in sorted((t, t_next)))
        self._bounds = low, high
        self._known.clear()

    def inside(self, t: Tensor) -> Tensor:
        """The 0-d time t, moved by one unit in the last place if it is at a jump.

        Its gradient is that of t.
        """
        if self._bounds == (None, None):
            return t
        low, high = self._limits(t.dtype)
        plain = t.detach()
        # The difference is exact, and so is the sum: what comes out is the clamped time.
        return t + (plain.clamp(low, high) - plain)

    def _limits(self, dtype: torch.dtype) -> tuple[float, float]:
        """The first and the last number inside the step."""
        if dtype not in self._known:
            low, high = self._bounds
            self._known[dtype] = (
                -math.inf if low is None else _beside(low, math.inf, dtype),
                math.inf if high is None else _beside(high, -math.inf, dtype),
            )
        return self._known[dtype]


def _beside(t: float, towards: float, dtype: torch.dtype) -> float:
    """The number of a dtype next to t."""
    return torch.nextafter(torch.tensor(t, dtype=dtype), torch.tensor(towards, dtype=dtype)).item()
