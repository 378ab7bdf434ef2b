"""Asynchronous leapfrog: a midpoint step that carries a velocity beside the state.

With u = f(t + h/2, y + h/2 v), a step answers

    v1 = v + 2 eta (u - v),    y1 = y + h/2 v + h/2 v1,

starting from v = f(t0, y0) (Mutze 2013; Zhuang et al. 2021). From y1 and v1 the middle y + h/2 v =
y1 - h/2 v1 is known, hence u, v and y: the step can be taken back exactly, with one evaluation.

The velocity is not f(t, y), but differs from it by O(h^2). That difference changes sign from step
to step, and it grows where the flow contracts, as with any leapfrog; a damping eta below 1
takes it down, at the price of one order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..state import Packing
from .base import DensePiece, Field, Memory, Step, Time
from .explicit import StageTimes

__all__ = ["ALF", "ALFStepper"]


@dataclass(frozen=True, slots=True)
class ALF:
    """Asynchronous leapfrog: order 2, one evaluation a step, exactly reversible.

    Attributes:
        damping: eta above, in (0, 1]. Less than 1 damps the velocity's oscillation by the factor
            |1 - 2 eta| a step; the method is then of order 1. 1/2 cannot be reversed.

    Raises:
        InputError: for a damping outside of (0, 1], or of 1/2.
    """

    damping: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.damping <= 1 or self.damping == 0.5:
            raise InputError(
                "damping",
                str(self.damping),
                "a number in (0, 1] other than 1/2",
                "1 is the undamped method; 1/2 forgets the velocity, which reversing needs.",
            )

    @property
    def name(self) -> str:
        """Name of the class."""
        return "ALF"

    @property
    def reference(self) -> str:
        """Where the method was proposed, and where it got its damping."""
        return (
            "Mutze (2013), An asynchronous leapfrog method II, arXiv 1311.6602; damping: Zhuang, "
            "Dvornek, Tatikonda and Duncan (2021), MALI, ICLR, arXiv 2102.04668, appendix"
        )

    @property
    def order(self) -> int:
        """2, or 1 with damping."""
        return 2 if self.damping == 1 else 1

    @property
    def dense_order(self) -> int:
        """q, where the parabola through one step errs by O(h^(q + 1))."""
        return self.order

    @property
    def error_order(self) -> int:
        """2: the step is compared with Euler's, y + h v."""
        return 2

    @property
    def adaptive(self) -> bool:
        """The error is estimated."""
        return True

    @property
    def evaluations_per_step(self) -> int:
        """One, in the middle."""
        return 1

    def bind(self, field: Field, packing: Packing) -> ALFStepper:
        """The method bound to the packed `field`."""
        return ALFStepper(self.damping, field, packing)


class ALFStepper:
    """Takes steps, forward and back; carries the velocity, shape (N,)."""

    combine = None

    def __init__(self, damping: float, field: Field, packing: Packing) -> None:
        self.field = field
        self.damping = damping
        self.time_dtype, self.device = packing.time_dtype, packing.device
        # Of v and u, in y(theta): y + h (theta - eta theta^2) v + h eta theta^2 u.
        self.weights = torch.tensor([[1.0, -damping], [0.0, damping]], dtype=torch.float64)

    def init(self, t: Time, y: Tensor, f0: Tensor | None = None) -> Memory:
        """The field at (t, y), which is the first velocity."""
        slope = self._field(t, t, 0.0, y) if f0 is None else f0
        return Memory(slope, (slope,))

    def step(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """One step from (t, y) to t_next with its error estimate."""
        step = self._step(t, t_next, y, memory)
        h = _scaled(y, t_next - t)
        step.errors = (((step.u - step.v) * (self.damping * h)).detach(),)
        return step

    def advance(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> Step:
        """The same without the error estimate."""
        return self._step(t, t_next, y, memory)

    def back(self, t: Time, t_next: Time, y1: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """What the step from t to `t_next` started from, of which this is the end."""
        (v1,) = memory.carried
        half = _scaled(y1, 0.5 * (t_next - t))
        middle = torch.addcmul(y1, v1, -half)
        u = self._field(t, t_next, 0.5, middle)
        v = torch.add(v1, u, alpha=-2 * self.damping) / (1 - 2 * self.damping)
        return torch.addcmul(middle, v, -half), Memory(None, (v,))

    def _step(self, t: Time, t_next: Time, y: Tensor, memory: Memory | None) -> _ALFStep:
        given = memory if memory and memory.carried else self.init(t, y)
        (v,) = given.carried
        half = _scaled(y, 0.5 * (t_next - t))
        middle = torch.addcmul(y, v, half)
        u = self._field(t, t_next, 0.5, middle)
        v1 = torch.add(v, u - v, alpha=2 * self.damping)
        y1 = torch.addcmul(middle, v1, half)
        return _ALFStep(y1, (), Memory(None, (v1,)), given, self, t, t_next, y, v, u)

    def _field(self, t: Time, t_next: Time, node: float, y: Tensor) -> Tensor:
        """The field at a fraction of the step, safe to keep, since it may reuse a buffer."""
        slope = self.field(StageTimes((node,), t, t_next, self.device, self.time_dtype)[0], y)
        return slope if slope.requires_grad else slope.clone()


@dataclass(slots=True)
class _ALFStep(Step):
    """A step with both of its slopes."""

    stepper: ALFStepper
    t: Time
    t_next: Time
    y0: Tensor
    v: Tensor
    u: Tensor

    def dense(self) -> DensePiece:
        """The parabola with velocity v at the start and v1 at the end, for nothing."""
        slopes = torch.stack([self.v, self.u])
        return DensePiece(self.t, self.t_next, self.y0, slopes, self.stepper.weights)


def _scaled(like: Tensor, number: Time) -> Tensor:
    """A number on the host as a 0-d tensor that goes with `like`; keeps its graph."""
    if isinstance(number, Tensor):
        return number.to(like)
    return torch.scalar_tensor(number, dtype=like.dtype, device=like.device)
