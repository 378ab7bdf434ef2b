"""The weights of Adams formulas and the tables that start them, against exact fractions."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from math import comb, prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from isocline.solvers.multistep.coefficients import Shape, interpolant, known_weights, weights
from isocline.solvers.multistep.extrapolation import extrapolation
from isocline.solvers.multistep.history import spread, step_weights, traced

from .rooted_trees import RoundedWeights

# Hairer, Norsett and Wanner (1993), tables III.1.1 and III.1.2, carried on by their recurrences
# (1.7) and (1.12): sum_i gamma_i / (m + 1 - i) is 1, and the starred sum 0 from m = 1 on.
GAMMA = "1 1/2 5/12 3/8 251/720 95/288 19087/60480 5257/17280 1070017/3628800 25713/89600"
STARRED = "1 -1/2 -1/12 -1/24 -19/720 -3/160 -863/60480 -275/24192 -33953/3628800"
ORDERS = range(1, 13)


def recurrence(right: int) -> list[Fraction]:
    """gamma_0 ... gamma_12 of the recurrence whose right side is 1 or, from m = 1 on, `right`."""
    found: list[Fraction] = []
    for m in range(13):
        known = sum((g / (m + 1 - i) for i, g in enumerate(found)), Fraction(0))
        found.append((1 if m == 0 else right) - known)
    return found


def test_the_recurrences_give_the_printed_numbers() -> None:
    for right, printed in ((1, GAMMA), (0, STARRED)):
        for value, text in zip(recurrence(right), printed.split(), strict=False):
            assert value == Fraction(text)


def from_differences(gammas: Sequence[Fraction], order: int) -> list[Fraction]:
    """Weights of f_n, f_(n-1), ... in sum_(m < order) gamma_m nabla^m f_n."""
    return [sum((-1) ** j * comb(m, j) * gammas[m] for m in range(j, order)) for j in range(order)]


def lagrange(nodes: Sequence[Fraction]) -> list[list[Fraction]]:
    """Coefficients of the polynomials that are 1 at one node and 0 at the others."""
    found = []
    for j, here in enumerate(nodes):
        row = [Fraction(1)]
        for i, other in enumerate(nodes):
            if i != j:
                shifted = zip([Fraction(0), *row], [*row, Fraction(0)], strict=True)
                row = [(low - other * high) / (here - other) for low, high in shifted]
        found.append(row)
    return found


def integrals(nodes: Sequence[Fraction]) -> list[Fraction]:
    """Weights of the formula that integrates the polynomial through slopes over [0, 1]."""
    return [sum(c / (p + 1) for p, c in enumerate(row)) for row in lagrange(nodes)]


def assert_near(found: Sequence[float], exact: Sequence[Fraction], ulps: float) -> None:
    assert len(found) == len(exact)
    for value, target in zip(found, exact, strict=True):
        assert abs(Fraction(value) - target) <= abs(target) * Fraction(ulps * 2.0**-53)


def padded(row: Sequence[Fraction], length: int) -> list[Fraction]:
    return [*row, *[Fraction(0)] * (length - len(row))]


@pytest.mark.parametrize("k", ORDERS)
def test_constant_steps_have_the_classical_weights(k: int) -> None:
    z = (1.0, *(-float(i) for i in range(k)))
    predictor, corrector = known_weights(z, Shape(k, k)).tolist()
    assert_near(predictor, [Fraction(0), *from_differences(recurrence(1), k)], 30)
    assert_near(corrector, from_differences(recurrence(0), k + 1), 300)


@st.composite
def uneven(draw: st.DrawFn, least: int = 1) -> list[float]:
    """Nodes 1, 0 > x_1 > x_2 ..., with gaps that differ by up to five decades."""
    exponents = draw(st.lists(st.floats(-2.5, 2.5), min_size=least, max_size=13))
    return [1.0, *accumulate((-(10.0**e) for e in exponents), initial=0.0)]


@given(z=uneven(), data=st.data())
@settings(max_examples=60)
def test_uneven_steps_have_the_weights_of_the_polynomial(
    z: list[float], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(z) - 1))
    corrected = data.draw(st.integers(0, k))
    exact = list(map(Fraction, z))
    rows = weights(torch.tensor(z, dtype=torch.float64), Shape(k, corrected)).tolist()
    assert_near(rows[0], padded([Fraction(0), *integrals(exact[1 : k + 1])], len(z)), 40)
    assert_near(rows[1][1:], padded(integrals(exact[: corrected + 1])[1:], len(z) - 1), 40)
    assert rows[1][0] == pytest.approx(float(integrals(exact[: corrected + 1])[0]), abs=1e-15)


@given(z=uneven(least=2), data=st.data())
@settings(max_examples=60)
def test_error_estimates_are_the_distance_to_the_next_formula(
    z: list[float], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(z) - 3)) if len(z) > 3 else 1
    m = data.draw(st.integers(1, k))
    exact = list(map(Fraction, z))
    row = weights(torch.tensor(z, dtype=torch.float64), Shape(k, k, (m,))).tolist()[2]
    lower, higher = (padded(integrals(exact[:n]), len(z)) for n in (m, m + 1))
    assert_near(row, [h - low for low, h in zip(lower, higher, strict=True)], 40)


@given(z=uneven(least=3), data=st.data())
@settings(max_examples=60)
def test_the_estimate_ahead_is_that_of_order_k_plus_one_from_the_history(
    z: list[float], data: st.DataObject
) -> None:
    """Right for slopes of degree k + 1, whose divided difference is the same everywhere."""
    k = data.draw(st.integers(1, len(z) - 3))
    row = weights(torch.tensor(z, dtype=torch.float64), Shape(k, k, (k + 1,))).tolist()[2]
    exact = list(map(Fraction, z))
    assert row[0] == 0
    assert not any(row[k + 3 :])
    # Of the slopes N_(k+1)(s) = s ... (s - x_k), whose difference over any k + 2 nodes is 1.
    slopes = [prod((s - node for node in exact[1 : k + 2]), start=Fraction(1)) for s in exact]
    formula = integrals(exact[: k + 1]), integrals(exact[: k + 2])
    lower, higher = (sum(w * f for w, f in zip(row_, slopes, strict=False)) for row_ in formula)
    found = sum(Fraction(w) * f for w, f in zip(row, slopes, strict=True))
    assert float(found / (higher - lower)) == pytest.approx(1, rel=1e-13)


@given(z=uneven(), data=st.data())
@settings(max_examples=40)
def test_the_interpolant_integrates_the_polynomial_and_meets_the_end(
    z: list[float], data: st.DataObject
) -> None:
    number = st.floats(-2, 2, allow_subnormal=False)
    slopes = data.draw(st.lists(number, min_size=len(z), max_size=len(z)))
    mean = data.draw(number)
    rows = interpolant(torch.tensor(z, dtype=torch.float64))
    polynomial = torch.tensor([*slopes, mean], dtype=torch.float64) @ rows
    powers = torch.arange(1, len(polynomial) + 1, dtype=torch.float64)
    size = max(1.0, rows.abs().sum().item())
    assert polynomial.sum().item() == pytest.approx(mean, abs=1e-15 * size)
    assert (powers * polynomial).sum().item() == pytest.approx(slopes[0], abs=1e-13 * size)
    assert polynomial[0].item() == pytest.approx(slopes[1], abs=1e-15 * size)
    # Without the part that leads to the end it is the integral of the polynomial.
    bases = lagrange(list(map(Fraction, z)))
    exact = [
        sum(Fraction(f) * row[p] for f, row in zip(slopes, bases, strict=True)) / (p + 1)
        for p in range(len(z))
    ]
    missing = mean - float(sum(exact))
    expected = torch.zeros_like(polynomial)
    expected[: len(z)] = torch.tensor([float(c) for c in exact], dtype=torch.float64)
    expected[1:3] += torch.tensor([3.0, -2.0], dtype=torch.float64) * missing
    torch.testing.assert_close(polynomial, expected, rtol=1e-9, atol=1e-14 * size)


def test_nodes_that_are_off_by_rounding_alone_have_the_weights_of_constant_steps() -> None:
    shape, h = Shape(4, 4), 0.1
    times = list(accumulate([h] * 20, initial=1e3))  # each rounded
    rows = [
        step_weights(times[i - 3 : i][::-1], times[i], times[i + 1], shape)
        / (times[i + 1] - times[i])
        for i in range(3, 20)
    ]
    exact = known_weights((1.0, 0.0, -1.0, -2.0, -3.0), shape)
    for row in rows:
        torch.testing.assert_close(row, exact, rtol=4e-16, atol=0)
    moved = step_weights([times[2] + 1e-6, times[1], times[0]], times[3], times[4], shape)
    assert not torch.allclose(moved / h, exact, rtol=1e-9, atol=0)


def test_weights_are_differentiable_in_every_time() -> None:
    shape = Shape(3, 3, (3, 2))
    times = [
        torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in (0.7, 0.5, 0.1, 0.0, -0.4)
    ]

    def found(t_next: Tensor, t: Tensor, *past: Tensor) -> Tensor:
        return step_weights(past, t, t_next, shape)

    assert torch.autograd.gradcheck(found, tuple(times))
    with torch.no_grad():
        plain = found(*times)
    assert torch.equal(found(*times).detach(), plain)
    floats = [time.item() for time in times]
    assert traced(interpolant, floats[2:], floats[1], floats[0]) is None


# --- which of the past serves ----------------------------------------------------------------


def test_constant_steps_keep_their_history() -> None:
    for h in (0.1, -0.1, 1e-3):
        times = [5.0 - i * h for i in range(1, 14)]
        assert spread(times, 5.0, 5.0 + h) == list(range(13))


def test_a_sliver_between_steps_leaves_one_of_its_two_slopes() -> None:
    assert spread([1.0 - 1e-4, 0.9, 0.8, 0.7], 1.0, 1.1) == [1, 2, 3]
    assert spread([0.9, 0.9 - 1e-4, 0.8, 0.7], 1.0, 1.1) == [0, 2, 3]


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=30), st.floats(1e-6, 10))
def test_what_serves_is_well_apart(gaps: list[float], h: float) -> None:
    """So the weights stay of the size of constant steps': at most some thousands."""
    times = [-age for age in accumulate(gaps)]
    kept = [0.0, *(times[i] for i in spread(times, 0.0, h))][:12]
    rows = step_weights(kept[1:], 0.0, h, Shape(len(kept), len(kept)))
    for newer, older in pairwise(kept):
        assert newer - older >= max(h, -older) / 32 * 0.999
    assert rows[1].abs().sum() <= 1e5 * h


# --- the tables of high order ----------------------------------------------------------------


@pytest.mark.parametrize("order", [4, 8, 10, pytest.param(12, marks=pytest.mark.slow)])
def test_extrapolation_has_its_order_and_no_more(order: int) -> None:
    table = extrapolation(order)
    found = RoundedWeights(table.a)
    assert all(found.defect(table.b, n) < 1e-200 for n in range(1, order + 1))
    assert found.defect(table.b, order + 1) > 1e-12


@pytest.mark.parametrize("order", [6, 10, pytest.param(12, marks=pytest.mark.slow)])
def test_the_interpolant_of_extrapolation_has_its_order(order: int) -> None:
    table = extrapolation(order)
    assert table.dense_order == order - 1
    found = RoundedWeights((*table.a, *table.extra_a))
    assert all(found.dense_defect(table.interpolant, n) < 1e-200 for n in range(1, order))
    assert found.dense_defect(table.interpolant, order) > 1e-12
