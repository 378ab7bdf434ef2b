"""The cheaper of some ways, as it is told costs; and how long a pass takes, by a clock of ours."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import isocline as ic
from isocline.nn import CheaperWay
from isocline.nn.stopwatch import PassTimer

WAYS = ("a", "b", "c")


def work(choice: CheaperWay, costs: dict[str, float], pieces: int, kind: str = "k") -> list[str]:
    """Which ways so many pieces of work go, each of which costs what its way costs."""
    gone = []
    for _ in range(pieces):
        way, wanted = choice.ask(kind)
        gone.append(way)
        if wanted:
            choice.tell(kind, way, costs[way])
    return gone


COSTS = st.lists(st.floats(0.0, 1e6), min_size=1, max_size=3, unique=True)


@given(costs=COSTS, trials=st.integers(1, 4), again=st.integers(1, 30), pieces=st.integers(0, 400))
def test_only_trials_go_the_dearer_ways_and_they_are_ever_fewer(
    costs: list[float], trials: int, again: int, pieces: int
) -> None:
    known = dict(zip(WAYS, costs, strict=False))
    gone = work(CheaperWay(tuple(known), trials=trials, again=again), known, pieces)
    cheapest = min(known, key=lambda way: known[way])
    # Round r of trials is followed by again * 2^r further pieces.
    rounds = math.ceil(math.log2(1 + pieces / again))
    for way in known:
        if way != cheapest:
            assert gone.count(way) <= trials * rounds
    assert all(way == cheapest for way in gone[trials * len(known) :][:again])


@given(
    costs=st.lists(st.floats(0.0, 1e6), min_size=3, max_size=3, unique=True),
    spoilt=st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1e9)), min_size=3, max_size=3),
)
def test_one_wild_measurement_of_each_way_changes_nothing(
    costs: list[float], spoilt: list[tuple[int, float]]
) -> None:
    """The first pass warms things up, and other programs get in between."""
    known, choice = dict(zip(WAYS, costs, strict=True)), CheaperWay(WAYS, trials=3)
    told = dict.fromkeys(WAYS, 0)
    for _ in range(9):
        way, wanted = choice.ask("k")
        assert wanted
        place, wild = spoilt[WAYS.index(way)]
        choice.tell("k", way, wild if told[way] == place else known[way])
        told[way] += 1
    # The median lies between two right ones, whichever is wild.
    assert choice.costs() == {"k": known}
    assert choice.ask("k") == (min(known, key=lambda way: known[way]), False)


@given(again=st.integers(1, 20), before=st.integers(6, 100))
def test_costs_that_change_are_found_out(again: int, before: int) -> None:
    choice = CheaperWay(("a", "b"), again=again)
    work(choice, {"a": 1.0, "b": 2.0}, before)
    # No more than what is left of this round, and then one full round, told the new costs alone.
    later = work(choice, {"a": 3.0, "b": 2.0}, 2 * (before + again) + 12)
    assert later[-1] == "b"


@given(
    moves=st.lists(
        st.tuples(st.sampled_from(["piece", "look", "other"]), st.floats(0, 9), st.booleans()),
        max_size=80,
    )
)
def test_looking_and_other_kinds_change_nothing(moves: list[tuple[str, float, bool]]) -> None:
    """The same pieces and costs have the same answers, whatever else is asked in between."""
    asked, plain = (CheaperWay(("a", "b"), trials=2, again=3) for _ in range(2))
    for move, cost, told in moves:
        if move == "look":
            assert asked.ask("k", trial=False) == asked.ask("k", trial=False)
        elif move == "other":
            work(asked, {"a": cost, "b": 1.0}, 1, kind="other")
        else:
            answer = asked.ask("k")
            assert answer == plain.ask("k")
            for one in (asked, plain) if told and answer.wanted else ():
                one.tell("k", answer.way, cost)


def test_costs_that_are_never_told() -> None:
    """Then the first way is as good as any, apart from the trials; costs of one way say nothing."""
    choice = CheaperWay(("a", "b"), trials=2, again=5)
    ways = [choice.ask("k") for _ in range(9)]
    assert [way for way, wanted in ways if wanted] == ["a", "b", "a", "b"]
    assert {way for way, wanted in ways if not wanted} == {"a"}
    choice.tell("k", "a", 5.0)
    assert choice.ask("k", trial=False) == ("a", False)
    choice.tell("k", "b", 4.0)  # late, but told
    assert choice.ask("k", trial=False) == ("b", False)


def test_a_round_that_is_never_told_keeps_what_was_known() -> None:
    choice = CheaperWay(("a", "b"), trials=1, again=1)
    work(choice, {"a": 2.0, "b": 1.0}, 3)
    answers = [choice.ask("k") for _ in range(4)]  # two trials, and what follows
    assert [answer for answer in answers if not answer.wanted] == [("b", False), ("b", False)]
    assert choice.costs() == {"k": {"a": 2.0, "b": 1.0}}


def test_each_kind_has_its_own_answer_and_may_be_forgotten() -> None:
    choice = CheaperWay(("a", "b"))
    assert work(choice, {"a": 1.0, "b": 2.0}, 7, kind="small")[-1] == "a"
    assert work(choice, {"a": 2.0, "b": 1.0}, 7, kind="large")[-1] == "b"
    assert choice.ask("unheard of", trial=False) == ("a", False)
    assert set(choice.costs()) == {"small", "large"}
    choice.forget()
    assert choice.costs() == {}
    assert choice.ask("large").wanted


def test_an_excluded_way_is_not_tried_again() -> None:
    choice = CheaperWay(("a", "b"), again=1)
    assert [choice.ask("k").way for _ in range(2)] == ["a", "b"]
    choice.exclude("k", "b")
    choice.tell("k", "b", 0.0)  # of a trial that was under way
    assert set(work(choice, {"a": 1.0}, 20)) == {"a"}
    assert choice.ask("other") == ("a", True)
    assert choice.ask("other") == ("b", True)
    with pytest.raises(ic.InputError, match="beside which there is another"):
        choice.exclude("k", "a")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CheaperWay(()), "one name or more"),
        (lambda: CheaperWay(("a", "a")), "none of them twice"),
        (lambda: CheaperWay(WAYS, trials=0), "`trials`: given 0"),
        (lambda: CheaperWay(WAYS, again=0), "`again`: given 0"),
        (lambda: CheaperWay(WAYS).tell("k", "d", 1.0), "one of 'a', 'b', 'c'"),
        (lambda: CheaperWay(WAYS).tell("k", "a", math.nan), "`cost`: given nan"),
        (lambda: CheaperWay(WAYS).tell("k", "a", -1.0), "0 or more"),
        (lambda: CheaperWay(WAYS).exclude("k", "d"), "`way`: given 'd'"),
    ],
)
def test_what_is_wrong_is_refused(make: object, message: str) -> None:
    with pytest.raises(ic.InputError, match=message):
        make()  # type: ignore[operator]


# --- timing a pass -------------------------------------------------------------------------------


class Hours:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 0.0
        self.told: list[float] = []

    def __call__(self) -> float:
        return self.now

    def moved(self, x: torch.Tensor, forward: float, backward: float) -> torch.Tensor:
        """A layer that takes so long, one way and the other."""
        self.now += forward
        y = 2 * x
        if y.requires_grad:

            def passed(_: torch.Tensor) -> None:
                self.now += backward

            y.register_hook(passed)
        return y.view_as(y)  # where the gradient arrives before the layer goes back


def timed(clock: Hours, x: torch.Tensor) -> torch.Tensor:
    """A layer that is timed, between two that are not, and beside one on the same input."""
    around = clock.moved(x, 100.0, 100.0)
    timer = PassTimer(clock, x.device, clock.told.append)
    inner = timer.entering(around)
    with timer.forward():
        outputs = clock.moved(inner, 1.0, 10.0), clock.moved(inner, 2.0, 20.0)
    timer.leaving(outputs)
    beside = clock.moved(around, 100.0, 100.0)
    return clock.moved(outputs[0] + outputs[1], 100.0, 100.0) + beside


def test_a_pass_is_timed_forward_and_backward_without_what_is_around_it() -> None:
    clock, x = Hours(), torch.ones(3, requires_grad=True)
    y = timed(clock, x)
    assert clock.told == []
    y.sum().backward(retain_graph=True)
    assert clock.told == [33.0]
    y.sum().backward()  # once is enough
    assert clock.told == [33.0]
    assert x.grad is not None
    assert x.grad.tolist() == [2 * 20.0] * 3  # nothing about it is another gradient


def test_no_backward_pass_is_no_time() -> None:
    clock, x = Hours(), torch.ones(3, requires_grad=True)
    for _ in range(3):
        timed(clock, x)
    assert clock.told == []
