"""The schedule of checkpoints: right states, no more than the slots, and no needless steps."""

from __future__ import annotations

import functools
import weakref
from itertools import pairwise
from math import comb
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import isocline as ic
from isocline.adjoints.checkpoints import Checkpoints, backwards, recomputed, split


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


@given(count=st.integers(1, 80), slots=st.integers(1, 12))
def test_the_closed_form_is_that_of_the_dynamic_program(count: int, slots: int) -> None:
    assert recomputed(count, slots) == fewest(count, slots)


def taken_again(slots: int, count: int) -> int:
    """Steps recomputed on an actual way back over what the forward pass kept."""
    indices, states = kept_by(slots, count)
    walk = Walk()
    for _ in backwards(indices, states, slots, count, walk.advance):
        pass
    return walk.taken


def lengths_kept(slots: int, count: int) -> list[int]:
    indices, _ = kept_by(slots, count)
    return [end - start for start, end in pairwise([*indices, count])]


@functools.cache
def best_placement(slots: int, count: int) -> int:
    """The least cost of a way back if all slots could be placed freely, knowing the count.

    The first segment is reversed last, with all slots: dynamic programming over its length.
    """
    if slots == 1 or count == 1:
        return fewest(count, slots)
    return min(
        fewest(first, slots) + (best_placement(slots - 1, count - first) if first < count else 0)
        for first in range(1, count + 1)
    )


@given(count=st.integers(1, 300), slots=st.integers(1, 12))
def test_each_segment_is_reversed_at_griewanks_cost(count: int, slots: int) -> None:
    """With the slots that all segments behind it have left to it."""
    lengths = lengths_kept(slots, count)
    assert len(lengths) == min(slots, count)
    assert taken_again(slots, count) == sum(
        recomputed(length, slots - place) for place, length in enumerate(lengths)
    )


