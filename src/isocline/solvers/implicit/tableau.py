"""The Butcher tableau of an implicit Runge-Kutta method: pure data that checks itself.

A step from (t, y) over h solves k_i = f(t + c_i h, y + h sum_j a_ij k_j) for the stages k_i, where
the sum goes over all of them, and answers y1 = y + h sum_j b_j k_j (Hairer and Wanner, "Solving
Ordinary Differential Equations II", 1996, section IV.5).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from math import isqrt

from ..tableau import Matrix, Number, Row

__all__ = ["Block", "ImplicitTableau", "interpolatory", "root"]

_DIGITS = 60
"""Decimal places to which irrational coefficients are given."""

TOLERANCE = Fraction(1, 10 ** (_DIGITS - 5))
"""How far an identity between such coefficients may be off."""


def root(number: int) -> Fraction:
    """The square root of a whole number, to sixty decimal places."""
    return Fraction(isqrt(number * 10 ** (2 * _DIGITS)), 10**_DIGITS)


def interpolatory(c: Sequence[Number]) -> Matrix:
    """b_j(theta), the integral from 0 to theta of the Lagrange polynomial l_j over the nodes c.

    The interpolant is then the polynomial of degree s through y whose slope at every node is the
    stage there. For a collocation method it is the collocation polynomial, of order s.

    Returns:
        One row for each node: the coefficients of theta, theta^2, ..., theta^s.
    """
    rows = []
    for j, node in enumerate(c):
        polynomial = [Fraction(1)]
        for other in (*c[:j], *c[j + 1 :]):  # times (x - other) / (node - other)
            raised, scale = [Fraction(0), *polynomial], Fraction(node) - other
            polynomial = [
                (up - other * stay) / scale
                for up, stay in zip(raised, [*polynomial, Fraction(0)], strict=True)
            ]
        rows.append(tuple(x / (m + 1) for m, x in enumerate(polynomial)))
    return tuple(rows)


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring stages that depend on each other, and on none that comes later.

    Attributes:
        start, stop: which stages they are.
        explicit: whether it is one stage that does not even depend on itself.
    """

    start: int
    stop: int
    explicit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ImplicitTableau:
    """Coefficients of an implicit Runge-Kutta method of s stages.

    Attributes:
        name: name of the solver class, for example "RadauIIA5".
        order: order of y1 (local error O(h^(order + 1))).
        reference: author, year, and where in the source the coefficients stand.
        a: s rows of s entries.
        b: s weights of the solution.
        c: s nodes, all in [0, 1].
        interpolant: s rows; entry `[j][m]` is the coefficient of theta**(m + 1) in b_j(theta),
            where y(t + theta h) = y + h sum_j b_j(theta) k_j.
        dense_order: order of the interpolant, uniform over theta.

    Raises:
        ValueError: on construction, naming the table and the check that failed.
    """

    name: str
    order: int
    reference: str
    a: Matrix
    b: Row
    c: Row
    interpolant: Matrix
    dense_order: int

    def __post_init__(self) -> None:
        self._check_shapes()
        self._check_sums()
        self._require(
            not any(block.explicit for block in self.blocks[1:]),
            "a stage that is explicit must be the first",
        )

    @property
    def stages(self) -> int:
        """Number of stages, s."""
        return len(self.b)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The stages in the groups that can be solved for one after another."""
        found: list[Block] = []
        start = 0
        while start < self.stages:
            stop = start + 1
            while later := [j for row in self.a[start:stop] for j in _later(row, stop)]:
                stop = max(later) + 1
            explicit = stop == start + 1 and not self.a[start][start]
            found.append(Block(start, stop, explicit))
            start = stop
        return tuple(found)

    @property
    def evaluations_per_step(self) -> int:
        """Evaluations of the field in a step, where it is linear in a state of two numbers.

        Every stage to be solved for takes one at the first guess, two for the Jacobian, one at
        what Newton's method makes of it; an explicit stage takes one.
        """
        return sum(1 if block.explicit else 4 * (block.stop - block.start) for block in self.blocks)

    def _require(self, holds: bool, check: str) -> None:
        if not holds:
            raise ValueError(f"tableau {self.name!r}: {check}")

    def _require_near(self, value: Number, target: Number, what: str) -> None:
        excess = Fraction(value) - target
        self._require(
            abs(excess) <= TOLERANCE,
            f"{what} is {float(value)!r}, not {float(target)!r} (off by {float(excess):.3g})",
        )

    def _check_shapes(self) -> None:
        s = len(self.b)
        self._require(self.name.isidentifier(), "name must be an identifier, as of a class")
        self._require(
            1 <= self.dense_order <= self.order,
            f"dense_order must lie between 1 and the order {self.order}, not {self.dense_order}",
        )
        for what, rows in (("a", self.a), ("interpolant", self.interpolant)):
            self._require(len(rows) == s, f"{what} must have {s} rows, as b has entries")
        self._require(len(self.c) == s, f"c must have {s} entries, as b has, not {len(self.c)}")
        for i, row in enumerate(self.a):
            self._require(len(row) == s, f"row {i} of a must have {s} entries, not {len(row)}")
        powers = len(self.interpolant[0])
        self._require(
            powers >= self.dense_order,
            f"interpolant of order {self.dense_order} must reach that power of theta",
        )
        self._require(
            all(len(row) == powers for row in self.interpolant),
            "rows of interpolant must be of one length",
        )
        values: Iterable[object] = chain(self.b, self.c, *self.a, *self.interpolant)
        for value in values:
            # A float would lose digits without a word, and bool is an int.
            exact = isinstance(value, (Fraction, int)) and not isinstance(value, bool)
            self._require(exact, f"coefficient {value!r} must be a Fraction or an int")

    def _check_sums(self) -> None:
        self._require_near(sum(self.b), 1, "sum of b")
        for i, (row, c) in enumerate(zip(self.a, self.c, strict=True)):
            self._require_near(sum(row), c, f"sum of row {i} of a")
            # The field may be undefined outside of the step, so no stage looks there.
            self._require(0 <= c <= 1, f"node {i}, {float(c)!r}, must lie in [0, 1]")
        for j, (row, b) in enumerate(zip(self.interpolant, self.b, strict=True)):
            self._require_near(sum(row), b, f"interpolant weight b_{j}(1)")
        for m, column in enumerate(zip(*self.interpolant, strict=True)):
            # The condition of order 1, sum_j b_j(theta) = theta, power by power.
            self._require_near(sum(column), 1 if m == 0 else 0, f"sum of interpolant column {m}")


def _later(row: Row, stop: int) -> list[int]:
    """Which stages from `stop` on a row of a uses."""
    return [j for j, entry in enumerate(row) if j >= stop and entry]
