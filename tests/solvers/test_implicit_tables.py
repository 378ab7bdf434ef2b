"""Implicit tables: order conditions, simplifying assumptions, stability functions, invariants.

Roots are kept to sixty decimal places, so identities hold to fifty, and one wrong digit shows.
"""

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from numpy.polynomial import Polynomial, legendre

from isocline.solvers.implicit import ImplicitTableau
from isocline.solvers.implicit.tables import IMPLICIT_TABLEAUS

from .rooted_trees import ElementaryWeights

TABLES = list(IMPLICIT_TABLEAUS.values())
BY_NAME = {table.name: table for table in TABLES}
EVERY = pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)

EXACT = Fraction(1, 10**50)
CLEARLY = Fraction(1, 10**4)

GAUSS = {1: "ImplicitMidpoint", 2: "GaussLegendre4", 3: "GaussLegendre6"}
RADAU = {1: "ImplicitEuler", 2: "RadauIIA3", 3: "RadauIIA5"}
DAMPING = ["ImplicitEuler", "RadauIIA3", "RadauIIA5", "SDIRK2", "TRBDF2"]


def named(names: dict[int, str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("stages", "name"), names.items(), ids=names.values())


def defect(table: ImplicitTableau) -> Fraction:
    """How far a table is from fulfilling all conditions of its order."""
    weights = ElementaryWeights(table.a)
    return max(weights.defect(table.b, nodes) for nodes in range(1, table.order + 1))


# --- orders ----------------------------------------------------------------------------------


@EVERY
def test_the_solution_is_of_the_declared_order_and_no_better(table: ImplicitTableau) -> None:
    assert defect(table) < EXACT
    assert ElementaryWeights(table.a).defect(table.b, table.order + 1) > CLEARLY


@EVERY
def test_the_interpolant_is_of_the_declared_order_and_no_better(table: ImplicitTableau) -> None:
    weights = ElementaryWeights(table.a)
    for nodes in range(1, table.dense_order + 1):
        assert weights.dense_defect(table.interpolant, nodes) < EXACT
    assert weights.dense_defect(table.interpolant, table.dense_order + 1) > CLEARLY


@named({**GAUSS, **{-s: name for s, name in RADAU.items()}, 20: "Trapezoid"})
def test_collocation_methods_integrate_polynomials_up_to_every_node(stages: int, name: str) -> None:
    """B(p) and C(s) (Hairer and Wanner 1996, IV.5): quadrature on [0, 1] and on each [0, c_i]."""
    table = BY_NAME[name]
    for k in range(1, table.order + 1):
        total = sum(b * c ** (k - 1) for b, c in zip(table.b, table.c, strict=True))
        assert abs(total - Fraction(1, k)) < EXACT
    for k, (row, node) in product(range(1, table.stages + 1), zip(table.a, table.c, strict=True)):
        total = sum(x * c ** (k - 1) for x, c in zip(row, table.c, strict=True))
        assert abs(total - node**k / Fraction(k)) < EXACT


@EVERY
def test_one_wrong_digit_never_passes(table: ImplicitTableau) -> None:
    """In the twelfth decimal, of each coefficient in turn, even where the sums are made to fit."""
    slip = Fraction(1, 10**12)

    def fails(a: list[list[Fraction]], b: list[Fraction], c: list[Fraction]) -> bool:
        rows = tuple(map(tuple, a))
        try:
            wrong = dataclasses.replace(table, a=rows, b=tuple(b), c=tuple(c))
        except ValueError:
            return True
        return defect(wrong) > EXACT

    def copied() -> tuple[list[list[Fraction]], list[Fraction], list[Fraction]]:
        exact = [[Fraction(x) for x in row] for row in (*table.a, table.b, table.c)]
        return exact[:-2], exact[-2], exact[-1]

    for i, j in product(range(table.stages), repeat=2):
        a, b, c = copied()
        a[i][j] += slip
        assert fails(a, b, c)
        a, b, c = copied()
        a[i][j] += slip
        c[i] += slip
        weights = ElementaryWeights(a)
        # A method of order one or two has room for another node or two; of no other.
        if table.order > 2:
            assert max(weights.defect(b, n) for n in range(1, table.order + 1)) > Fraction(
                1, 10**20
            )
    for j in range(table.stages):
        for which in (1, 2):
            parts = copied()
            parts[which][j] += slip
            assert fails(*parts)


# --- where the coefficients come from --------------------------------------------------------


@named(GAUSS)
def test_gauss_nodes_are_the_roots_of_the_legendre_polynomial(stages: int, name: str) -> None:
    x, w = legendre.leggauss(stages)
    table = BY_NAME[name]
    np.testing.assert_allclose([float(c) for c in table.c], (x + 1) / 2, rtol=0, atol=1e-15)
    np.testing.assert_allclose([float(b) for b in table.b], w / 2, rtol=0, atol=1e-15)


@named(RADAU)
def test_radau_nodes_are_the_roots_of_the_derived_polynomial(stages: int, name: str) -> None:
    """The (s - 1)-th derivative of x^(s - 1) (x - 1)^s (Hairer and Wanner 1996, IV.5)."""
    polynomial = Polynomial([0, 1]) ** (stages - 1) * Polynomial([-1, 1]) ** stages
    roots = np.sort(polynomial.deriv(stages - 1).roots().real)
    np.testing.assert_allclose([float(c) for c in BY_NAME[name].c], roots, rtol=0, atol=1e-12)


@named(GAUSS)
def test_gauss_methods_keep_quadratic_invariants(stages: int, name: str) -> None:
    """b_i a_ij + b_j a_ji = b_i b_j (Cooper 1987): symplectic."""
    table = BY_NAME[name]
    a, b = table.a, table.b
    for i, j in product(range(stages), repeat=2):
        assert abs(b[i] * a[i][j] + b[j] * a[j][i] - b[i] * b[j]) < EXACT


# --- stability -------------------------------------------------------------------------------


def stability(table: ImplicitTableau) -> Callable[[complex], complex]:
    """R(z) = 1 + z b^T (I - z A)^-1 1: what one step makes of y' = z y."""
    a = np.array([[float(x) for x in row] for row in table.a])
    b = np.array([float(x) for x in table.b])
    ones = np.ones(len(b))

    def function(z: complex) -> complex:
        return complex(1 + z * b @ np.linalg.solve(np.eye(len(b)) - z * a, ones))

    return function


def pade(numerator: int, denominator: int, z: complex) -> complex:
    """The Pade approximation to exp(z) (Hairer and Wanner 1996, theorem IV.3.11)."""

    def part(k: int, j: int, x: complex) -> complex:
        total, term = 1.0 + 0j, 1.0 + 0j
        for i in range(1, k + 1):
            term *= x * (k - i + 1) / ((j + k - i + 1) * i)
            total += term
        return total

    return part(numerator, denominator, z) / part(denominator, numerator, -z)


POINTS = [0.3, -2.0, 1j, -0.5 + 4j, -30.0 + 2j, 0.7 - 0.2j]


@named(GAUSS)
def test_gauss_methods_step_by_the_diagonal_pade_approximation(stages: int, name: str) -> None:
    function = stability(BY_NAME[name])
    for z in POINTS:
        assert function(z) == pytest.approx(pade(stages, stages, z), rel=1e-12)


@named(RADAU)
def test_radau_methods_step_by_the_first_subdiagonal(stages: int, name: str) -> None:
    function = stability(BY_NAME[name])
    for z in POINTS:
        assert function(z) == pytest.approx(pade(stages - 1, stages, z), rel=1e-12)


@EVERY
def test_no_method_amplifies_in_the_left_half_plane(table: ImplicitTableau) -> None:
    function = stability(table)
    sizes = np.geomspace(1e-3, 1e6, 40)
    angles = np.linspace(np.pi / 2, np.pi, 13)
    assert max(abs(function(r * np.exp(1j * a))) for r in sizes for a in angles) <= 1 + 1e-9


@EVERY
def test_those_that_damp_do_so_at_infinity_and_the_others_do_not(table: ImplicitTableau) -> None:
    size = abs(stability(table)(-1e9))
    if table.name in DAMPING:
        assert size < 1e-7
    else:
        assert size == pytest.approx(1, abs=1e-6)


# --- tables that are none --------------------------------------------------------------------

HALF = Fraction(1, 2)
GOOD = {
    "name": "Some",
    "order": 2,
    "reference": "none",
    "a": ((HALF,),),
    "b": (1,),
    "c": (HALF,),
    "interpolant": ((1,),),
    "dense_order": 1,
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "no name"}, "identifier"),
        ({"dense_order": 3}, "dense_order must lie"),
        ({"dense_order": 2}, "must reach that power"),
        ({"a": ((HALF, 0),)}, "row 0 of a must have 1 entries"),
        ({"a": ((HALF,), (HALF,))}, "a must have 1 rows"),
        ({"c": (HALF, 1)}, "c must have 1 entries"),
        ({"a": ((0.5,),)}, "must be a Fraction or an int"),
        ({"b": (True,)}, "must be a Fraction or an int"),
        ({"b": (2,)}, "sum of b"),
        ({"c": (1,)}, "sum of row 0 of a"),
        ({"a": ((2,),), "c": (2,)}, r"must lie in \[0, 1\]"),
        ({"interpolant": ((HALF,),)}, r"interpolant weight b_0\(1\)"),
        ({"interpolant": ((2, -1),)}, "sum of interpolant column 0"),
        (
            {
                "a": ((HALF, 0), (HALF, 0)),
                "b": (HALF, HALF),
                "c": (HALF, HALF),
                "interpolant": ((HALF,), (HALF,)),
            },
            "explicit must be the first",
        ),
    ],
)
def test_a_table_checks_itself(wrong: dict[str, object], message: str) -> None:
    ImplicitTableau(**GOOD)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        ImplicitTableau(**{**GOOD, **wrong})  # type: ignore[arg-type]


@EVERY
def test_blocks_are_as_small_as_the_table_allows(table: ImplicitTableau) -> None:
    """Each stage depends on its own block and those before, and on all of its own if coupled."""
    covered = [i for block in table.blocks for i in range(block.start, block.stop)]
    assert covered == list(range(table.stages))
    for block in table.blocks:
        own = range(block.start, block.stop)
        assert not any(table.a[i][j] for i in own for j in range(block.stop, table.stages))
        assert block.explicit == (len(own) == 1 and table.a[block.start][block.start] == 0)
        if len(own) > 1:
            assert all(table.a[i][j] for i in own for j in own)