@pytest.mark.parametrize("slots", range(1, 8))
def test_online_placement_is_the_best_as_long_as_no_step_need_be_taken_twice(slots: int) -> None:
    for count in range(1, (slots + 1) * (slots + 2) // 2 + 1):
        assert taken_again(slots, count) == best_placement(slots, count)


@given(count=st.integers(1, 70), slots=st.integers(1, 6))
def test_beyond_that_it_is_little_worse_than_the_best(count: int, slots: int) -> None:
    share = {1: 0.0, 2: 0.22, 3: 0.1}.get(slots, 0.08)
    assert taken_again(slots, count) <= (1 + share) * best_placement(slots, count)


@given(count=st.integers(1, 400), slots=st.integers(1, 20))
def test_it_is_never_worse_than_from_the_start_alone(count: int, slots: int) -> None:
    assert taken_again(slots, count) <= recomputed(count, slots)


@pytest.mark.parametrize(
    ("slots", "share"), [(2, 0.22), (3, 0.1), (4, 0.08), (8, 0.04), (33, 0.04)]
)
def test_the_measured_gap_holds_over_long_solves(slots: int, share: float) -> None:
    """By the formulas, which the tests above hold against schedules that were run."""
    held, least, repeats = Checkpoints[None](slots), 0, 0
    for count in range(1, 2001):
        held.offer(None)
        while count > comb(slots + repeats + 1, slots) - 1:
            repeats += 1
        least += repeats  # of a step more, in the segment where it costs the least
        ends = [*held.indices[1:], count]
        cost = sum(
            recomputed(end - start, slots - place)
            for place, (start, end) in enumerate(zip(held.indices, ends, strict=True))
        )
        assert least <= cost <= (1 + share) * least


def test_the_least_cost_over_all_placements_has_a_closed_form() -> None:
    """One step more costs the least r for which C(s + r + 1, s) - 1 steps can be had."""
    for slots in range(1, 6):
        least = 0
        for count in range(1, 40):
            repeats = next(r for r in range(count + 1) if count <= comb(slots + r + 1, slots) - 1)
            least += repeats
            assert best_placement(slots, count) == least


@given(
    count=st.integers(1, 120),
    slots=st.integers(2, 20),
    fewer=st.integers(1, 19),
    when=st.integers(1, 60),
)
def test_slots_may_become_fewer_on_the_way(count: int, slots: int, fewer: int, when: int) -> None:
    held = Checkpoints[Tensor](slots)
    for index in range(count):
        if index == when:
            held.slots = min(slots, fewer)
        held.offer(torch.tensor(index))
        assert len(held.states) <= held.slots
    walk = Walk()
    visited = backwards(held.indices, held.states, held.slots, count, walk.advance)
    assert [(i, int(state)) for i, state in visited] == [(i, i) for i in range(count - 1, -1, -1)]


@given(length=st.integers(2, 5000), slots=st.integers(2, 40))
def test_split_stays_inside(length: int, slots: int) -> None:
    assert 1 <= split(length, slots) <= length - 1


def test_one_slot_keeps_the_start_alone() -> None:
    indices, states = kept_by(1, 50)
    assert indices == [0]
    assert len(states) == 1


@pytest.mark.parametrize("slots", [0, -3, True, False, 1.5, 2.0, float("nan"), "3", "all"])
def test_bad_slots_are_refused_by_name(slots: object) -> None:
    with pytest.raises(ic.InputError, match="slots"):
        ic.Checkpointed(slots=slots)


@pytest.mark.parametrize("name", ["graph_budget", "state_budget"])
@pytest.mark.parametrize("budget", [-1, float("nan"), "64", None, True, 1e9])
def test_bad_budgets_are_refused_by_name(name: str, budget: object) -> None:
    with pytest.raises(ic.InputError, match=name):
        ic.Checkpointed(**{name: budget})


def solved(steps: int, adjoint: ic.Checkpointed, solver: Any = "rk4") -> tuple[Any, Tensor]:
    """A solve of so many steps after its backward pass, and the gradient of the start."""
    y0 = torch.tensor([1.0, -0.4], dtype=torch.float64, requires_grad=True)
    solution = ic.solve(
        lambda t, y: -y.sin() + 0.1 * t, y0, 0.0, float(steps), solver=solver, dt0=1.0,
        controller=ic.Constant(), adjoint=adjoint,
    )  # fmt: skip
    assert solution.stats.steps_accepted == steps
    solution.ys.sum().backward()
    return solution, y0.grad


@pytest.mark.parametrize("slots", [1, 2, 3, 7])
@pytest.mark.parametrize("steps", [1, 2, 3, 9, 24, 60])
def test_a_backward_pass_evaluates_the_field_as_often_as_the_formula_says(
    slots: int, steps: int
) -> None:
    """Four times a step of rk4: once to differentiate each, and else to advance."""
    solution, _ = solved(steps, ic.Checkpointed(slots=slots))
    advances = sum(
        recomputed(length, slots - place) for place, length in enumerate(lengths_kept(slots, steps))
    )
    assert solution.stats.nfe_backward == 4 * (steps + advances)
    assert solution.stats.steps_recomputed == advances


@pytest.mark.parametrize("solver", ["rk4", ic.AdamsBashforth(3), ic.Reversible("heun")], ids=repr)
def test_gradients_are_the_same_to_the_last_bit_for_any_number_of_slots(solver: Any) -> None:
    _, want = solved(23, ic.Checkpointed(graph_budget=0), solver)
    budgets = [ic.Checkpointed(slots="auto", graph_budget=0, state_budget=b) for b in (0, 100, 999)]
    slots = (1, 2, 3, 4, 5, 8, 13, 22, 23, 24)
    for adjoint in [*(ic.Checkpointed(slots=count) for count in slots), *budgets]:
        assert torch.equal(solved(23, adjoint, solver)[1], want)


def test_nothing_is_recomputed_where_all_states_are_kept_or_found_by_going_back() -> None:
    for adjoint in (ic.Checkpointed(), ic.Checkpointed(graph_budget=0), ic.StepBack()):
        solver = ic.Reversible("heun")
        assert solved(12, adjoint, solver)[0].stats.steps_recomputed == 0


def test_steps_with_their_tangents_are_counted_too() -> None:
    """A second derivative goes back over pairs of states, by the same schedule."""
    y0 = torch.tensor([1.0, -0.4], dtype=torch.float64, requires_grad=True)
    solution = ic.solve(
        lambda t, y: -y.sin(), y0, 0.0, 9.0, solver="rk4", dt0=1.0, controller=ic.Constant(),
        adjoint=ic.Checkpointed(slots=1),
    )  # fmt: skip
    (first,) = torch.autograd.grad(solution.ys.sum(), y0, create_graph=True)
    once = solution.stats.steps_recomputed
    assert once == recomputed(9, 1)
    first.square().sum().backward()
    assert solution.stats.steps_recomputed >= 2 * once


# --- slots="auto" -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "slots"), [(0, 1), (15, 1), (16, 1), (47, 2), (48, 3), (320, 20)]
)
def test_a_budget_buys_as_many_slots_as_states_fit(budget: int, slots: int) -> None:
    """A state of two numbers takes 16 bytes."""
    adjoint = ic.Checkpointed(slots="auto", state_budget=budget, graph_budget=0)
    bought, told = (solved(24, one)[0].stats for one in (adjoint, ic.Checkpointed(slots=slots)))
    assert bought.nfe_backward == told.nfe_backward


