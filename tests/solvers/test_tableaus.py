"""Every tableau has the orders that it declares, and a table of a wrong shape is refused."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from math import factorial
from typing import Any

import pytest

from isocline.solvers.tableau import Row, Tableau, centred, difference, hermite, matrix, rationals
from isocline.solvers.tableaus import TABLEAUS

from .rooted_trees import ElementaryWeights, RoundedWeights, density, size, symmetry, trees
from .tables import ADAPTIVE, CLEARLY, EVERY, weights_of

# --- the trees -------------------------------------------------------------------------------


def test_rooted_trees_are_counted_right() -> None:
    # OEIS A000081.
    assert [len(trees(nodes)) for nodes in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]
    assert all(size(tree) == nodes for nodes in range(1, 9) for tree in trees(nodes))


def test_densities_of_bushy_and_tall_trees() -> None:
    # Known in closed form: root with n leaves, n + 1; chain of n nodes, n!.
    assert density(((), (), ())) == 4
    assert density(((((),),),)) == 24
    assert density(((), ((),))) == 8


def test_symmetries_count_what_can_change_places() -> None:
    # Sums over all trees of n nodes: of n! / (sigma gamma), (n - 1)! (increasing labellings), and
    # of n! / sigma, n^(n - 1) (Cayley).
    for nodes in range(1, 9):
        labellings = [factorial(nodes) // (symmetry(t) * density(t)) for t in trees(nodes)]
        assert sum(labellings) == factorial(nodes - 1)
        assert sum(factorial(nodes) // symmetry(t) for t in trees(nodes)) == nodes ** (nodes - 1)


@pytest.mark.parametrize("name", ["rk4", "dopri5", "bs5"])
def test_rounded_weights_are_the_exact_ones(name: str) -> None:
    table = TABLEAUS[name]
    a = (*table.a, *table.extra_a)
    exact, rounded = ElementaryWeights(a), RoundedWeights(a)
    for nodes in range(1, table.order + 2):
        one, other = exact.defect(table.b, nodes), rounded.defect(table.b, nodes)
        assert abs(one - other) < Fraction(1, 2**950)
        one = exact.dense_defect(table.interpolant, nodes)
        assert abs(one - rounded.dense_defect(table.interpolant, nodes)) < Fraction(1, 2**950)


# --- orders ----------------------------------------------------------------------------------


@EVERY
def test_order_is_the_declared_one(table: Tableau) -> None:
    weights = weights_of(table, table.a)
    for nodes in range(1, table.order + 1):
        assert weights.defect(table.b, nodes) <= table.tolerance, f"trees of {nodes} nodes"
    assert weights.defect(table.b, table.order + 1) > CLEARLY


@EVERY
def test_interpolant_order_is_the_declared_one(table: Tableau) -> None:
    weights = weights_of(table, (*table.a, *table.extra_a))
    for nodes in range(1, table.dense_order + 1):
        defect = weights.dense_defect(table.interpolant, nodes)
        assert defect <= table.tolerance, f"trees of {nodes} nodes"
    # Uniformly in theta none of them is better than it says, even where y1 itself is.
    assert weights.dense_defect(table.interpolant, table.dense_order + 1) > CLEARLY


@ADAPTIVE
def test_embedded_orders(table: Tableau) -> None:
    found = [agreement(table, row) for row in table.error]
    assert table.error_order is not None
    if len(found) == 1:
        assert found == [table.error_order]
        return
    # DOP853: err5 = O(h^6) and err3 = O(h^4) combine to err5^2 / sqrt(err5^2 + 0.01 err3^2), which
    # goes as err5^2 / err3 = O(h^8).
    assert found == [5, 3]
    assert table.error_order + 1 == 2 * (found[0] + 1) - (found[1] + 1)


def agreement(table: Tableau, error: Row) -> int:
    """Up to which order b - error agrees with b: the estimate is O(h^(that + 1))."""
    weights = weights_of(table, table.a)
    b_hat = difference(table.b, error)
    for nodes in range(1, table.order + 1):
        defect = weights.defect(b_hat, nodes)
        if defect > CLEARLY:
            return nodes - 1
        assert defect <= table.tolerance, f"trees of {nodes} nodes"
    return table.order


# --- what follows from a table ---------------------------------------------------------------


def test_tables_are_found_and_sorted() -> None:
    keys = [(table.order, table.name.lower()) for table in TABLEAUS.values()]
    assert keys == sorted(keys)
    assert len(keys) >= 22
    assert all(key == table.name.lower() for key, table in TABLEAUS.items())
    assert all(table.reference for table in TABLEAUS.values())


@pytest.mark.parametrize(
    ("name", "stages", "fsal", "adaptive", "evaluations", "extra"),
    [
        ("euler", 1, False, False, 1, 0),
        ("fehlberg2", 3, False, True, 3, 0),
        ("heun", 2, False, False, 2, 0),
        ("heuneuler", 2, False, True, 2, 0),
        ("midpoint", 2, False, False, 2, 0),
        ("ralston", 2, False, False, 2, 0),
        ("bosh3", 4, True, True, 3, 0),
        ("heun3", 3, False, False, 3, 0),
        ("rdpk3spfsal35", 6, True, True, 5, 0),
        ("ssprk432", 4, False, True, 4, 0),
        ("rk38", 4, False, False, 4, 0),
        ("rk4", 4, False, False, 4, 0),
        ("bs5", 8, True, True, 7, 3),
        ("dopri5", 7, True, True, 6, 0),
        ("dopri5shampine", 7, True, True, 6, 0),
        ("tsit5", 7, True, True, 6, 0),
        ("vern6", 9, True, True, 8, 3),
        ("vern7", 10, False, True, 10, 6),
        ("dop853", 12, False, True, 12, 4),
        ("dopri8", 13, False, True, 13, 5),
        ("vern8", 13, False, True, 13, 8),
        ("vern9", 16, False, True, 16, 10),
    ],
)
def test_derived_properties(
    name: str, stages: int, fsal: bool, adaptive: bool, evaluations: int, extra: int
) -> None:
    table = TABLEAUS[name]
    assert table.stages == stages
    assert table.fsal is fsal
    assert table.adaptive is adaptive
    assert table.evaluations_per_step == evaluations
    assert len(table.extra_a) == extra


def at_end(table: Tableau) -> int | None:
    """Which stage is f(t1, y1)."""
    if table.fsal:
        return table.stages - 1
    first = table.extra_a and table.extra_a[0] == table.b and table.extra_c[0] == 1
    return table.stages if first else None


@EVERY
def test_extra_stages_begin_with_the_derivative_at_the_end(table: Tableau) -> None:
    # What it finds serves the next step, so that it costs nothing.
    assert not table.extra_a or at_end(table) is not None


@EVERY
def test_an_interpolant_that_knows_both_slopes_has_a_continuous_derivative(table: Tableau) -> None:
    # y'(theta = 0) = k_1 and y'(theta = 1) = f(t1, y1).
    end = at_end(table)
    for j, row in enumerate(table.interpolant):
        assert row[0] == int(j == 0)
        if end is not None:
            slope = sum((m + 1) * x for m, x in enumerate(row))
            assert abs(Fraction(slope) - int(j == end)) <= 10 * table.tolerance


def test_a_polynomial_about_the_middle_is_the_same_one() -> None:
    row = rationals("1", "-3/2", "5", "-7/3")
    around = centred(row)
    for theta in rationals(0, "1/7", "1/2", 1, 3):
        direct = sum(x * theta ** (m + 1) for m, x in enumerate(row))
        assert (
            theta * sum(w * (theta - Fraction(1, 2)) ** m for m, w in enumerate(around)) == direct
        )


@EVERY
def test_about_the_middle_coefficients_are_no_larger(table: Tableau) -> None:
    # That is what they are taken there for: Vern8 goes from 1e7 to 1e5.
    around = [centred(row) for row in table.interpolant]
    sizes = [
        sum(abs(x) * Fraction(1, 2) ** m for row in around for m, x in enumerate(row)),
        sum(abs(x) for row in table.interpolant for x in row),
    ]
    assert sizes[0] <= sizes[1]
    if table.order >= 6:
        assert 40 * sizes[0] < sizes[1]


def test_hermite_is_the_cubic_of_bosh3() -> None:
    table = TABLEAUS["bosh3"]
    assert hermite(table.b) == table.interpolant


# --- a wrong shape ---------------------------------------------------------------------------

B = rationals("1/6", "1/3", "1/3", "1/6")
A3 = (1, Fraction(-1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"a": t.a[:-1]}, "a must have 4 rows"),
        (lambda t: {"a": (*t.a[:2], (0, 0, 0), t.a[3])}, "row 2 of a must have 2 entries, not 3"),
        (lambda t: {"b": t.b[:-1]}, "c must have 3 entries"),
        (lambda t: {"c": (*t.c, 1)}, "c must have 4 entries, as b has, not 5"),
        (lambda t: {"b": (), "c": (), "a": ()}, "b must have at least one entry"),
        (lambda t: {"extra_a": (t.b,)}, "extra_c must have 1 entries"),
        (lambda t: {"extra_a": ((1,),), "extra_c": (1,)}, "row 0 of extra_a must have 4 entries"),
        (lambda t: {"interpolant": t.interpolant[:-1]}, "interpolant must have 4 rows"),
        (lambda t: {"extra_a": (t.b,), "extra_c": (1,)}, "interpolant must have 5 rows"),
        (lambda t: {"interpolant": ((1,), *t.interpolant[1:])}, "must reach that power"),
        (lambda t: {"interpolant": (*t.interpolant[:3], (1,))}, "row 3 of interpolant must have"),
        (lambda t: {"error": ((1, -1),), "error_order": 3}, "row 0 of error must have 4 entries"),
        (lambda t: {"error": (A3 * 2,) * 3, "error_order": 3}, "error has 3 rows"),
        (lambda t: {"error": ((0,) * 4,), "error_order": 3}, "row 0 of error is zero"),
        (lambda t: {"error": (A3 * 2,)}, "error and error_order must be given together"),
        (lambda t: {"error_order": 3}, "error and error_order must be given together"),
        (lambda t: {"error": (A3 * 2,), "error_order": 5}, "between 1 and the order 4, not 5"),
        (lambda t: {"order": 0}, "order must be at least 1"),
        (lambda t: {"dense_order": 5}, "dense_order must lie between 1 and the order 4"),
        (lambda t: {"digits": 0}, "digits must be positive"),
        (lambda t: {"name": "RK 4"}, "name must be an identifier"),
        (lambda t: {"b": (1 / 6, *t.b[1:])}, "coefficient 0.16666666666666666 must be a Fraction"),
        (lambda t: {"c": (0, *t.c[1:3], True)}, "coefficient True must be a Fraction"),
        (lambda t: {"a": (*t.a[:3], (1, 0, 1)), "c": (*t.c[:3], 2)}, "node 3, 2.0, must lie in"),
        (lambda t: {"a": (*t.a[:3], (1, 0, 1))}, "row of stage 3 .* is 2.0, not 1.0"),
        (lambda t: {"b": (*t.b[:3], 1)}, "sum of b is"),
        (lambda t: {"error": ((0, 0, 0, 1),), "error_order": 3}, "sum of row 0 of error is 1.0"),
        # Here only sums over powers of theta are off, and below only sums over stages.
        (lambda t: {"interpolant": t.interpolant[1:] + t.interpolant[:1]}, r"b_0\(1\) is"),
        (
            lambda t: {"interpolant": (tuple(reversed(t.interpolant[0])), *t.interpolant[1:])},
            "sum of interpolant column 0",
        ),
    ],
)
def test_wrong_tables_are_refused(
    change: Callable[[Tableau], dict[str, Any]], message: str
) -> None:
    table = TABLEAUS["rk4"]
    with pytest.raises(ValueError, match=message) as caught:
        replace(table, **change(table))
    assert repr(change(table).get("name", "RK4")) in str(caught.value)


def test_rationals_are_exact() -> None:
    assert rationals("2/9", "0.161", "-.848e-2", 3) == (
        *(Fraction(2, 9), Fraction(161, 1000), Fraction(-848, 100_000), Fraction(3)),
    )
    assert difference((1, Fraction(1, 2)), (Fraction(1, 3), 1)) == rationals("2/3", "-1/2")
    assert matrix(";\n1/2;\n 0 -.5\n 3;") == ((), rationals("1/2"), rationals(0, "-1/2", 3))
