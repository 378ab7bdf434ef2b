"""RKC, the Runge-Kutta-Chebyshev method: explicit, and made for diffusion.

Where the spectrum of the field's Jacobian lies along the negative real axis, as that of a
discretised diffusion does, other explicit methods take steps of about 3 / |lambda|. RKC of s
stages takes steps up to 0.65 s^2 / |lambda|, a gain of s / 5 for each evaluation. Off the axis its
region of stability is a thin strip: convection and oscillation are not for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..state import Packing
from .base import DensePiece, Field, Memory, Step, Time
from .explicit import StageTimes
from .tableau import Tableau
from .tableaus.rkc import REFERENCE, nodes, recurrence, rkc2

__all__ = ["RKC"]

# The cubic through y and y1 with the slopes f0 and f1, over the rows f0, f1, (y1 - y) / h.
_HERMITE = torch.tensor([[1, -2, 1], [0, -1, 1], [0, 3, -2]], dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class RKC:
    """Runge-Kutta-Chebyshev, order 2, for any number of stages.

    Attributes:
        stages: s, at least 2: evaluations of the field in each step, and its interval of
            stability on the negative real axis, [-0.65 (s^2 - 1), 0]. Choose the least for which
            the error, and no longer stability, sets the steps.

    Raises:
        InputError: for fewer stages than two.
    """

    stages: int = 10

    def __post_init__(self) -> None:
        stages: Any = self.stages
        if isinstance(stages, bool) or not isinstance(stages, int) or stages < 2:
            raise InputError("stages", repr(stages), "a whole number, 2 or more")

    @property
    def name(self) -> str:
        """Name of the method."""
        return "RKC"

    @property
    def reference(self) -> str:
        """Source of the method."""
        return REFERENCE

    @property
    def tableau(self) -> Tableau:
        """The method as a table."""
        return rkc2(self.stages)

    @property
    def order(self) -> int:
        """Order of the solution."""
        return 2

    @property
    def dense_order(self) -> int:
        """q, where the interpolant of one step errs by O(h^(q + 1))."""
        return 2

    @property
    def error_order(self) -> int:
        """k, where the error estimate of one step is O(h^k)."""
        return 3

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its error."""
        return True

    @property
    def evaluations_per_step(self) -> int:
        """Evaluations of the field that an accepted step costs."""
        return self.stages

    def bind(self, field: Field, packing: Packing) -> RKCStepper:
        """The method bound to the packed `field`."""
        return RKCStepper(self.stages, field, packing)


class RKCStepper:
    """Takes steps by the recurrence, which needs few vectors and keeps rounding small."""

    combine: Callable[..., Tensor] | None = None

    def __init__(self, stages: int, field: Field, packing: Packing) -> None:
        self.field = field
        self.time_dtype, self.device = packing.time_dtype, packing.device
        rows = [[float(x) for x in row] for row in recurrence(stages)]
        self.coefficients = torch.tensor(rows, dtype=torch.float64).to(
            device=packing.device, dtype=packing.dtype
        )
        self.nodes = [float(c) for c in nodes(stages)]

    def init(self, t: Time, y: Tensor, f0: Tensor | None = None) -> Memory:
        """The field at (t, y)."""
        return Memory(self.slope(self._times(t, t), 0, y) if f0 is None else f0)

    def step(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """One step from (t, y) to t_next with its error estimate."""
        step = self._advance(t, t_next, y, memory)
        f1 = step.slope_at_end()
        with torch.no_grad():
            # 4/5 (y - y1) + 2/5 h (f0 + f1)
            error = 0.8 * (0.5 * step.h * (step.f0 + f1) - step.move)
        step.errors = (error,)
        return step

    def advance(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """The same `y1`, without the slope there, which the error estimate wants."""
        return self._advance(t, t_next, y, memory)

    def _advance(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> _RKCStep:
        times, table = self._times(t, t_next), self.coefficients
        f0 = None if memory is None else memory.slope
        if f0 is None:
            f0 = self.slope(times, 0, y)
        h = torch.as_tensor(t_next - t, dtype=torch.float64).to(table)
        # Each stage as its distance from y, which is small: less is lost than with the stages.
        scaled = torch.cat([table[:, :2], h * table[:, 2:]], 1)
        before, move = torch.zeros_like(f0), scaled[0, 2] * f0
        for j, row in enumerate(scaled[1:], 1):
            slope = self.field(times[j], y + move)
            before, move = move, torch.stack([move, before, slope, f0]).t().mv(row)
        memory = Memory(f0)
        return _RKCStep(y + move, (), Memory(), memory, self, t, t_next, y, times, h, f0, move)

    def slope(self, times: StageTimes, stage: int, y: Tensor) -> Tensor:
        """The field at a stage's time, safe to keep."""
        slope = self.field(times[stage], y)
        return slope if slope.requires_grad else slope.clone()

    def _times(self, t: Time, t_next: Time) -> StageTimes:
        return StageTimes(self.nodes, t, t_next, self.device, self.time_dtype)


@dataclass(slots=True)
class _RKCStep(Step):
    """A step that can still evaluate the field at its end."""

    stepper: RKCStepper
    t: Time
    t_next: Time
    y0: Tensor
    times: StageTimes
    h: Tensor
    f0: Tensor
    move: Tensor

    def slope_at_end(self) -> Tensor:
        """The field at the end, evaluated once; the next step starts with it."""
        slope = self.memory.slope
        if slope is None:
            slope = self.stepper.slope(self.times, -1, self.y1)
            self.memory = Memory(slope)
        return slope

    def dense(self) -> DensePiece:
        rows = torch.stack([self.f0, self.slope_at_end(), self.move / self.h])
        return DensePiece(self.t, self.t_next, self.y0, rows, _HERMITE)