def test_what_a_method_carries_counts() -> None:
    """`Reversible` carries a second state; the history of an Adams method grows at first."""
    for solver, states in ((ic.Reversible("heun"), 2), (ic.AdamsBashforth(3), 3)):
        adjoint = ic.Checkpointed(slots="auto", state_budget=16 * 12, graph_budget=0)
        found = solved(24, adjoint, solver)[0].stats.nfe_backward
        assert (
            found >= solved(24, ic.Checkpointed(slots=12 // states), solver)[0].stats.nfe_backward
        )
        assert found > solved(24, ic.Checkpointed(slots=12), solver)[0].stats.nfe_backward


def test_within_the_default_budgets_auto_recomputes_nothing() -> None:
    assert solved(24, ic.Checkpointed(slots="auto"))[0].stats.nfe_backward == 0
    none = ic.Checkpointed(slots="auto", graph_budget=0)
    assert solved(24, none)[0].stats.nfe_backward == 4 * 24


def test_graphs_come_first_and_the_budget_of_states_begins_behind_them() -> None:
    """Both budgets are kept: of 24 steps some keep a graph, three a state."""
    graphs = ic.Checkpointed(graph_budget=3000)
    replays = solved(24, graphs)[0].stats.nfe_backward // 4
    assert 3 < replays < 24
    both = ic.Checkpointed(slots="auto", graph_budget=3000, state_budget=48)
    advances = sum(recomputed(n, 3 - p) for p, n in enumerate(lengths_kept(3, replays)))
    assert solved(24, both)[0].stats.nfe_backward == 4 * (replays + advances)


def test_what_an_adjoint_says_that_it_keeps() -> None:
    """100 steps, states of 8 bytes, graphs of 50 bytes a step."""
    told = {
        ic.Checkpointed(): (5000, 0),
        ic.Checkpointed(graph_budget=499): (9 * 50 + 91 * 8, 50),
        ic.Checkpointed(slots=7): (56, 50),
        ic.Checkpointed(slots="auto"): (5000, 0),
        ic.Checkpointed(slots="auto", graph_budget=499, state_budget=83): (9 * 50 + 10 * 8, 50),
        ic.Checkpointed(slots="auto", graph_budget=0, state_budget=0): (8, 50),
    }
    for adjoint, kept in told.items():
        assert adjoint.keeps(100, 8, 50) == kept
