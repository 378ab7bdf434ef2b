"""Handlers: what they are given, what is made of their answer, and solves that go on for ever.

One method of each kind is tried at once, the others are slow (`one_of_each_kind`).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import isocline as ic

from ..known import ADAPTIVE, Watched, one_of_each_kind
from .known_events import (
    BOUNCE,
    G,
    affordable,
    ball,
    bounces,
    clocked,
    close,
    f64,
    fall,
    height,
    rebound,
    still,
    times_of,
)

GRAD = pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
EVERY_ADAPTIVE = pytest.mark.parametrize("method", one_of_each_kind(ADAPTIVE))


# --- resets, jumps, switches ------------------------------------------------------------------


@EVERY_ADAPTIVE
def test_a_neuron_fires_and_is_reset(method: type[ic.Solver]) -> None:
    """v' = 2 - v from 0 reaches 1 after log 2, and is set back far from the threshold."""
    event = ic.Event(lambda t, y: y[0] - 1, lambda t, y: torch.zeros_like(y))
    sol = ic.solve(lambda t, y: 2 - y, f64(0.0, 0.0), 0, 5, event=event, **affordable(method))
    exact = math.log(2) * torch.arange(1, 8)
    close(times_of(sol), exact, 1e-2)


def test_a_reset_neuron_that_fires_within_its_first_step() -> None:
    """The jump away from the threshold is no rounding: what follows at once is seen."""
    event = ic.Event(lambda t, y: y[0] - 1, lambda t, y: y - 0.01)
    sol = ic.solve(
        lambda t, y: torch.ones_like(y), f64(0.9, 0.9), 0, 0.2, solver="rk4", dt0=0.2, event=event
    )
    close(times_of(sol), 0.1 + 0.01 * torch.arange(11).double(), 1e-13)


