"""The Adams methods as the user chooses them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from ...errors import InputError
from ...state import Packing
from ..base import Field
from .starters import starter
from .stepper import AdamsStepper, Method

__all__ = ["Adams", "AdamsBashforth", "AdamsMoulton"]

_HIGHEST = 12


class _AdamsMethod(ABC):
    """How an Adams method answers for itself, by what makes it different from others."""

    __slots__ = ()

    @property
    @abstractmethod
    def method(self) -> Method:
        """What makes it different."""

    @property
    def name(self) -> str:
        """Name of the class."""
        return type(self).__name__

    @property
    def reference(self) -> str:
        """Where the formulas stand."""
        return (
            "F. Bashforth and J. C. Adams, An Attempt to Test the Theories of Capillary Action "
            "(1883); for uneven steps: Hairer, Norsett and Wanner, Solving ODEs I (1993), III.5"
        )

    @property
    def dense_order(self) -> int:
        """q, where the interpolant of one step errs by O(h^(q + 1)): the starter's, if less."""
        method = self.method
        order = method.slopes + (method.corrections > 0) - method.dropped
        return order if method.slopes == 1 else min(order, method.starter.dense_order)

    @property
    def error_order(self) -> int:
        """k, where the error estimate of one step is O(h^k); 0 without one."""
        return self.method.exponent

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its error."""
        return self.method.exponent > 0

    @property
    def evaluations_per_step(self) -> int:
        """Evaluations of the field that an accepted step costs, once the method has started."""
        return 1 + self.method.corrections

    def bind(self, field: Field, packing: Packing) -> AdamsStepper:
        """The method bound to the packed `field`."""
        return AdamsStepper(self.method, field, packing)


@dataclass(frozen=True, slots=True)
class AdamsBashforth(_AdamsMethod):
    """Explicit Adams method for constant steps: one evaluation a step at any order.

    The first steps are those of a Runge-Kutta method of at least the order. Steps that are cut
    short at the end or at a stop are taken with weights for their length, at the same order.

    Attributes:
        order: 1 to 12. The magnitudes of the weights sum to S = 6.7 at order 4, 82 at order 8 and
            1150 at order 12. Rounding is magnified as much (in float32 orders above 6 gain
            nothing), and what decays at the rate lambda is stable for steps up to
            2 / (S lambda) only.
    """

    order: int = 4

    def __post_init__(self) -> None:
        _check("order", self.order, _HIGHEST)

    @property
    def method(self) -> Method:
        """What makes it different from other Adams methods."""
        return Method(self.order, self.order, 0, 0, 0, starter(self.order))


@dataclass(frozen=True, slots=True)
class AdamsMoulton(_AdamsMethod):
    """Implicit Adams formula for constant steps, solved by a fixed number of corrections.

    The explicit formula of the order below predicts; each correction puts the field at what was
    found into the implicit formula: P(EC)^m E. What comes out is a function of its inputs that can
    be differentiated, without a tolerance inside. It starts and meets stops as `AdamsBashforth`.

    Attributes:
        order: 1 to 12.
        corrections: m, at least 1. One gives the order; more come nearer to the implicit formula,
            for steps so short that the iteration contracts.
    """

    order: int = 4
    corrections: int = 1

    def __post_init__(self) -> None:
        _check("order", self.order, _HIGHEST)
        _check("corrections", self.corrections, None)

    @property
    def method(self) -> Method:
        """What makes it different from other Adams methods."""
        slopes, dropped = max(1, self.order - 1), int(self.order == 1)
        return Method(slopes, slopes, self.corrections, dropped, 0, starter(self.order))


@dataclass(frozen=True, slots=True)
class Adams(_AdamsMethod):
    """Adams method of variable order and step, after Shampine and Gordon: the paper's method.

    Predict, evaluate, correct, evaluate: two evaluations a step at any order. A step at order k
    predicts with k slopes; the error of the implicit formula of order k is estimated and held
    within the tolerance, and the solve goes on with that of order k + 1 (local extrapolation).
    Order and step follow the estimates. The first three steps are Tsit5's, and k begins at 4.

    For smooth problems it needs far fewer evaluations than one-step methods, above all at tight
    tolerances. With constant steps, where nothing is estimated, it stays at k = 4, order 5.

    Attributes:
        max_order: largest k, 1 to 12. In float32 it need not be lowered: estimates of orders
            whose weights would magnify rounding show that, and these orders are not chosen.
    """

    max_order: int = 12

    def __post_init__(self) -> None:
        _check("max_order", self.max_order, _HIGHEST)

    @property
    def order(self) -> int:
        """Order of the solution with constant steps."""
        return self.method.slopes + 1

    @property
    def method(self) -> Method:
        """What makes it different from other Adams methods."""
        slopes = min(self.max_order, 4)
        # Without a start of its own, the first steps are those of k = 1.
        exponent = 5 if slopes > 1 else 2
        return Method(slopes, self.max_order, 1, 0, exponent, starter(5))


def _check(name: str, given: Any, most: int | None) -> None:
    whole = isinstance(given, int) and not isinstance(given, bool)
    if not whole or given < 1 or (most is not None and given > most):
        bound = "a whole number, at least 1" if most is None else f"a whole number, 1 to {most}"
        raise InputError(name, repr(given), bound)
