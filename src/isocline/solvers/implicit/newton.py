"""Newton's method for the stage equations of an implicit step.

The method is told of a system of equations only how far a guess is off, and what correction a
Jacobian at hand makes of that. The Jacobian is kept as long as corrections shrink fast. Where they
do not, it is taken anew; where they grow, they are damped; and where a new one does not help, it is
not the true one, and serves as the preconditioner of GMRES with that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from torch import Tensor

__all__ = ["Equations", "Found", "Means", "relaxed", "solve"]

_SLOW = 0.25
"""Corrections that shrink by less than to this fraction ask for better means."""

_AFTER = 2
"""Corrections that are needed with a new Jacobian in any case."""

_PATIENCE = 3
"""So many new Jacobians that do not help are not the true one."""

_DAMPED = 0.2
"""Where a step along a correction has to be shorter than this, the correction is in doubt."""

_SHORTEST = 1e-3
"""A step along the best of corrections that has to be shorter than this leads nowhere."""

_LIMIT = 60
"""Tries before giving up. Near the solution about five are needed."""

_RELAXED = 1e3
"""A relaxation that takes steps of this length is as near as it needs to be."""


class Means(Enum):
    """How corrections are found, from the cheapest way to the strongest."""

    PLAIN = (False, False)
    """By a Jacobian of zero: fixed-point iteration."""

    KRYLOV = (False, True)
    """By GMRES."""

    MATRIX = (True, False)
    """By a Jacobian, kept as long as it serves."""

    BOTH = (True, True)
    """By GMRES with a Jacobian as its preconditioner."""

    @property
    def matrix(self) -> bool:
        """Whether there is a Jacobian."""
        return self.value[0]

    @property
    def krylov(self) -> bool:
        """Whether there is GMRES."""
        return self.value[1]


class Equations(Protocol):
    """A system of equations for a tensor x."""

    ladder: tuple[Means, ...]
    """The means that there are, in the order in which to try them."""

    price: float
    """What a new Jacobian costs, in residuals."""

    linear: bool
    """Whether the Jacobian is the same everywhere; then one that does not help never will."""

    def residual(self, x: Tensor) -> Tensor:
        """How far x is off; zero at the solution. Notes x as the present iterate."""

    def refresh(self, shift: float = 0.0) -> None:
        """Take the Jacobian, plus `shift` times the identity, at the present iterate."""

    def preconditioned(self, residual: Tensor) -> Tensor:
        """The correction by the Jacobian at hand; by one of zero as long as there is none."""

    def krylov(self, residual: Tensor) -> Tensor:
        """The correction by the true Jacobian at the present iterate, roughly."""

    def measure(self, correction: Tensor, x: Tensor) -> tuple[float, float]:
        """The size of a correction at x: in a norm that stays the same, and in proportion to x."""


class Found(NamedTuple):
    """Where Newton's method ended.

    Attributes:
        x: the solution, or the last iterate.
        correction: what would come next there.
        converged: whether x is the solution.
    """

    x: Tensor
    correction: Tensor
    converged: bool


class _Iterate(NamedTuple):
    """A point of the iteration.

    Attributes:
        x: where it is.
        residual: how far it is off.
        correction: what the Jacobian at hand makes of that.
        size: of the correction, in a norm that stays the same.
        error: the same in proportion to x.
    """

    x: Tensor
    residual: Tensor
    correction: Tensor
    size: float
    error: float


def solve(equations: Equations, x: Tensor, accuracy: float, noise: float) -> Found:
    """Solve equations from the guess `x`.

    With corrections that shrink by the factor q, what is left after one of size d is about
    d q / (1 - q) (Hairer and Wanner 1996, section IV.8). A step along a correction counts as good
    if it shortens the next one, found with the same Jacobian: the natural monotonicity test
    (Deuflhard, "Newton Methods for Nonlinear Problems", 2004, section 3.3).

    Args:
        equations: what to solve.
        x: where to start.
        accuracy: how large the error that is left may be.
        noise: corrections of up to this size that no longer shrink count as rounding errors of
            the equations, and the solution as found.
    """
    return _Newton(equations, x, accuracy, noise).run()


def relaxed(equations: Equations, x: Tensor) -> Tensor:
    """A guess from which Newton's method may arrive, where it does not from `x`.

    Newton's method goes astray where the matrix is indefinite between guess and solution, as it
    is where a step is long for a field that grows. This follows dx/ds = residual(x) instead,
    which passes such places, with linearly implicit steps that lengthen as the residual shrinks
    (pseudo-transient continuation; Kelley and Keyes, SIAM J. Numer. Anal. 35 (1998), 508-523).
    """
    pace, last = 1.0, math.inf
    residual = equations.residual(x)
    for _ in range(_LIMIT):
        equations.refresh(1.0 / pace)
        x = x + equations.preconditioned(residual)
        residual = equations.residual(x)
        size, _ = equations.measure(residual, x)
        if size == 0.0 or not math.isfinite(size):
            break
        if last < math.inf:
            pace *= min(max(last / size, 0.5), 10.0)
        if pace > _RELAXED:
            break
        last = size
    return x


@dataclass(slots=True)
class _Newton:
    """State of one solve.

    Attributes:
        rung: which of the means on the ladder is used.
        fresh: whether the Jacobian was taken at the present iterate.
        poor: how many new Jacobians were followed by slow progress.
        damping: what part of a correction to go.
        known: a correction by GMRES, and where it was found.
    """

    equations: Equations
    start: Tensor
    accuracy: float
    noise: float
    rung: int = 0
    fresh: bool = True
    poor: int = 0
    damping: float = 1.0
    known: tuple[Tensor, Tensor] | None = None

    @property
    def means(self) -> Means:
        return self.equations.ladder[self.rung]

    @property
    def at_the_top(self) -> bool:
        return self.rung == len(self.equations.ladder) - 1

    def run(self) -> Found:
        residual = self.equations.residual(self.start)
        if self.means.matrix:
            self.equations.refresh()
        here = self._iterate(self.start, residual)
        for _ in range(_LIMIT):
            if here.error <= self.accuracy or not math.isfinite(here.size):
                break
            x = here.x + self.damping * self._direction(here)
            there = self._iterate(x, self.equations.residual(x))
            rate = there.size / here.size
            left = there.error * rate / (1.0 - rate) if rate < 1.0 else math.inf
            if self.damping == 1.0 and left <= self.accuracy:
                return Found(x + self._direction(there), there.correction, True)
            if rate <= 1.0 - self.damping / 2.0:  # not so where it is NaN
                here = self._forward(there, rate)
            elif here.error <= self.noise and self.at_the_top:
                return Found(here.x, here.correction, True)
            else:
                here = self._back(here)
                if self.damping < _SHORTEST:
                    break
        converged = here.error <= self.accuracy
        return Found(here.x + here.correction if converged else here.x, here.correction, converged)

    def _iterate(self, x: Tensor, residual: Tensor) -> _Iterate:
        correction = self.equations.preconditioned(residual)
        return _Iterate(x, residual, correction, *self.equations.measure(correction, x))

    def _direction(self, at: _Iterate) -> Tensor:
        if not self.means.krylov:
            return at.correction
        if self.known is None or self.known[0] is not at.x:  # or it is tried again, damped
            self.known = at.x, self.equations.krylov(at.residual)
        return self.known[1]

    def _forward(self, there: _Iterate, rate: float) -> _Iterate:
        """Go on from a good step, by better means if it was not good enough."""
        whole, self.damping = self.damping == 1.0, min(1.0, 2.0 * self.damping)
        fresh, self.fresh = self.fresh, False
        if self.means is Means.MATRIX:
            self.poor += fresh and rate > _SLOW
            if self.poor < (1 if self.equations.linear else _PATIENCE):
                renewed = self._is_worth_it(there.error, rate)
                return self._renewed(there) if renewed else there
        elif rate <= _SLOW or not whole:
            return there
        return there if self.at_the_top else self._climbed(there)

    def _back(self, here: _Iterate) -> _Iterate:
        """Return from a bad step, to go another way."""
        stale = self.means is Means.MATRIX and not self.fresh
        patient = self.damping > _DAMPED and self.means is not Means.PLAIN
        patient = patient and not self.equations.linear
        if not stale and (patient or self.at_the_top):
            self.damping /= 2.0
            return here
        self.damping = 1.0
        self.equations.residual(here.x)  # which makes it the present iterate again
        return self._renewed(here) if stale else self._climbed(here)

    def _climbed(self, here: _Iterate) -> _Iterate:
        """Take to the next means."""
        before = self.means
        self.rung += 1
        self.known = None
        return self._renewed(here) if self.means.matrix and not before.matrix else here

    def _renewed(self, here: _Iterate) -> _Iterate:
        """Take the Jacobian where we are."""
        self.fresh = True
        self.equations.refresh()
        return self._iterate(here.x, here.residual)

    def _is_worth_it(self, error: float, rate: float) -> bool:
        """Whether a new Jacobian is cheaper than the corrections that the old one still needs."""
        if rate > _SLOW:
            return True
        to_come = math.log(self.accuracy / error) / math.log(rate) if error and rate else 0.0
        return to_come > self.equations.price + _AFTER
