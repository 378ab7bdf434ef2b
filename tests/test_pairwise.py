"""What the quick suite runs of a product of parametrisations."""

import math
from itertools import combinations, product

import pytest

from .pairwise import chosen, is_quick

METHODS = ["a", "b", "c", "d", "e", "f", "g"]


@pytest.mark.parametrize("methods", [6, 7, 19, 41])
@pytest.mark.parametrize("sizes", [[2, 2], [3, 2], [2, 3], [2, 2, 2], [4, 2]], ids=str)
def test_every_pair_is_there_and_few_others(sizes: list[int], methods: int) -> None:
    found = [
        (main, *values)
        for main in range(methods)
        for values in product(*map(range, sizes))
        if chosen(main, sizes, list(values))
    ]
    assert len(found) == methods * max(sizes)
    axes = [methods, *sizes]
    for one, other in combinations(range(len(axes)), 2):
        assert len({(case[one], case[other]) for case in found}) == axes[one] * axes[other]


@pytest.mark.pairwise
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("value", "name"), [(math.nan, "nan"), pytest.param(1.0, "one")])
def test_a_product(method: str, grad: bool, value: float, name: str) -> None:
    assert math.isnan(value) == (name == "nan")


def test_cases_are_told_apart_as_pytest_makes_them(request: pytest.FixtureRequest) -> None:
    """By their values: pytest's own indices count cases, not the values of a parametrisation."""
    items = [
        item for item in request.node.parent.collect() if item.originalname == "test_a_product"
    ]
    params = [item.callspec.params for item in items if is_quick(item)]
    assert len(items) == 28
    assert len(params) == 14
    for option, count in (("grad", 2), ("name", 2)):
        assert len({(case["method"], case[option]) for case in params}) == 7 * count
    assert len({(case["grad"], case["name"]) for case in params}) == 4


def test_a_product_of_two_has_no_pairs_to_leave_out(request: pytest.FixtureRequest) -> None:
    name = "test_every_pair_is_there_and_few_others"
    item = next(item for item in request.node.parent.collect() if item.originalname == name)
    with pytest.raises(AssertionError, match="two parametrisations"):
        is_quick(item)
