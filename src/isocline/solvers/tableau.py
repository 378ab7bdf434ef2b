"""The Butcher tableau of an explicit Runge-Kutta method: pure data that checks itself.

A step from (t, y) over h evaluates the stages k_i = f(t + c_i h, y + h sum_j a_ij k_j) and
answers y1 = y + h sum_j b_j k_j. The names are those of Hairer, Norsett and Wanner, "Solving
Ordinary Differential Equations I" (1993), sections II.1 (a, b, c), II.4 (embedded error) and
II.6 (continuous extension).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain

Number = Fraction | int
Row = tuple[Number, ...]
Matrix = tuple[Row, ...]


def rationals(*values: str | int) -> tuple[Fraction, ...]:
    """Exact fractions of "2/9", "0.161", "-.848e-2" or whole numbers, as a source prints them."""
    return tuple(Fraction(value) for value in values)


def matrix(text: str) -> Matrix:
    """Rows of numbers as `rationals` reads them, parted by white space; each row ends with `;`."""
    return tuple(rationals(*row.split()) for row in text.split(";")[:-1])


def difference(left: Sequence[Number], right: Sequence[Number]) -> tuple[Fraction, ...]:
    """Left minus right, entry by entry: the error row b - b_hat of two rows of weights."""
    return tuple(Fraction(x) - y for x, y in zip(left, right, strict=True))


CENTRE = Fraction(1, 2)
"""Where interpolants are expanded to be evaluated."""


def centred(row: Sequence[Number]) -> tuple[Fraction, ...]:
    """Of theta sum_m w_m (theta - CENTRE)^m the w, from the coefficients of theta, theta^2, ..."""
    zero, found = Fraction(0), list[Fraction]()
    for coefficient in reversed(row):  # Horner's scheme: times theta, plus the next one
        shifted = [zero, *found]
        found = [x + y * CENTRE for x, y in zip(shifted, [*found, zero], strict=True)]
        found[0] += coefficient
    return tuple(found)


def hermite(b: Sequence[Number]) -> Matrix:
    """The cubic through y, k_1, y1 and f(t1, y1), where that slope is the last stage.

    It is of order 3, or of that of y1 if this is less. Its derivative is continuous over steps.
    """
    bubble = [[0, 3 * x, -2 * x] for x in b]
    for row, slope in ((0, (1, -2, 1)), (-1, (0, -1, 1))):
        bubble[row] = [x + y for x, y in zip(bubble[row], slope, strict=True)]
    return tuple(map(tuple, bubble))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tableau:
    """Coefficients of an explicit Runge-Kutta method of s main stages and e extra ones.

    Attributes:
        name: name of the solver class, for example "Tsit5".
        order: order of y1 (local error O(h^(order + 1))).
        reference: author, year, and where in the source the coefficients stand.
        a: s rows; row i has i entries, for the stages before it.
        b: s weights of the solution.
        c: s nodes, all in [0, 1].
        interpolant: s + e rows; entry `[j][m]` is the coefficient of theta**(m + 1) in b_j(theta),
            where y(t + theta h) = y + h sum_j b_j(theta) k_j.
        dense_order: order of the interpolant, uniform over theta.
        error: rows b - b_hat of s entries each: none (no error estimate), one, or the two of
            DOP853 (fifth-order row first, third-order row second).
        error_order: the step size goes with (1 / error ratio)**(1 / (error_order + 1)): the
            order to which b_hat agrees with b, or with two rows that of their combination. None
            without an error row.
        extra_a: e further rows, of s, s + 1, ... entries, for stages that only the interpolant
            needs.
        extra_c: e further nodes.
        digits: decimal places to which the source's decimals satisfy their identities; None
            when every coefficient is an exact rational.

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
    error: Matrix = ()
    error_order: int | None = None
    extra_a: Matrix = ()
    extra_c: Row = ()
    digits: int | None = None

    def __post_init__(self) -> None:
        self._check_orders()
        self._check_numbers()
        self._check_shapes()
        self._check_sums()
        self._check_interpolant()

    @property
    def stages(self) -> int:
        """Number of main stages, s."""
        return len(self.b)

    @property
    def fsal(self) -> bool:
        """First same as last: the last stage is f(t1, y1), which the next step starts with."""
        return self.c[-1] == 1 and (*self.a[-1], 0) == self.b

    @property
    def needed(self) -> int:
        """Number of stages that y1 takes. Others serve the error estimate, or the next step."""
        last_weight = max(j for j, weight in enumerate(self.b) if weight)
        return self.stages - 1 if self.fsal else last_weight + 1

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its own error."""
        return bool(self.error)

    @property
    def evaluations_per_step(self) -> int:
        """Evaluations of the field in an accepted step, the first step and extra stages apart."""
        return self.stages - 1 if self.fsal else self.stages

    @property
    def tolerance(self) -> Fraction:
        """How far an identity may be off: 0 for exact rationals, else 10**-digits."""
        return Fraction(0) if self.digits is None else Fraction(1, 10**self.digits)

    def _require(self, holds: bool, check: str) -> None:
        if not holds:
            raise ValueError(f"tableau {self.name!r}: {check}")

    def _require_near(self, value: Number, target: Number, what: str) -> None:
        excess = Fraction(value) - target
        self._require(
            abs(excess) <= self.tolerance,
            f"{what} is {float(value)!r}, not {float(target)!r} (off by {float(excess):.3g})",
        )

    def _check_orders(self) -> None:
        self._require(self.name.isidentifier(), "name must be an identifier, as of a class")
        self._require(self.order >= 1, f"order must be at least 1, not {self.order}")
        self._require(
            1 <= self.dense_order <= self.order,
            f"dense_order must lie between 1 and the order {self.order}, not {self.dense_order}",
        )
        self._require(
            (self.error_order is not None) == self.adaptive,
            "error and error_order must be given together",
        )
        self._require(
            self.error_order is None or 1 <= self.error_order <= self.order,
            f"error_order must lie between 1 and the order {self.order}, not {self.error_order}",
        )
        self._require(
            self.digits is None or self.digits >= 1, f"digits must be positive, not {self.digits}"
        )

    def _check_numbers(self) -> None:
        rows = chain(self.a, self.extra_a, self.error, self.interpolant)
        values: Iterable[object] = chain(self.b, self.c, self.extra_c, *rows)
        for value in values:
            # A float would lose the digits of its source without a word, and bool is an int.
            exact = isinstance(value, (Fraction, int)) and not isinstance(value, bool)
            self._require(exact, f"coefficient {value!r} must be a Fraction or an int")

    def _check_shapes(self) -> None:
        s, e = len(self.b), len(self.extra_a)
        self._require(s >= 1, "b must have at least one entry")
        self._require(len(self.c) == s, f"c must have {s} entries, as b has, not {len(self.c)}")
        self._require(len(self.a) == s, f"a must have {s} rows, as b has, not {len(self.a)}")
        self._require(
            len(self.extra_c) == e,
            f"extra_c must have {e} entries, as extra_a has rows, not {len(self.extra_c)}",
        )
        for i, row in enumerate((*self.a, *self.extra_a)):
            where = f"row {i} of a" if i < s else f"row {i - s} of extra_a"
            self._require(len(row) == i, f"{where} must have {i} entries, not {len(row)}")
        self._require(len(self.error) <= 2, f"error has {len(self.error)} rows, but 2 at most")
        for i, row in enumerate(self.error):
            self._require(len(row) == s, f"row {i} of error must have {s} entries, not {len(row)}")
        self._require(
            len(self.interpolant) == s + e,
            f"interpolant must have {s + e} rows, one a stage, not {len(self.interpolant)}",
        )
        powers = len(self.interpolant[0])
        self._require(
            powers >= self.dense_order,
            f"interpolant of order {self.dense_order} must reach that power of theta",
        )
        for j, row in enumerate(self.interpolant):
            self._require(
                len(row) == powers,
                f"row {j} of interpolant must have {powers} entries, not {len(row)}",
            )

    def _check_sums(self) -> None:
        nodes = (*self.c, *self.extra_c)
        for i, (row, c) in enumerate(zip((*self.a, *self.extra_a), nodes, strict=True)):
            self._require_near(sum(row), c, f"sum of the row of stage {i} (0-based)")
            # The field may be undefined outside of the step, so no stage looks there.
            self._require(0 <= c <= 1, f"node {i}, {float(c)!r}, must lie in [0, 1]")
        self._require_near(sum(self.b), 1, "sum of b")
        for i, row in enumerate(self.error):
            self._require(any(row), f"row {i} of error is zero, which estimates nothing")
            self._require_near(sum(row), 0, f"sum of row {i} of error")

    def _check_interpolant(self) -> None:
        # b_j(0) = 0 needs no check, for there is no constant term.
        weights = (*self.b, *(0 for _ in self.extra_a))
        for j, (row, b) in enumerate(zip(self.interpolant, weights, strict=True)):
            self._require_near(sum(row), b, f"interpolant weight b_{j}(1)")
        for m, column in enumerate(zip(*self.interpolant, strict=True)):
            # The condition of order 1, sum_j b_j(theta) = theta, power by power.
            target = 1 if m == 0 else 0
            self._require_near(sum(column), target, f"sum of interpolant column {m}")
