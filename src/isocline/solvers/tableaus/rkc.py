"""The Runge-Kutta-Chebyshev method of order 2, for any number of stages.

Its stability polynomial is a shifted and damped Chebyshev polynomial, which keeps it stable on an
interval of the negative real axis that grows with the square of the number of stages.
"""

from fractions import Fraction
from functools import cache
from typing import NamedTuple

from ..tableau import Number, Row, Tableau, hermite

__all__ = ["REFERENCE", "Recurrence", "nodes", "recurrence", "rkc2"]

REFERENCE = (
    "B. P. Sommeijer, L. F. Shampine and J. G. Verwer, RKC: an explicit solver for parabolic PDEs, "
    "J. Comput. Appl. Math. 88 (1998), 315-326, equations 2.1 to 2.9; J. G. Verwer, Explicit "
    "Runge-Kutta methods for parabolic partial differential equations, Appl. Numer. Math. 22 "
    "(1996), 359-379"
)

_DAMPING = Fraction(2, 13)
_PLACES = 10**60


class Recurrence(NamedTuple):
    """How a stage Y_j follows from the two before it, with D_j = Y_j - y.

    D_j = mu D_(j-1) + nu D_(j-2) + mu_tilde h F_(j-1) + gamma_tilde h F_0.
    """

    mu: Fraction
    nu: Fraction
    mu_tilde: Fraction
    gamma_tilde: Fraction


@cache
def recurrence(stages: int) -> tuple[Recurrence, ...]:
    """Coefficients of D_1 to D_s, for s `stages`, to 60 decimals; y1 = y + D_s."""
    w0 = 1 + _DAMPING / stages**2
    # Chebyshev polynomials and their first two derivatives at w0.
    t, first, second = [Fraction(1), w0], [Fraction(0), Fraction(1)], [Fraction(0), Fraction(0)]
    for _ in range(2, stages + 1):
        second.append(2 * w0 * second[-1] - second[-2] + 4 * first[-1])
        first.append(2 * w0 * first[-1] - first[-2] + 2 * t[-1])
        t.append(2 * w0 * t[-1] - t[-2])
    w1 = first[stages] / second[stages]
    b = [second[j] / first[j] ** 2 for j in range(2, stages + 1)]
    b = [b[0], b[0], *b]
    zero = Fraction(0)
    found = [Recurrence(zero, zero, _rounded(b[1] * w1), zero)]
    for j in range(2, stages + 1):
        mu_tilde = 2 * b[j] * w1 / b[j - 1]
        gamma_tilde = -(1 - b[j - 1] * t[j - 1]) * mu_tilde
        entries = (2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], mu_tilde, gamma_tilde)
        found.append(Recurrence(*map(_rounded, entries)))
    return tuple(found)


@cache
def nodes(stages: int) -> Row:
    """c_0 to c_s: where the stages stand, and the end of the step."""
    found = [Fraction(0)]
    for mu, nu, mu_tilde, gamma_tilde in recurrence(stages):
        two_before = found[-2] if len(found) > 1 else Fraction(0)
        found.append(_rounded(mu * found[-1] + nu * two_before + mu_tilde + gamma_tilde))
    return (*found[:-1], 1)


@cache
def rkc2(stages: int) -> Tableau:
    """The method of s `stages`, at least 2, as a table; the solver `RKC` evaluates the recurrence.

    The table has one stage more, f(t1, y1), for the error estimate and the interpolant. In
    floating point its rows lose digits that the recurrence keeps, more of them the larger s.
    """
    rows: list[Row] = [()]
    for j, (mu, nu, mu_tilde, gamma_tilde) in enumerate(recurrence(stages), 1):
        before = [*rows[j - 1], 0]
        two_before = [*rows[j - 2], 0, 0] if j > 1 else [0]
        row = [mu * x + nu * y for x, y in zip(before, two_before, strict=True)]
        row[j - 1] += mu_tilde
        row[0] += gamma_tilde
        rows.append(tuple(map(_rounded, row)))
    b = (*rows[-1], 0)
    ends = [Fraction(int(j in (0, stages)) * 2, 5) for j in range(stages + 1)]
    return Tableau(
        name="RKC",
        order=2,
        reference=REFERENCE,
        a=tuple(rows),
        b=b,
        c=nodes(stages),
        # 4/5 (y - y1) + 2/5 h (f(t, y) + f(t1, y1)) = h^3 y''' / 15 + O(h^4)
        error=(tuple(end - Fraction(4, 5) * x for end, x in zip(ends, b, strict=True)),),
        error_order=2,
        interpolant=hermite(b),
        dense_order=2,
        digits=50,
    )


def _rounded(x: Number) -> Fraction:
    return Fraction(round(x * _PLACES), _PLACES)