@pytest.mark.parametrize("way", [1, -1], ids=["forward", "reverse"])
def test_a_thermostat_switches_the_field(way: int) -> None:
    """Heating from 1 to 2 at rate 1, cooling back at rate -2: switched by a state of its own."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([way * y[1], torch.zeros_like(t)])

    def to_rate(rate: float) -> Any:
        return lambda t, y: torch.stack([y[0], torch.full_like(y[1], rate)])

    events = [
        ic.Event(lambda t, y: y[0] - 2, to_rate(-2.0), direction=1),
        ic.Event(lambda t, y: y[0] - 1, to_rate(1.0), direction=-1),
    ]
    sol = ic.solve(field, f64(1.0, 1.0), 0, 5.9 * way, event=events)
    close(times_of(sol), way * f64(1.0, 1.5, 2.5, 3.0, 4.0, 4.5, 5.5), 1e-12)
    assert [one.event for one in sol.events] == [0, 1, 0, 1, 0, 1, 0]
    assert sol.ys[-1, 0].item() == pytest.approx(1.2)


def test_a_jump_across_zero_is_no_passage() -> None:
    """What a handler does is not watched; the condition is taken up where it leaves the state."""
    events = [
        ic.Event(clocked(lambda t: t - 0.5), lambda t, y: y + 5),
        ic.Event(lambda t, y: y[0] - 3, terminal=0),
    ]
    sol = ic.solve(lambda t, y: -torch.ones_like(y), f64(1.0, 1.0), 0, 4, event=events)
    assert [one.event for one in sol.events] == [0, 1]
    close(times_of(sol), [0.5, 3.0], 1e-12)


def test_a_handler_that_changes_nothing_changes_little() -> None:
    """The solve starts anew at each event, so the steps differ, but not what they solve."""
    event = ic.Event(clocked(lambda t: torch.sin(7 * t)), lambda t, y: y)
    options: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}
    plain = ic.solve(fall, f64(2.0, 1.0), 0, 3, **options)
    sol = ic.solve(fall, f64(2.0, 1.0), 0, 3, event=event, **options)
    assert len(sol.events) == 6
    torch.testing.assert_close(sol.ys, plain.ys, rtol=0, atol=1e-7)


@pytest.mark.parametrize("left", [0.0, 1e-15, -1e-15, 1e-12, -1e-12])
def test_what_a_handler_leaves_of_its_condition(left: float) -> None:
    """A rounding error of either sign is no passage to come."""
    event = ic.Event(height, lambda t, y: torch.stack([y[0] * 0 + left, -BOUNCE * y[1]]))
    sol = ic.solve(fall, f64(2.0, 0.0), 0, 6, event=event, rtol=1e-9, atol=1e-9)
    close(times_of(sol), bounces(6), 1e-8)


@pytest.mark.parametrize("options", [{}, {"solver": "rk4", "dt0": 4.0}], ids=["adaptive", "rk4"])
def test_what_a_coarse_search_leaves_of_its_condition(options: Any) -> None:
    """The ball may stick out of the floor or into it, by as much as the tolerance lets it."""
    event = ic.Event(height, lambda t, y: torch.stack([y[0], -BOUNCE * y[1]]), tolerance=0.03)
    sol = ic.solve(fall, f64(2.0, 0.0), 0, 5.5, event=event, **options)
    assert sol.status is ic.Status.SUCCESS
    close(times_of(sol), bounces(6), 0.2)


# --- several at one time ----------------------------------------------------------------------


def test_two_handlers_at_one_time() -> None:
    """In the order given, each with what the one before returned."""
    seen: list[tuple[int, float]] = []

    def note(number: int, change: Any) -> Any:
        def handler(t: Tensor, y: Tensor) -> Tensor:
            seen.append((number, y[0].item()))
            return change(y)

        return handler

    events = [
        ic.Event(clocked(lambda t: 0.3 - t), note(0, lambda y: y + 1)),
        ic.Event(clocked(lambda t: t - 0.7)),
        ic.Event(clocked(lambda t: torch.exp(t) - math.exp(0.3)), note(2, lambda y: 10 * y)),
        ic.Event(clocked(lambda t: (t - 0.3) * 1e-3), terminal=0),
    ]
    sol = ic.solve(still, f64(1.0, 1.0), 0, 1, solver="rk4", dt0=1.0, event=events)
    assert seen == [(0, 1.0), (2, 2.0)]
    assert sorted(one.event for one in sol.events[:3]) == [0, 2, 3]
    assert [one.t.item() for one in sol.events[:3]] == [sol.events[0].t.item()] * 3
    assert [one.y[0].item() for one in sol.events] == [1.0, 1.0, 1.0, 20.0]
    assert sol.events[-1].event == 1


def test_elements_that_fire_together_call_the_handler_once() -> None:
    """Two balls dropped side by side: to reverse twice would be to reverse not at all."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[:, 1], torch.full_like(y[:, 1], -G)], 1)

    def reverse(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[:, 0], torch.where(y[:, 0] < 1e-9, -BOUNCE * y[:, 1], y[:, 1])], 1)

    event = ic.Event(lambda t, y: y[:, 0], reverse, direction=-1, terminal=7)
    y0 = torch.tensor([[2.0, 0.0], [2.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    sol = ic.solve(field, y0, 0, math.inf, rtol=1e-9, atol=1e-9, event=event)
    high, low = bounces(3, 2.0), bounces(3, 1.0)
    wanted = sorted([(t, e) for t in high[:3] for e in (0, 1)] + [(t, 2) for t in low])
    found = sorted((one.t.item(), one.element) for one in sol.events)
    assert [e for _, e in found] == [e for _, e in wanted[: len(found)]]
    close([t for t, _ in found], [t for t, _ in wanted[: len(found)]], 1e-7)
    assert len(found) >= 7


# --- what it is given, and what it may return -------------------------------------------------


@GRAD
def test_a_handler_may_write_into_its_state(grad: bool) -> None:
    """It is given a copy: what is recorded of the event stays the state before."""

    def in_place(t: Tensor, y: Tensor) -> Tensor:
        y[0] = 0
        y[1] *= -BOUNCE
        return y

    event = ic.Event(height, in_place, direction=-1, terminal=5)
    speed = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    with torch.set_grad_enabled(grad):
        y0 = torch.stack([f64(2.0), speed])
        save = ic.SaveAt(steps=True)
        sol = ic.solve(fall, y0, 0, math.inf, event=event, save=save, rtol=1e-9, atol=1e-9)
        clean = ic.solve(fall, y0, 0, math.inf, event=ball(5), save=save, rtol=1e-9, atol=1e-9)
    assert torch.equal(sol.ys, clean.ys)
    assert all((one.y[1] < 0).item() for one in sol.events)
    if grad:
        found, want = (torch.autograd.grad(s.events[-1].t, speed)[0] for s in (sol, clean))
        torch.testing.assert_close(found, want)


@GRAD
def test_a_handler_may_return_one_buffer_again_and_again(grad: bool) -> None:
    buffer = torch.zeros(2, dtype=torch.float64)

    def handler(t: Tensor, y: Tensor) -> Tensor:
        buffer.copy_(rebound(t, y.detach()))
        return buffer

    k = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    event = ic.Event(height, handler, direction=-1, terminal=5)
    with torch.set_grad_enabled(grad):
        sol = ic.solve(lambda t, y: k * fall(t, y), f64(2.0, 0.0), 0, math.inf, event=event,
                       adjoint=ic.Checkpointed(graph_budget=0), rtol=1e-9, atol=1e-9)  # fmt: skip
        close(times_of(sol).detach(), bounces(5), 1e-8)
    if grad:
        # The handler hides the speed from the gradient: T = 2 v / (k g) for a given v.
        (found,) = torch.autograd.grad(sol.events[-1].t - sol.events[-2].t, k)
        flight = bounces(5)[4] - bounces(5)[3]
        torch.testing.assert_close(found, f64(-flight), rtol=1e-6, atol=0)


class Pair(NamedTuple):
    x: Tensor
    v: Tensor


@GRAD
@pytest.mark.parametrize("kind", ["dict", "ordered", "tuple", "named", "nested"])
def test_states_of_any_structure(kind: str, grad: bool) -> None:
    """Conditions and handlers see the caller's own structure, and events hold it."""
    make: Any = {
        "dict": lambda x, v: {"x": x, "v": v},
        "ordered": lambda x, v: OrderedDict(v=v, x=x),
        "tuple": lambda x, v: (x, v),
        "named": Pair,
        "nested": lambda x, v: [{"x": x}, (v,)],
    }[kind]
    take: Any = {
        "dict": lambda y: (y["x"], y["v"]),
        "ordered": lambda y: (y["x"], y["v"]),
        "tuple": lambda y: y,
        "named": lambda y: (y.x, y.v),
        "nested": lambda y: (y[0]["x"], y[1][0]),
    }[kind]

    def field(t: Tensor, y: Any) -> Any:
        return make(take(y)[1], torch.full_like(take(y)[1], -G))

    def handler(t: Tensor, y: Any) -> Any:
        return make(torch.zeros_like(take(y)[0]), -BOUNCE * take(y)[1])

    event = ic.Event(lambda t, y: take(y)[0], handler, direction=-1, terminal=4)
    h = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    with torch.set_grad_enabled(grad):
        y0 = make(h * 1, torch.zeros_like(h))
        sol = ic.solve(field, y0, 0, math.inf, event=event, rtol=1e-9, atol=1e-9)
    close(times_of(sol).detach(), bounces(4), 1e-8)
    for one in sol.events:
        assert type(one.y) is type(y0)
        x, v = take(one.y)
        assert x.shape == v.shape == (1,)
        assert v < 0
    assert take(sol.ys)[1].shape == (1, 1)
    if grad:
        (found,) = torch.autograd.grad(sol.events[-1].t, h)
        torch.testing.assert_close(found, f64(bounces(4)[-1] / 4).reshape(1), rtol=1e-8, atol=0)


def test_what_conditions_and_handlers_are_given() -> None:
    """Times of the field's dtype, states of the caller's, and all of `args`."""
    seen: set[tuple[str, torch.dtype, torch.Size, torch.dtype]] = set()

    def note(who: str, value: Any) -> Any:
        def called(t: Tensor, y: Tensor, a: Tensor, b: str) -> Any:
            assert t.ndim == 0
            assert a is given
            assert b == "b"
            seen.add((who, t.dtype, y.shape, y.dtype))
            return value(t, y)

        return called

    given = torch.ones(3)
    for dtype, time in ((torch.float32, torch.float32), (torch.float16, torch.float32)):
        seen.clear()
        event = ic.Event(note("condition", lambda t, y: t - 0.5), note("handler", lambda t, y: -y))
        field = note("field", lambda t, y: -y)
        ic.solve(field, torch.ones(2, 3, dtype=dtype), 0, 1, args=(given, "b"), event=event)
        shape = torch.Size((2, 3))
        whos = ("field", "condition", "handler")
        assert seen == {(who, time, shape, dtype) for who in whos}


def test_a_handler_s_dtype_is_cast_as_the_field_s_is() -> None:
    event = ic.Event(clocked(lambda t: t - 0.5), lambda t, y: y.float() * 2)
    sol = ic.solve(still, f64(1.0, 3.0), 0, 1, event=event)
    assert torch.equal(sol.ys, f64(2.0, 6.0)[None])


def test_modules_as_conditions_and_handlers() -> None:
    class Kick(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(2, 2, dtype=torch.float64)

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.net(y)

    kick, level = Kick(), nn.Linear(2, 1, dtype=torch.float64)

    class Level(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = level

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.net(y) + 4 * (t - 0.5)

    sol = ic.solve(lambda t, y: -y, f64(0.1, -0.1), 0, 2, event=ic.Event(Level(), kick))
    sol.ys.sum().backward()
    for parameter in (*kick.parameters(), *level.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


# --- without end ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounce", "floor"), [(0.1, 0.0), (0.1, 1.0), (0.5, 0.0), (0.5, -1e3), (0.7, 1.0)]
)
@pytest.mark.parametrize("zeroed", [True, False])
def test_a_ball_that_comes_to_rest(bounce: float, floor: float, zeroed: bool) -> None:
    """Bounces accumulate at one time: a status says so, and no ball falls through the floor."""

    def handler(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[0] * 0 + floor if zeroed else y[0], -bounce * y[1]])

    event = ic.Event(lambda t, y: y[0] - floor, handler, direction=-1)
    start = f64(floor + 2.0, 0.0)
    sol = ic.solve(fall, start, 0, 10, event=event, rtol=1e-8, atol=1e-8, throw=False)
    first = math.sqrt(4 / G)
    rest = first * (1 + 2 * bounce / (1 - bounce))
    assert sol.status is ic.Status.STEP_UNDERFLOW
    assert sol.t_end == pytest.approx(rest, abs=2e-6)
    assert len(sol.events) < 150
    with pytest.raises(ic.StepUnderflowError, match="comes to rest"):
        ic.solve(fall, start, 0, 10, event=event)


def test_the_step_limit_holds_for_all_segments_together() -> None:
    event = ic.Event(clocked(lambda t: torch.sin(10 * t)), lambda t, y: y)
    free = ic.solve(still, f64(1.0, 2.0), 0, 10, event=event, throw=False)
    total = free.stats.steps_accepted + free.stats.steps_rejected
    for limit in (1, 7, 50, total - 1, total):
        sol = ic.solve(still, f64(1.0, 2.0), 0, 10, event=event, throw=False, max_steps=limit)
        taken = sol.stats.steps_accepted + sol.stats.steps_rejected
        assert taken == limit
        assert sol.status is (ic.Status.SUCCESS if limit == total else ic.Status.MAX_STEPS)
        assert len(sol.events) <= len(free.events)
        assert sol.t_end < 10 or limit == total
    with pytest.raises(ic.MaxStepsError) as raised:
        ic.solve(still, f64(1.0, 2.0), 0, 10, event=event, max_steps=50)
    assert raised.value.solution is not None
    assert raised.value.solution.events
    assert raised.value.time == raised.value.solution.t_end


@pytest.mark.parametrize("end", [math.inf, -math.inf])
def test_an_endless_solve_without_its_event(end: float) -> None:
    event = ic.Event(lambda t, y: y[0] - 3)
    with pytest.raises(ic.MaxStepsError):
        ic.solve(
            lambda t, y: -torch.sign(t + 0.5) * y, f64(1.0, 2.0), 0, end, event=event, max_steps=300
        )


@pytest.mark.parametrize("end", [math.inf, -math.inf, torch.tensor(math.inf)])
def test_an_endless_solve_with_its_event(end: Any) -> None:
    way = math.copysign(1.0, float(end))
    event = ic.Event(lambda t, y: y[0] - 3 * way)
    sol = ic.solve(lambda t, y: torch.ones_like(y), f64(0.0, 0.0), 0, end, event=event)
    assert sol.status is ic.Status.EVENT
    assert sol.t_end == pytest.approx(3 * way, abs=1e-14)
    torch.testing.assert_close(sol.ys, f64(3.0, 3.0)[None] * way)


def test_a_failure_behind_an_event() -> None:
    """y' = y^2 from 1 / 2, doubled at t = 1 from 1 to 2, has its pole at 1.5."""
    event = ic.Event(clocked(lambda t: t - 1), lambda t, y: 2 * y)
    options: dict[str, Any] = {"event": event, "save": ic.SaveAt(ts=[0.5, 1.2, 3.0], t1=True)}
    sol = ic.solve(lambda t, y: y**2, f64(0.5, 0.5), 0, 4, throw=False, **options)
    assert sol.status in (ic.Status.STEP_UNDERFLOW, ic.Status.NON_FINITE, ic.Status.MAX_STEPS)
    assert sol.t_end == pytest.approx(1.5, abs=1e-3)
    assert sol.ts.tolist() == [0.5, 1.2]
    assert len(sol.events) == 1
    with pytest.raises(ic.SolveError) as raised:
        ic.solve(lambda t, y: y**2, f64(0.5, 0.5), 0, 4, **options)
    assert len(raised.value.solution.events) == 1


def test_a_handler_is_not_called_at_the_very_end() -> None:
    """At t1 there is nothing left to go on with."""
    calls = Watched(lambda t, y: -y)
    event = ic.Event(clocked(lambda t: t - 1.0), calls)
    sol = ic.solve(still, f64(1.0, 2.0), 0, 1.0, event=event)
    assert sol.status is ic.Status.SUCCESS
    assert len(sol.events) == 1
    assert calls.values == []
    assert torch.equal(sol.ys, f64(1.0, 2.0)[None])
