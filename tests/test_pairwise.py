"""What the quick suite runs of a product of parametrisations."""

import math
from collections import Counter
from itertools import combinations, product

import pytest

import isocline as ic

from .known import KINDS, SOLVERS, kind_of, one_of_each_kind
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


@pytest.mark.in_turn
@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("option", ["a", "b", "c"])
def test_in_turn(method: type[ic.Solver], option: str) -> None:
    assert option in "abc"


def test_every_method_has_its_turn_and_every_kind_meets_every_value(
    request: pytest.FixtureRequest,
) -> None:
    module = request.node.parent.collect()
    items = [item for item in module if item.originalname == "test_in_turn"]
    params = [item.callspec.params for item in items if is_quick(item)]
    assert len(items) == 3 * len(SOLVERS)
    assert len(params) == sum(max(3, kind) for kind in Counter(map(kind_of, SOLVERS)).values())
    assert {case["method"] for case in params} == set(SOLVERS)
    met = {(kind_of(case["method"]), case["option"]) for case in params}
    assert met == {(kind_of(method), option) for method in SOLVERS for option in "abc"}


def test_one_method_of_each_kind_is_quick() -> None:
    assert {kind_of(method) for method in SOLVERS} == {kind_of(method) for method in KINDS}
    quick = [param.values[0] for param in one_of_each_kind(SOLVERS) if not param.marks]
    assert set(quick) == set(KINDS)


def test_a_product_of_two_has_no_pairs_to_leave_out(request: pytest.FixtureRequest) -> None:
    name = "test_every_pair_is_there_and_few_others"
    item = next(item for item in request.node.parent.collect() if item.originalname == name)
    with pytest.raises(AssertionError, match="two parametrisations"):
        is_quick(item)
