"""How a variable-order Adams method chooses its order, and how long it tries a step again."""

import pytest
import torch

from isocline.solvers.multistep.coefficients import Shape, weights
from isocline.solvers.multistep.selection import after_failure, after_success

EXPONENT = 5
GRID = [1.0, *(-float(i) for i in range(14))]


def length(ratio: float) -> float:
    """What a controller makes of a ratio, its safety factor apart."""
    return float(ratio ** (-1 / EXPONENT))


def test_the_order_of_the_longest_step_wins() -> None:
    # At r of the tolerance a step of order k may be r^(-1 / (k + 1)) as long.
    lower = after_success(5, {5: 0.5, 4: 0.3, 6: 0.6}, EXPONENT)
    assert lower.order == 4
    assert length(lower.ratio) == pytest.approx(0.3 ** (-1 / 5))
    higher = after_success(5, {5: 0.5, 4: 0.9, 6: 0.3}, EXPONENT)
    assert higher.order == 6
    assert length(higher.ratio) == pytest.approx(0.3 ** (-1 / 7))


def test_the_order_stays_where_another_is_no_better() -> None:
    kept = after_success(5, {5: 1.0, 4: 1.0, 6: 1.0}, EXPONENT)
    assert kept == (5, 1.0)
    assert after_success(1, {1: 0.5, 2: float("nan")}, EXPONENT).order == 1


def test_a_step_grows_to_its_double_at_most() -> None:
    for ratio in (0.0, 1e-30, 1e-6):
        assert length(after_success(4, {4: ratio, 3: 1.0}, EXPONENT).ratio) == pytest.approx(2)


def test_a_step_that_failed_is_shortened_and_an_order_too_high_lowered() -> None:
    assert after_failure(6, {6: 3.0, 5: 9.0}, EXPONENT, GRID, 1).order == 6
    choice = after_failure(6, {6: 3.0, 5: 0.5}, EXPONENT, GRID, 1)
    assert choice.order == 5
    assert choice.ratio > 1
    assert after_failure(1, {1: 3.0}, EXPONENT, GRID, 1).order == 1


def test_after_three_failures_the_past_is_no_guide() -> None:
    orders = [after_failure(9, {9: 3.0, 8: 50.0}, EXPONENT, GRID, n).order for n in range(1, 5)]
    assert orders == [9, 9, 1, 1]
    assert length(after_failure(9, {9: 3.0, 8: 50.0}, EXPONENT, GRID, 3).ratio) <= 0.5


@pytest.mark.parametrize("k", range(1, 13))
@pytest.mark.parametrize("ratio", [1.5, 4.0, 40.0])
@pytest.mark.parametrize("growth", [0.8, 1.0, 1.2])
def test_a_step_tried_again_meets_its_target(k: int, ratio: float, growth: float) -> None:
    """Its nodes stay where they are: the error of a smooth solution falls as the formulas say.

    Of slopes t^k the divided difference of order k is 1 and the estimate exact.
    """
    past = [0.0]
    for i in range(k):
        past.append(past[-1] - growth**-i)

    def error(h: float) -> float:
        z = torch.tensor([1.0, *(time / h for time in past[:k])], dtype=torch.float64)
        slopes = (z * h) ** k
        return abs(h * float(weights(z, Shape(k, k, (k,)))[2] @ slopes))

    z = [1.0, *past[:k]]
    choice = after_failure(k, {k: ratio}, EXPONENT, z, 1)
    left = ratio * error(0.9 * length(choice.ratio)) / error(1.0)  # with the usual safety factor
    assert 0.3 <= left <= 1.0
