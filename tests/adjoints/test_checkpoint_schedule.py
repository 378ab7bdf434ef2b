"""The schedule of checkpoints: right states, no more than the slots, and no needless steps."""

from __future__ import annotations

import functools
import itertools
import weakref
from math import ceil, comb, log2

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import isocline as ic
from isocline.adjoints.checkpoints import Checkpoints, backwards, split


class Walk:
    """Counts the steps taken, and how many of its states are alive."""

    def __init__(self) -> None:
        self.taken = 0
        self.most = 0
        self._alive: weakref.WeakSet[Tensor] = weakref.WeakSet()

    def state(self, index: int) -> Tensor:
        made = torch.tensor(index)
        self._alive.add(made)
        self.most = max(self.most, len(self._alive))
        return made

    def advance(self, index: int, state: Tensor) -> Tensor:
        assert int(state) == index, f"step {index} was taken from state {int(state)}"
        self.taken += 1
        return self.state(index + 1)


def kept_by(slots: int | None, count: int) -> tuple[list[int], list[Tensor]]:
    held = Checkpoints(slots)
    for index in range(count):
        held.offer(torch.tensor(index))
        if slots is not None:
            assert len(held.states) <= slots
    assert [int(state) for state in held.states] == held.indices
    return held.indices, held.states


@functools.cache
def fewest(steps: int, slots: int) -> int:
    """Least number of advances that visit all of `steps` states in falling order.

    One state is stored already and counts among `slots`. Dynamic programming over the place of
    the next stored state (Griewank 1992): no closed form, and no schedule, is assumed.
    """
    if steps <= 1:
        return 0
    if slots == 1:
        return steps * (steps - 1) // 2
    return min(m + fewest(steps - m, slots - 1) + fewest(m, slots) for m in range(1, steps))


@given(count=st.integers(0, 70), slots=st.one_of(st.none(), st.integers(1, 12)))
def test_states_come_in_falling_order_and_are_right(count: int, slots: int | None) -> None:
    indices, states = kept_by(slots, count)
    walk = Walk()
    visited = [
        (index, int(state))
        for index, state in backwards(indices, states, slots, count, walk.advance)
    ]
    assert visited == [(i, i) for i in range(count - 1, -1, -1)]
    if slots is None:
        assert walk.taken == 0


@given(count=st.integers(1, 60), slots=st.integers(1, 10))
def test_offline_reversal_takes_the_fewest_steps(count: int, slots: int) -> None:
    walk = Walk()
    for _ in backwards([0], [torch.tensor(0)], slots, count, walk.advance):
        pass
    assert walk.taken == fewest(count, slots)


@given(count=st.integers(1, 60), slots=st.integers(1, 10))
def test_offline_reversal_holds_no_more_than_the_slots(count: int, slots: int) -> None:
    """Beyond the slots there is the one state that is under way, and its successor."""
    walk = Walk()
    for _index, _state in backwards([0], [torch.tensor(0)], slots, count, walk.advance):
        del _state
    assert walk.most <= (slots - 1) + 2


@given(slots=st.integers(1, 8), repeats=st.integers(1, 4))
def test_binomial_lengths_take_no_step_more_often_than_griewank_says(
    slots: int, repeats: int
) -> None:
    """C(s + r, s) states are reversed with s slots and no advance taken more than r times."""
    count = comb(slots + repeats, slots)
    counts: dict[int, int] = {}

    def advance(index: int, state: Tensor) -> Tensor:
        counts[index] = counts.get(index, 0) + 1
        return state + 1

    if count <= 300:
        for _ in backwards([0], [torch.tensor(0)], slots, count, advance):
            pass
        assert max(counts.values()) <= repeats


@given(count=st.integers(1, 300), slots=st.integers(1, 12))
def test_online_reversal_is_bounded(count: int, slots: int) -> None:
    """Kept states lie evenly: no gap is worse than reversed with what slots are left over."""
    indices, states = kept_by(slots, count)
    walk = Walk()
    for _ in backwards(indices, states, slots, count, walk.advance):
        pass
    assert indices[0] == 0
    gaps = {b - a for a, b in itertools.pairwise(indices)}
    assert len(gaps) <= 1
    stride = gaps.pop() if gaps else 1
    gap = max(stride, count - indices[-1])
    pieces = ceil(count / gap)
    assert walk.taken <= pieces * gap * (gap - 1) // 2
    if slots >= 2:
        assert stride <= 2 ** ceil(log2(max(1, 2 * count / slots)))


@given(length=st.integers(2, 5000), slots=st.integers(2, 40))
def test_split_stays_inside(length: int, slots: int) -> None:
    assert 1 <= split(length, slots) <= length - 1


def test_one_slot_keeps_the_start_alone() -> None:
    indices, states = kept_by(1, 50)
    assert indices == [0]
    assert len(states) == 1


@pytest.mark.parametrize("slots", [0, -3, True, False, 1.5, 2.0, float("nan"), "3"])
def test_bad_slots_are_refused_by_name(slots: object) -> None:
    with pytest.raises(ic.InputError, match="slots"):
        ic.Checkpointed(slots=slots)


@pytest.mark.parametrize("budget", [-1, float("nan"), "64", None])
def test_bad_budgets_are_refused_by_name(budget: object) -> None:
    with pytest.raises(ic.InputError, match="graph_budget"):
        ic.Checkpointed(graph_budget=budget)


@pytest.mark.parametrize("slots", [1, 2, 3, 7])
@pytest.mark.parametrize("steps", [1, 2, 3, 9, 24])
def test_the_backward_pass_takes_no_more_steps_than_the_schedule(slots: int, steps: int) -> None:
    """Evaluations of rk4: four a step, once to differentiate it and else to advance."""
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    solution = ic.solve(
        lambda t, y: -y, y0, 0.0, float(steps), solver="rk4", dt0=1.0,
        adjoint=ic.Checkpointed(slots=slots),
    )  # fmt: skip
    assert solution.stats.steps_accepted == steps
    solution.ys.sum().backward()
    indices, states = kept_by(slots, steps)
    walk = Walk()
    for _ in backwards(indices, states, slots, steps, walk.advance):
        pass
    assert solution.stats.nfe_backward == 4 * (steps + walk.taken)
