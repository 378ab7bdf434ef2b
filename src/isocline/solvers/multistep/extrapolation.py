"""Explicit Runge-Kutta tables of any even order, to start multistep methods of high order with.

Gragg, Bulirsch and Stoer: the explicit midpoint rule with 2, 4, ... 2 kappa substeps, extrapolated
to substeps of no length, has order 2 kappa (Hairer, Norsett and Wanner, "Solving Ordinary
Differential Equations I" (1993), section II.9, without Gragg's smoothing step, which the
order does not need). Written out it is a table of stages with rational coefficients.

Its interpolant is built up from extra stages, of which each group makes the order one higher
(Enright, Jackson, Norsett and Thomsen, "Interpolants for Runge-Kutta formulas", ACM TOMS 12
(1986)): from the cubic through values and slopes at both ends come slopes at points inside, a
polynomial through those is integrated, from its values come slopes at more points, and so on.
They are evaluated where output between steps falls into the start, and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cache

from ..tableau import Matrix, Row, Tableau

__all__ = ["extrapolation"]

Polynomial = list[Fraction]
"""Coefficients of 1, s, s^2, ..."""


@cache
def extrapolation(order: int) -> Tableau:
    """The table of order `order`, which is even, with an interpolant of the order below."""
    a, b, c = _midpoints(order // 2)
    extra_a, extra_c, interpolant = _bootstrapped(b, order - 1)
    return Tableau(
        name=f"Extrapolation{order}",
        order=order,
        reference=(
            "W. B. Gragg, On Extrapolation Algorithms for Ordinary Initial Value Problems, SIAM J. "
            "Numer. Anal. 2 (1965), 384-403; interpolant after Enright et al. (1986)"
        ),
        a=a,
        b=b,
        c=c,
        interpolant=interpolant,
        dense_order=order - 1,
        extra_a=extra_a,
        extra_c=extra_c,
    )


def _midpoints(kappa: int) -> tuple[Matrix, Row, Row]:
    """a, b, c of the extrapolated midpoint rule. All share the first stage, f(t, y)."""
    counts = [2 * j for j in range(1, kappa + 1)]
    a: list[Row] = [()]
    c = [Fraction(0)]
    b = [Fraction(0)]
    for n in counts:
        # The value at h = 0 of the polynomial in h^2 through all end points.
        share = math.prod(Fraction(n * n, n * n - m * m) for m in counts if m != n)
        before = len(a)
        for m in range(1, n):
            # z_m = z_(m-2) + 2 h/n f(z_(m-1)), from z_0 = y and z_1 = y + h/n f(y).
            row = [Fraction(0)] * len(a)
            row[0] = Fraction(m % 2, n)
            for stage in range(m - 1, 0, -2):
                row[before + stage - 1] += Fraction(2, n)
            a.append(tuple(row))
            c.append(Fraction(m, n))
        b += [share * Fraction(2 * (m % 2), n) for m in range(1, n)]
    return tuple(a), tuple(b), tuple(c)


def _bootstrapped(b: Row, order: int) -> tuple[Matrix, Row, Matrix]:
    """Extra rows of a and of c, and the interpolant of the given order."""
    stages = len(b)
    extra_a: list[Row] = [b]  # the slope at the end
    extra_c = [Fraction(1)]
    # The cubic: y0 + h s f0 + ... as weights of b's sum and of the slopes at 0 and 1.
    cubic = {0: [0, 1, -2, 1], stages: [0, 0, -1, 1]}
    rows = _with_solution({j: [*map(Fraction, row)] for j, row in cubic.items()}, b)
    for q in range(4, order + 1):
        inside = _inside(q - 2)
        first = stages + len(extra_c)
        for point in inside:
            extra_a.append(_at(rows, point, stages + len(extra_c)))
            extra_c.append(point)
        places = {0: Fraction(0), stages: Fraction(1)}
        places |= {first + i: point for i, point in enumerate(inside)}
        rows = _with_solution(_integrated(places), b)
    width = max(map(len, rows.values()))
    empty: Polynomial = []
    table = [rows.get(j, empty) for j in range(stages + len(extra_c))]
    padded = [[*row, *[Fraction(0)] * (width - len(row))][1:] for row in table]
    return tuple(extra_a), tuple(extra_c), tuple(map(tuple, padded))


def _inside(count: int) -> list[Fraction]:
    """With 0 and 1 near to Chebyshev's points, so that the slopes' weights are small."""
    angles = [math.pi * i / (count + 1) for i in range(1, count + 1)]
    return [Fraction(round(64 * (0.5 - 0.5 * math.cos(angle))), 64) for angle in angles]


def _integrated(places: dict[int, Fraction]) -> dict[int, Polynomial]:
    """For each stage, the integral from 0 of the polynomial that is 1 there and 0 elsewhere."""
    rows: dict[int, Polynomial] = {}
    for j, here in places.items():
        row = [Fraction(1)]
        for i, other in places.items():
            if i != j:
                gap = here - other
                shifted = zip([Fraction(0), *row], [*row, Fraction(0)], strict=True)
                row = [(below - other * above) / gap for below, above in shifted]
        rows[j] = [Fraction(0), *(entry / (p + 1) for p, entry in enumerate(row))]
    return rows


def _with_solution(rows: dict[int, Polynomial], b: Row) -> dict[int, Polynomial]:
    """The polynomials, changed in proportion to 3 s^2 - 2 s^3 so that they end at the solution."""
    found: dict[int, Polynomial] = {}
    for j in {*rows, *range(len(b))}:
        row = [*rows.get(j, []), *[Fraction(0)] * 4]
        missing = (b[j] if j < len(b) else 0) - sum(row)
        row[2] += 3 * missing
        row[3] -= 2 * missing
        while row and not row[-1]:
            row.pop()
        found[j] = row
    return found


def _at(rows: dict[int, Polynomial], s: Fraction, stages: int) -> Row:
    """Weights of the stages in the interpolant's value at s."""

    def value(row: Sequence[Fraction]) -> Fraction:
        total = Fraction(0)
        for entry in reversed(row):
            total = total * s + entry
        return total

    return tuple(value(rows.get(j, [])) for j in range(stages))
