"""No digit of a table can change unnoticed: its own sums, or the order conditions, see it."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from isocline.solvers.tableau import Matrix, Number, Tableau, difference
from isocline.solvers.tableaus import TABLEAUS
from isocline.solvers.tableaus.dop853 import _D, DOP853, expand
from isocline.solvers.tableaus.rdpk3sp_fsal35 import _REGISTERS, RDPK3SP_FSAL35, butcher

from .rooted_trees import float_phi, float_targets, size, trees_up_to
from .tables import EVERY, dense

ROWS = ("a", "b", "c", "error", "extra_a", "extra_c", "interpolant")
Place = tuple[str, int, int]


def places(table: Tableau) -> Iterator[Place]:
    """Where each coefficient stands: field, row (0 for a plain row), entry."""
    for field in ROWS:
        value = getattr(table, field)
        rows = (value,) if value and not isinstance(value[0], tuple) else value
        yield from ((field, i, j) for i, row in enumerate(rows) for j in range(len(row)))


def changed(table: Tableau, changes: Mapping[Place, Number]) -> Tableau:
    """The table with those amounts added to those coefficients, if it lets itself be made."""
    fields: dict[str, Any] = {}
    for (field, i, j), amount in changes.items():
        value = fields.get(field, getattr(table, field))
        matrix = isinstance(value[0], tuple)
        row = list(value[i] if matrix else value)
        row[j] += amount
        fields[field] = (*value[:i], tuple(row), *value[i + 1 :]) if matrix else tuple(row)
    return replace(table, **fields)


# --- one digit -------------------------------------------------------------------------------


@EVERY
def test_no_digit_can_change_unnoticed(table: Tableau) -> None:
    # Any decimal of a decimal coefficient, the last one that counts among them, and the numerator's
    # last digit of a rational one. A larger change shows more: sums are linear.
    last = 24 if table.digits is None else table.digits - 1
    for field, i, j in places(table):
        value = getattr(table, field)
        entry = value[i][j] if isinstance(value[0], tuple) else value[j]
        amounts = [Fraction((-1) ** j, 10**last)]
        if table.digits is None:
            amounts.append(Fraction(1, Fraction(entry).denominator))
        for amount in amounts:
            with pytest.raises(ValueError, match=f"'{table.name}'"):
                changed(table, {(field, i, j): amount})


def test_no_digit_of_the_nested_dop853_interpolant_can_change_unnoticed() -> None:
    for i, row in enumerate(_D):
        for j, entry in enumerate(row):
            wrong = (*_D[:i], (*row[:j], entry + Fraction(1, 10**24), *row[j + 1 :]), *_D[i + 1 :])
            with pytest.raises(ValueError, match="sum of interpolant column"):
                replace(DOP853, interpolant=expand(wrong))


def test_no_digit_of_the_registers_of_rdpk3sp_fsal35_can_change_unnoticed() -> None:
    for i, row in enumerate(_REGISTERS):
        for j, entry in enumerate(row):
            if i == 0 and j != 2:  # the registers are still empty
                continue
            wrong = (*row[:j], entry + Fraction(1, 10**34), *row[j + 1 :])
            rows = butcher((*_REGISTERS[:i], wrong, *_REGISTERS[i + 1 :]))
            with pytest.raises(ValueError, match="RDPK3SpFSAL35"):
                replace(RDPK3SP_FSAL35, a=rows, b=(*rows[-1], 0))


# --- several at once, with every sum as it was -----------------------------------------------


def shifts(table: Tableau) -> Iterator[Mapping[Place, Number]]:
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


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("table", TABLEAUS.values(), ids=lambda table: table.name)
def test_no_sum_preserving_change_goes_unnoticed(table: Tableau, every: int) -> None:
    """At once every fifth change of the tables with many conditions."""
    # These pass the table's own check, so the order conditions have to see them.
    rounding = worst_defect(table)  # 1e-7 for Vern6, whose rows have entries of 4000
    assert rounding < 2e-7
    for change in islice(shifts(table), 0, None, every if table.order > 6 else 1):
        assert worst_defect(changed(table, change)) > max(5e-8, 10 * rounding), change


def worst_defect(table: Tableau) -> float:
    """Largest miss of any condition of order, embedded order and dense order, in floats."""
    phi, target = phi_of((*table.a, *table.extra_a), table.order), float_targets(table.order)
    sizes = np.array([size(tree) for tree in trees_up_to(table.order)])
    main = phi[:, : table.stages]
    worst = [np.abs(main @ np.array(table.b, float) - target).max(), left_open(table)]
    for row, order in zip(table.error, error_orders(table), strict=True):
        misses = main[sizes <= order] @ np.array(row, float)
        worst.append(np.abs(misses).max())
    kept = sizes <= table.dense_order
    misses = phi[kept] @ dense(table.interpolant)
    misses[np.arange(len(misses)), sizes[kept] - 1] -= target[kept]
    return float(max(*worst, np.abs(misses).max()))


@lru_cache(maxsize=8)  # most changes leave the rows as they are
def phi_of(a: Matrix, order: int) -> NDArray[np.float64]:
    return float_phi(dense(a, len(a)), order)


def error_orders(table: Tableau) -> tuple[int, ...]:
    if len(table.error) == 2:
        return 5, 3
    return () if table.error_order is None else (table.error_order,)


def left_open(table: Tableau) -> float:
    """How far a table misses what it promises where order conditions leave a coefficient open."""
    misses: tuple[Number, ...] = ()
    if table.name == "HeunEuler":  # the companion is Euler's method
        misses = difference(difference(table.b, table.error[0]), (1, 0))
    elif table.name == "Fehlberg2":  # the companion is the step to the last stage, by 1 and 255
        row = tuple(Fraction(x, 50) for x in table.error[0])
        misses = difference(difference(table.b, row), (*table.a[2], 0))
        misses = (*misses, 255 * table.a[2][0] - table.a[2][1])
    elif table.name == "Dopri8":  # of least norm: alike for stages 11 to 13, which are alike to it
        row = table.extra_a[1]
        misses = (row[11] - row[12], row[12] - row[13])
    return float(max(map(abs, misses), default=0))
