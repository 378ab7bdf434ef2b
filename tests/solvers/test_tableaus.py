"""Every tableau has the orders that it declares, and no digit of it can change unnoticed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from isocline.solvers.tableau import Matrix, Number, Row, Tableau, difference, rationals
from isocline.solvers.tableaus import TABLEAUS
from isocline.solvers.tableaus.dop853 import _D, DOP853, expand
from isocline.solvers.tableaus.tsit5 import TSIT5

from .rooted_trees import (
    ElementaryWeights,
    density,
    float_phi,
    float_targets,
    size,
    trees,
    trees_up_to,
)

EVERY = pytest.mark.parametrize("table", TABLEAUS.values(), ids=TABLEAUS.keys())
ADAPTIVE = [table for table in TABLEAUS.values() if table.adaptive]
# A method of order p misses some condition of order p + 1 by far more than its decimals leave open:
# by 2.7e-5 at the least (DOP853).
CLEARLY = Fraction(1, 10**6)
ROWS = ("a", "b", "c", "error", "extra_a", "extra_c", "interpolant")


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


# --- orders ----------------------------------------------------------------------------------


@EVERY
def test_order_is_the_declared_one(table: Tableau) -> None:
    weights = ElementaryWeights(table.a)
    for nodes in range(1, table.order + 1):
        assert weights.defect(table.b, nodes) <= table.tolerance, f"trees of {nodes} nodes"
    assert weights.defect(table.b, table.order + 1) > CLEARLY


@EVERY
def test_interpolant_order_is_the_declared_one(table: Tableau) -> None:
    weights = ElementaryWeights((*table.a, *table.extra_a))
    for nodes in range(1, table.dense_order + 1):
        defect = weights.dense_defect(table.interpolant, nodes)
        assert defect <= table.tolerance, f"trees of {nodes} nodes"
    # Uniformly in theta none of them is better than it says, even where y1 itself is.
    assert weights.dense_defect(table.interpolant, table.dense_order + 1) > CLEARLY


@pytest.mark.parametrize("table", ADAPTIVE, ids=lambda table: table.name)
def test_embedded_orders(table: Tableau) -> None:
    weights = ElementaryWeights(table.a)
    found = [embedded_order(weights, table, row) for row in table.error]
    assert table.error_order is not None
    if len(found) == 1:
        assert found == [table.error_order]
        return
    # DOP853: err5 = O(h^6) and err3 = O(h^4) combine to err5^2 / sqrt(err5^2 + 0.01 err3^2), which
    # goes as err5^2 / err3 = O(h^8).
    assert found == [5, 3]
    assert table.error_order + 1 == 2 * (found[0] + 1) - (found[1] + 1)


def embedded_order(weights: ElementaryWeights, table: Tableau, error: Row) -> int:
    """The order of b - error: the last before the conditions are clearly missed."""
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
    low = {"euler", "heun", "midpoint", "ralston", "bosh3", "rk4"}
    assert low | {"dopri5", "tsit5", "dop853"} <= set(TABLEAUS)
    assert all(key == table.name.lower() for key, table in TABLEAUS.items())
    assert all(table.reference for table in TABLEAUS.values())


@pytest.mark.parametrize(
    ("name", "stages", "fsal", "adaptive", "evaluations"),
    [
        ("euler", 1, False, False, 1),
        ("heun", 2, False, False, 2),
        ("midpoint", 2, False, False, 2),
        ("ralston", 2, False, False, 2),
        ("bosh3", 4, True, True, 3),
        ("rk4", 4, False, False, 4),
        ("dopri5", 7, True, True, 6),
        ("tsit5", 7, True, True, 6),
        ("dop853", 12, False, True, 12),
    ],
)
def test_derived_properties(
    name: str, stages: int, fsal: bool, adaptive: bool, evaluations: int
) -> None:
    table = TABLEAUS[name]
    assert table.stages == stages
    assert table.fsal is fsal
    assert table.adaptive is adaptive
    assert table.evaluations_per_step == evaluations


def test_first_extra_stage_of_dop853_is_the_derivative_at_the_end() -> None:
    assert DOP853.extra_a[0] == DOP853.b
    assert DOP853.extra_c[0] == 1
    assert [len(row) for row in DOP853.extra_a] == [12, 13, 14, 15]


@pytest.mark.parametrize("name", ["bosh3", "dopri5", "tsit5", "dop853"])
def test_interpolant_has_continuous_derivative(name: str) -> None:
    # y'(theta = 0) = k_1 and y'(theta = 1) = f(t1, y1), the last stage or the first extra one.
    table = TABLEAUS[name]
    at_end = table.stages if table.extra_a else table.stages - 1
    for j, row in enumerate(table.interpolant):
        assert row[0] == int(j == 0)
        slope = sum((m + 1) * x for m, x in enumerate(row))
        assert abs(Fraction(slope) - int(j == at_end)) <= 10 * table.tolerance


# --- the sources -----------------------------------------------------------------------------


def dense(rows: Matrix, width: int = 0) -> NDArray[np.float64]:
    """A matrix as floats, its rows filled with zeros up to that width."""
    return np.array([[*map(float, row), *[0.0] * (width - len(row))] for row in rows])


@pytest.mark.parametrize(
    ("name", "scipy_name"), [("bosh3", "RK23"), ("dopri5", "RK45"), ("dop853", "DOP853")]
)
def test_coefficients_are_those_of_scipy(name: str, scipy_name: str) -> None:
    table = TABLEAUS[name]
    peer: Any = getattr(pytest.importorskip("scipy.integrate._ivp.rk"), scipy_name)
    s = peer.n_stages  # SciPy leaves the last stage, f(t1, y1), out of A, B and C
    assert (table.order, table.error_order) == (peer.order, peer.error_estimator_order)
    np.testing.assert_array_equal(dense(table.a[:s], s)[:, : peer.A.shape[1]], peer.A)
    np.testing.assert_array_equal(np.array(table.b[:s], float), peer.B)
    np.testing.assert_array_equal(np.array(table.c[:s], float), peer.C)
    errors = dense(table.error, s + 1)
    if name == "dop853":
        np.testing.assert_array_equal(dense(table.extra_a[1:], 16), peer.A_EXTRA)
        np.testing.assert_array_equal(np.array(table.extra_c[1:], float), peer.C_EXTRA)
        np.testing.assert_allclose(errors, [peer.E5, peer.E3], rtol=0, atol=1e-15)
    else:
        np.testing.assert_allclose(errors, [-peer.E], rtol=0, atol=1e-17)  # its E is b_hat - b
        np.testing.assert_allclose(dense(table.interpolant), peer.P, rtol=1e-15)


def test_dop853_interpolates_as_scipy_does() -> None:
    rk = pytest.importorskip("scipy.integrate._ivp.rk")
    k = np.linspace(-1.0, 2.0, 16) ** 3
    h, y = 0.25, 1.5
    weights = dense(DOP853.interpolant)
    ours = [y + h * weights.T @ k @ theta ** np.arange(1, 8) for theta in (0.0, 0.3, 0.9, 1.0)]
    delta = h * np.array(DOP853.b, float) @ k[:12]
    lower = [delta, h * k[0] - delta, 2 * delta - h * (k[12] + k[0])]
    nested = np.array([*lower, *(h * rk.DOP853.D @ k)])[:, None]
    output = rk.Dop853DenseOutput(0.0, h, np.array([y]), nested)
    theirs = [output(theta * h)[0] for theta in (0.0, 0.3, 0.9, 1.0)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_tsit5_is_the_published_one() -> None:
    # Order conditions leave a family open; these are the members that the paper names, and its
    # interpolant as OrdinaryDiffEq.jl prints it.
    assert TSIT5.c[1:4] == rationals("0.161", "0.327", "0.9")
    assert TSIT5.b[1] == Fraction("0.01")
    assert TSIT5.error[0][6] == Fraction("-1/66")
    published = [
        [1, -2.763706197274826, 2.9132554618219126, -1.0530884977290216],
        [0, 0.1317, -0.2234, 0.1017],
        [0, 3.9302962368947516, -5.941033872131505, 2.490627285651253],
        [0, -12.411077166933676, 30.33818863028232, -16.548102889244902],
        [0, 37.50931341651104, -88.1789048947664, 47.37952196281928],
        [0, -27.896526289197286, 65.09189467479366, -34.87065786149661],
        [0, 1.5, -4, 2.5],
    ]
    np.testing.assert_allclose(dense(TSIT5.interpolant), published, rtol=1e-15)


# --- a wrong digit ---------------------------------------------------------------------------


def places(table: Tableau) -> Iterator[tuple[str, int, int]]:
    """Where each coefficient stands: field, row (0 for a plain row), entry."""
    for field in ROWS:
        value = getattr(table, field)
        rows = (value,) if value and not isinstance(value[0], tuple) else value
        yield from ((field, i, j) for i, row in enumerate(rows) for j in range(len(row)))


def changed(table: Tableau, changes: Mapping[tuple[str, int, int], Number]) -> Tableau:
    """The table with those amounts added to those coefficients, if it lets itself be made."""
    fields: dict[str, Any] = {}
    for (field, i, j), amount in changes.items():
        value = fields.get(field, getattr(table, field))
        matrix = isinstance(value[0], tuple)
        row = list(value[i] if matrix else value)
        row[j] += amount
        fields[field] = (*value[:i], tuple(row), *value[i + 1 :]) if matrix else tuple(row)
    return replace(table, **fields)


@EVERY
def test_no_digit_can_change_unnoticed(table: Tableau) -> None:
    # Any decimal of a decimal coefficient, the first and the last one that counts among them, and
    # the numerator's last digit of a rational one.
    last = 24 if table.digits is None else table.digits - 1
    for field, i, j in places(table):
        value = getattr(table, field)
        entry = value[i][j] if isinstance(value[0], tuple) else value[j]
        amounts = [Fraction(sign, 10**place) for place in (0, 1, last) for sign in (1, -1)]
        if table.digits is None:
            amounts.append(Fraction(1, Fraction(entry).denominator))
        for amount in amounts:
            with pytest.raises(ValueError, match=f"'{table.name}'"):
                changed(table, {(field, i, j): amount})


def shifts(table: Tableau) -> Iterator[Mapping[tuple[str, int, int], Number]]:
    """Changes of several coefficients at once that keep every sum, so that no sum shows them."""
    amount = Fraction(1, 1000)
    for field, i, j in places(table):
        if j > 0 and field in ("a", "extra_a", "error"):
            yield {(field, i, j): amount, (field, i, j - 1): -amount}
        elif j > 0 and field == "b":
            moved = {(field, i, j): amount, (field, i, j - 1): -amount}
            yield moved | {
                ("interpolant", j, 0): amount,
                ("interpolant", j - 1, 0): -amount,
            }
        elif i > 0 and j > 0 and field == "interpolant":
            yield {
                (field, i, j): amount,
                (field, i - 1, j): -amount,
                (field, i, 0): -amount,
                (field, i - 1, 0): amount,
            }


@EVERY
def test_no_sum_preserving_change_goes_unnoticed(table: Tableau) -> None:
    # These pass the table's own check, so the order conditions have to see them.
    assert worst_defect(table) < 1e-11
    for change in shifts(table):
        assert worst_defect(changed(table, change)) > 1e-7, change


def test_no_digit_of_the_nested_dop853_interpolant_can_change_unnoticed() -> None:
    for i, row in enumerate(_D):
        for j, entry in enumerate(row):
            wrong = (*_D[:i], (*row[:j], entry + Fraction(1, 10**24), *row[j + 1 :]), *_D[i + 1 :])
            with pytest.raises(ValueError, match="sum of interpolant column"):
                replace(DOP853, interpolant=expand(wrong))


def worst_defect(table: Tableau) -> float:
    """Largest miss of any condition of order, embedded order and dense order, in floats."""
    total = table.stages + len(table.extra_a)
    a = dense((*table.a, *table.extra_a), total)
    phi, target = float_phi(a, table.order), float_targets(table.order)
    sizes = np.array([size(tree) for tree in trees_up_to(table.order)])
    main = phi[:, : table.stages]
    worst = [np.abs(main @ np.array(table.b, float) - target).max()]
    for row, order in zip(table.error, error_orders(table), strict=True):
        misses = main[sizes <= order] @ np.array(row, float)
        worst.append(np.abs(misses).max())
    kept = sizes <= table.dense_order
    misses = phi[kept] @ dense(table.interpolant)
    misses[np.arange(len(misses)), sizes[kept] - 1] -= target[kept]
    return float(max(*worst, np.abs(misses).max()))


def error_orders(table: Tableau) -> tuple[int, ...]:
    if len(table.error) == 2:
        return 5, 3
    return () if table.error_order is None else (table.error_order,)


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
        (lambda t: {"error": (A3 * 2,), "error_order": 4}, "error_order must lie between 1 and 3"),
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
