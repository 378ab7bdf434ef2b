"""Proportional-integral-derivative control of the step length.

With r the ratio of error to tolerance, r' and r'' those of the two accepted steps before, and k
the order of the error estimate, the next step is

    h * safety * r^-b1 * r'^-b2 * r''^-b3,
    b1 = (p + i + d) / k,  b2 = -(p + 2 d) / k,  b3 = d / k

(Söderlind 2003, "Digital filters in adaptive time-stepping", ACM TOMS 29). Conventions differ:

- diffrax states p, i and d in this form and divides by k = order of the solution (5 for Dopri5).
- SciPy and torchdiffeq have the integral term alone (i = 1), k = order of the lower, embedded
  solution plus one: the same number, since the local error of an order-q solution is O(h^(q+1)).
- Hairer's dopri5 writes r^-(1/5 - 0.75 b) * r'^b with b = 0.04: here p = 0.2, i = 0.85.
- OrdinaryDiffEq gives b1 and b2 themselves, 7/50 and 2/25 for Tsit5.

We keep diffrax's form, since coefficients then mean the same for methods of every order. After a
rejection SciPy lets the step not grow, diffrax and Hairer likewise; so do we, and we then use
the integral term alone, since the history belongs to another step length.

The default is the integral controller. On the pendulum, Lotka-Volterra, van der Pol and Kepler at
tolerances 1e-3 to 1e-9, the work for equal error differed by 5 % at most between it and the PI
settings above and around them, either way: those reject half as often, and step shorter for it.
They pay where stability limits the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import InputError
from .base import Decision, StepBounds, check_numbers

__all__ = ["PI", "PID", "I"]


class _History(NamedTuple):
    order: int
    last: float  # r' (1 before the first step)
    before_last: float  # r''
    rejected: bool  # whether the step judged before this one was rejected


@dataclass(frozen=True, kw_only=True, slots=True)
class PID(StepBounds):
    """PID controller; the default coefficients are those of an integral controller.

    Attributes:
        proportional, integral, derivative: the coefficients p, i and d above.
        safety: the step aims at an error of this fraction (to the power k) of the tolerance.
        factor_min, factor_max: the least and greatest change of the step at once.
        min_step, max_step, stops: see `StepBounds`.

    Raises:
        InputError: unless 0 < factor_min < 1 < factor_max, 0 < safety <= 1, p + i + d > 0.
    """

    proportional: float = 0.0
    integral: float = 1.0
    derivative: float = 0.0
    safety: float = 0.9
    factor_min: float = 0.2
    factor_max: float = 10.0

    def __post_init__(self) -> None:
        StepBounds.__post_init__(self)
        check_numbers(self, "proportional", "integral", "derivative")
        check_numbers(self, "safety", "factor_min", "factor_max")
        if not 0 < self.factor_min < 1 < self.factor_max:
            raise InputError(
                "factor_min, factor_max",
                f"{self.factor_min}, {self.factor_max}",
                "0 < factor_min < 1 < factor_max",
            )
        if not 0 < self.safety <= 1:
            raise InputError("safety", str(self.safety), "0 < safety <= 1")
        if not 0 < self.proportional + self.integral + self.derivative < math.inf:
            raise InputError(
                "proportional, integral, derivative",
                f"{self.proportional}, {self.integral}, {self.derivative}",
                "finite numbers of positive sum: a larger error must shorten the step",
            )

    @property
    def adaptive(self) -> bool:
        """The error estimate decides."""
        return True

    def init(self, error_order: int) -> _History:
        """History before the first step: errors on the tolerance."""
        return _History(error_order, 1.0, 1.0, rejected=False)

    def decide(self, h: float, error_ratio: float, state: _History) -> Decision:
        """Accept where the error is within tolerance, and choose the next length."""
        if not math.isfinite(error_ratio):
            return Decision(False, h * self.factor_min, state._replace(rejected=True))
        if error_ratio > 1.0:
            factor = self.safety * error_ratio ** (-1.0 / state.order)
            factor = max(self.factor_min, min(factor, self.safety))
            return Decision(False, h * factor, state._replace(rejected=True))
        ceiling = 1.0 if state.rejected else self.factor_max
        factor = max(self.factor_min, min(self._factor(error_ratio, state), ceiling))
        # An error of exactly zero has no meaning as history: its powers are not finite.
        history = _History(state.order, max(error_ratio, 1e-10), state.last, rejected=False)
        return Decision(True, min(h * factor, self.max_step), history)

    def _factor(self, ratio: float, state: _History) -> float:
        if ratio == 0.0:
            return self.factor_max
        p, i, d, k = self.proportional, self.integral, self.derivative, state.order
        return float(
            self.safety
            * ratio ** (-(p + i + d) / k)
            * state.last ** ((p + 2 * d) / k)
            * state.before_last ** (-d / k)
        )


def I(**options: float) -> PID:  # noqa: E743, N802 (the field's own name)
    """Integral controller, as in SciPy and torchdiffeq; `options` are `PID`'s other attributes."""
    return PID(proportional=0.0, integral=1.0, derivative=0.0, **options)  # type: ignore[arg-type]


def PI(*, proportional: float = 0.4, integral: float = 0.3, **options: float) -> PID:  # noqa: N802
    """Proportional-integral controller: smoother steps where stability limits them.

    The default coefficients are Gustafsson's (1991, "Control theoretic techniques for stepsize
    selection in explicit Runge-Kutta methods", ACM TOMS 17): 0.3 integral, 0.4 proportional.
    """
    return PID(proportional=proportional, integral=integral, derivative=0.0, **options)  # type: ignore[arg-type]
